//! The table for a terminal: ruled, wrapped to its width, coloured where wanted.

use super::table::{Align, DEMO, MARK_EXPLAINED, Row, RowKind, Table};
use comfy_table::{Attribute, Cell as View, CellAlignment, Color, ContentArrangement, LineStyle, TableStyle};

/// How a terminal wants its text. The caller finds out; nothing here looks at the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Columns to wrap to; `None` never wraps.
    pub width: Option<u16>,
    /// Colour and weight.
    pub colour: Colour,
}

/// Colour and weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Plain text (`NO_COLOR`, a pipe, a file).
    Plain,
    /// ANSI escape sequences.
    Ansi,
}

/// The whole text.
pub fn render(table: &Table, look: Look) -> String {
    let mut text = format!("{}\n", table.title);
    if table.demo {
        text += &format!("*** {DEMO} ***\n", DEMO = loud(DEMO, look.colour));
    }
    text += &format!("{}\n", grid(table, look));
    if table.has_marks() {
        text += &format!("{MARK_EXPLAINED}\n");
    }
    for note in &table.footnotes {
        text += &format!("{note}\n");
    }
    text
}

fn grid(table: &Table, look: Look) -> String {
    let mut view = comfy_table::Table::new();
    let rule = LineStyle::none().fill('─').junction('─');
    view.load_style(TableStyle::new().top_border(rule).header_separator(rule).bottom_border(rule));
    match look.colour {
        Colour::Plain => view.force_no_tty(),
        Colour::Ansi => view.force_no_tty().enforce_styling(),
    };
    match look.width {
        Some(width) => view.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
        None => view.set_content_arrangement(ContentArrangement::Disabled),
    };
    view.set_header(table.columns.iter().map(|column| View::new(&column.heading).add_attribute(Attribute::Bold)));
    for row in &table.rows {
        view.add_row(cells(row));
    }
    for (i, column) in table.columns.iter().enumerate() {
        let alignment = match column.align {
            Align::Left => CellAlignment::Left,
            Align::Right => CellAlignment::Right,
        };
        if let Some(view) = view.column_mut(i) {
            view.set_cell_alignment(alignment);
        }
    }
    view.trim_fmt()
}

fn cells(row: &Row) -> Vec<View> {
    let styled = |view: View| match row.kind {
        RowKind::Ours => view,
        RowKind::Published => view.fg(Color::DarkGrey),
        RowKind::Average => view.add_attribute(Attribute::Bold),
    };
    row.cells.iter().map(|cell| styled(View::new(cell.shown()))).collect()
}

fn loud(text: &str, colour: Colour) -> String {
    match colour {
        Colour::Plain => text.to_owned(),
        // Bold red, then back to normal.
        Colour::Ansi => format!("\u{1b}[1;31m{text}\u{1b}[0m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::table::tests::sample;
    use unicode_width::UnicodeWidthStr;

    const WIDE: Look = Look { width: None, colour: Colour::Plain };

    #[test]
    fn snapshot() {
        let expected = r#"suite | 日本語
*** DEMO: bundled samples answered by a toy model. These numbers measure nothing. ***
────────────────────────────────────────────────────
 task             score      n   remarks
────────────────────────────────────────────────────
 読解           0.0312*     40   partial: 40 of 120
 a|b                  –
 常識, "推論"    0.5000   1119
 Avg                  –
────────────────────────────────────────────────────
* not the protocol's number: see the remarks
a|b: no data
読解: p|t|v0
"#;
        assert_eq!(render(&sample(), WIDE), expected);
    }

    #[test]
    fn a_narrow_terminal_wraps_and_loses_nothing() {
        let narrow = grid(&sample(), Look { width: Some(40), ..WIDE });
        assert!(narrow.lines().all(|line| line.width() <= 40), "{narrow}");
        for part in ["0.0312*", "1119", "partial:", "120"] {
            assert!(narrow.contains(part), "{part}: {narrow}");
        }
        assert!(grid(&sample(), WIDE).lines().any(|line| line.width() > 40), "the same table is wider where there is room");
    }

    #[test]
    fn escape_sequences_only_where_wanted() {
        let ansi = render(&sample(), Look { colour: Colour::Ansi, ..WIDE });
        assert!(ansi.contains("\u{1b}[1;31mDEMO") && ansi.contains("\u{1b}[1m task"), "{ansi:?}");
        assert!(!render(&sample(), WIDE).contains('\u{1b}'));
    }
}
