//! The table: typed cells, so that a missing value is never a number and a writer decides nothing about content.

use std::fmt;

/// What every writer writes.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// One line above it.
    pub title: String,
    /// Whether the numbers mean nothing: every writer must say so before the first of them.
    pub demo: bool,
    /// Columns, from the left.
    pub columns: Vec<Column>,
    /// How many of them, from the left, name a row: they stand again in each part of a table that has to be cut.
    pub lead: usize,
    /// Rows, from the top; each has a cell for every column.
    pub rows: Vec<Row>,
    /// What a reader must know beside the cells.
    pub footnotes: Vec<Footnote>,
}

/// What a demo says for itself.
pub const DEMO: &str = "DEMO: bundled samples answered by a toy model. These numbers measure nothing.";

/// What a marked number means.
pub const MARK_EXPLAINED: &str = "* not the protocol's number: see the remarks";

/// Text that ends no line of the file it is written to.
pub(super) fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name for programs (CSV, JSON).
    pub key: String,
    /// Name for people.
    pub heading: String,
    /// Side its cells keep to.
    pub align: Align,
}

/// Side that cells keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What it shows.
    pub kind: RowKind,
    /// One for each column.
    pub cells: Vec<Cell>,
}

/// What a row shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// Something measured here.
    Ours,
    /// A published row.
    Published,
    /// The average over the rows above.
    Average,
}

/// A cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A number of things.
    Count(u64),
    /// A score, a difference, a width.
    Number(Number),
    /// A value belongs here and there is none.
    Missing {
        /// The reason, for the footnotes and JSON.
        why: String,
    },
    /// Nothing belongs here.
    Blank,
}

/// A number with the form it is shown in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number {
    /// In full; always finite.
    pub value: f64,
    /// Decimals shown.
    pub decimals: usize,
    /// Whether a plus is shown.
    pub sign: Sign,
    /// Whether the number is what it seems.
    pub mark: Mark,
}

/// When a sign is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Of negative numbers only.
    Minus,
    /// Always.
    Both,
}

/// Whether a number is what it seems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It is.
    None,
    /// Partial, off-protocol, with failed documents: see the remarks.
    Qualified,
}

/// A line below the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Footnote {
    /// A sentence.
    Text(String),
    /// A signature beside the number it belongs to.
    Signature {
        /// Column or row of the number.
        of: String,
        /// The signature.
        signature: String,
    },
}

impl fmt::Display for Number {
    /// As Python's `:.4f` (or `:+.4f`) prints the double: its exact decimal expansion, rounded half to even.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Number { value, decimals, sign, mark } = *self;
        match sign {
            Sign::Minus => write!(f, "{value:.decimals$}")?,
            Sign::Both => write!(f, "{value:+.decimals$}")?,
        }
        f.write_str(if mark == Mark::Qualified { "*" } else { "" })
    }
}

impl fmt::Display for Footnote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Footnote::Text(text) => f.write_str(text),
            Footnote::Signature { of, signature } => write!(f, "{of}: {signature}"),
        }
    }
}

impl Column {
    /// A column of words.
    pub fn text(key: &str, heading: &str) -> Self {
        Column { key: key.to_owned(), heading: heading.to_owned(), align: Align::Left }
    }

    /// A column of numbers.
    pub fn number(key: &str, heading: &str) -> Self {
        Column { key: key.to_owned(), heading: heading.to_owned(), align: Align::Right }
    }
}

impl Cell {
    /// Decimals of every score on the card.
    pub const DECIMALS: usize = 4;

    /// A score with four decimals. A value that is not finite is missing, and says so.
    pub fn score(value: f64, mark: Mark) -> Self {
        Cell::finite(Number { value, decimals: Cell::DECIMALS, sign: Sign::Minus, mark })
    }

    /// Ours less the published one, with its sign.
    pub fn difference(ours: f64, published: f64) -> Self {
        Cell::finite(Number { value: ours - published, decimals: Cell::DECIMALS, sign: Sign::Both, mark: Mark::None })
    }

    /// A missing value.
    pub fn missing(why: impl Into<String>) -> Self {
        Cell::Missing { why: why.into() }
    }

    fn finite(number: Number) -> Self {
        if number.value.is_finite() { Cell::Number(number) } else { Cell::missing("not a finite number") }
    }

    /// As people read it; a missing value is a dash.
    pub fn shown(&self) -> String {
        match self {
            Cell::Text(text) => text.clone(),
            Cell::Count(count) => count.to_string(),
            Cell::Number(number) => number.to_string(),
            Cell::Missing { .. } => "–".to_owned(),
            Cell::Blank => String::new(),
        }
    }
}

impl Table {
    /// Adds a sentence below the table.
    pub fn footnote(mut self, text: impl Into<String>) -> Self {
        self.footnotes.push(Footnote::Text(text.into()));
        self
    }

    /// Whether some number carries a mark, which then must be explained.
    pub fn has_marks(&self) -> bool {
        self.rows.iter().flat_map(|row| &row.cells).any(|cell| matches!(cell, Cell::Number(Number { mark: Mark::Qualified, .. })))
    }
}

/// Footnotes that say for each reason which of `items` (name and reason) it holds for, in order of first appearance.
pub(super) fn by_reason<'t>(items: impl IntoIterator<Item = (&'t str, &'t str)>) -> Vec<Footnote> {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for (name, reason) in items {
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, names)) => names.push(name),
            None => reasons.push((reason, vec![name])),
        }
    }
    reasons.into_iter().map(|(reason, names)| Footnote::Text(format!("{}: {reason}", names.join(", ")))).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn numbers_print_as_in_python() {
        // Printed by CPython 3.11: f"{v:.4f} {v:+.4f}"; 0.03125 and its like are ties.
        for (value, plain, signed) in [
            (0.125, "0.1250", "+0.1250"),
            (0.03125, "0.0312", "+0.0312"),
            (0.09375, "0.0938", "+0.0938"),
            (0.40625, "0.4062", "+0.4062"),
            (0.21875, "0.2188", "+0.2188"),
            (0.00005, "0.0001", "+0.0001"),
            (0.12345, "0.1235", "+0.1235"),
            (-0.00001, "-0.0000", "-0.0000"),
            (0.5887499999999999, "0.5887", "+0.5887"),
            (0.99995, "1.0000", "+1.0000"),
        ] {
            let number = Number { value, decimals: 4, sign: Sign::Minus, mark: Mark::None };
            assert_eq!(number.to_string(), plain);
            assert_eq!(Number { sign: Sign::Both, ..number }.to_string(), signed);
        }
    }

    #[test]
    fn what_is_not_a_number_is_missing() {
        for value in [f64::NAN, f64::INFINITY] {
            assert_eq!(Cell::score(value, Mark::None), Cell::missing("not a finite number"));
        }
        assert_eq!(Cell::difference(0.5, f64::NAN).shown(), "–");
        assert_eq!(Cell::score(0.5, Mark::Qualified).shown(), "0.5000*");
    }

    /// A table with everything a writer must cope with.
    pub(crate) fn sample() -> Table {
        let row = |kind, cells| Row { kind, cells };
        let text = |t: &str| Cell::Text(t.to_owned());
        Table {
            title: "suite | 日本語".to_owned(),
            demo: true,
            columns: vec![
                Column::text("task", "task"),
                Column::number("score", "score"),
                Column::number("n", "n"),
                Column::text("remarks", "remarks"),
            ],
            lead: 1,
            rows: vec![
                row(RowKind::Ours, vec![text("読解"), Cell::score(0.03125, Mark::Qualified), Cell::Count(40), text("partial: 40 of 120")]),
                row(RowKind::Ours, vec![text("a|b"), Cell::missing("no data"), Cell::Blank, text("")]),
                row(RowKind::Published, vec![text("常識, \"推論\""), Cell::score(0.5, Mark::None), Cell::Count(1119), text("")]),
                row(RowKind::Average, vec![text("Avg"), Cell::missing("a demo measures nothing"), Cell::Blank, text("")]),
            ],
            footnotes: vec![
                Footnote::Text("a|b: no data".to_owned()),
                Footnote::Signature { of: "読解".to_owned(), signature: "p|t|v0".to_owned() },
            ],
        }
    }
}
