//! The table for a terminal: ruled, wrapped to its width, coloured where wanted.

use super::table::{Align, DEMO, MARK_EXPLAINED, Row, RowKind, Table};
use comfy_table::{Attribute, Cell as View, CellAlignment, Color, ColumnConstraint, ContentArrangement, LineStyle, TableStyle, Width};
use unicode_width::UnicodeWidthStr;

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
    let mut text = wrapped(&format!("{}\n", table.title), look.width, 2);
    if table.demo {
        let told = wrapped(DEMO, look.width.map(|width| width.saturating_sub(8)), 0);
        text += &format!("*** {} ***\n", loud(told.trim_end(), look.colour));
    }
    let grids: Vec<String> = blocks(table, look.width).iter().map(|columns| format!("{}\n", grid(table, columns, look))).collect();
    text += &grids.join("\n");
    if table.has_marks() {
        text += &format!("{MARK_EXPLAINED}\n");
    }
    for note in &table.footnotes {
        text += &wrapped(&format!("{note}\n"), look.width, 2);
    }
    text
}

/// Lines of prose wrapped between words to a width; what follows on is indented by so many columns. A line with a word that fits nowhere (a
/// signature, a path) stays whole, so that it can be copied.
pub fn wrapped(text: &str, width: Option<u16>, indent: usize) -> String {
    let Some(width) = width.map(usize::from) else { return text.to_owned() };
    let hanging = " ".repeat(indent);
    let options = textwrap::Options::new(width)
        .subsequent_indent(&hanging)
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
        .wrap_algorithm(textwrap::WrapAlgorithm::FirstFit);
    text.split_inclusive('\n')
        .flat_map(|line| match line.split_whitespace().any(|word| indent + word.width() > width) {
            true => vec![line.to_owned()],
            false => textwrap::wrap(line.trim_end_matches('\n'), &options).iter().map(|part| format!("{part}\n")).collect(),
        })
        .collect()
}

/// A word of text is broken only beyond so many columns.
const WORD: usize = 24;
/// Columns between two cells: where there is room, and where there is none.
const ROOMY: usize = 3;
const TIGHT: usize = 2;

/// The columns of each block: one block where the width suffices, else as many as it takes, each beginning with the columns that name the row.
/// A number is never broken: over two lines it reads as another number.
fn blocks(table: &Table, width: Option<u16>) -> Vec<Vec<usize>> {
    let least = |i: usize| TIGHT + least(table, i);
    let all: Vec<usize> = (0..table.columns.len()).collect();
    let Some(width) = width.map(usize::from).filter(|width| needed(&all, least) > *width) else { return vec![all] };
    let lead = table.lead.min(all.len());
    let mut blocks: Vec<Vec<usize>> = vec![all[..lead].to_vec()];
    for column in &all[lead..] {
        let last = blocks.last_mut().expect("there is one from the start");
        last.push(*column);
        if last.len() > lead + 1 && needed(last, least) > width {
            last.pop();
            blocks.push(all[..lead].iter().chain([column]).copied().collect());
        }
    }
    blocks
}

fn needed(columns: &[usize], of_one: impl Fn(usize) -> usize) -> usize {
    columns.iter().map(|i| of_one(*i)).sum()
}

/// Width of a column whose cells are not wrapped.
fn whole(table: &Table, i: usize) -> usize {
    texts(table, i).map(|text| text.width()).max().unwrap_or(0)
}

/// Width of a column at its narrowest: numbers are whole, text is wrapped between words.
fn least(table: &Table, i: usize) -> usize {
    match table.columns[i].align {
        Align::Right => whole(table, i),
        Align::Left => texts(table, i)
            .flat_map(|text| text.split_whitespace().map(|word| word.width().min(WORD)).collect::<Vec<_>>())
            .max()
            .unwrap_or(0),
    }
}

fn texts(table: &Table, i: usize) -> impl Iterator<Item = String> {
    table.rows.iter().map(move |row| row.cells[i].shown()).chain([table.columns[i].heading.clone()])
}

fn grid(table: &Table, columns: &[usize], look: Look) -> String {
    let mut view = comfy_table::Table::new();
    let rule = LineStyle::none().fill('─').junction('─');
    view.load_style(TableStyle::new().top_border(rule).header_separator(rule).bottom_border(rule));
    match look.colour {
        Colour::Plain => view.force_no_tty(),
        Colour::Ansi => view.force_no_tty().enforce_styling(),
    };
    let roomy = look.width.is_none_or(|width| needed(columns, |i| ROOMY + whole(table, i)) <= usize::from(width));
    match look.width {
        Some(width) => view.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
        None => view.set_content_arrangement(ContentArrangement::Disabled),
    };
    view.set_header(columns.iter().map(|i| View::new(&table.columns[*i].heading).add_attribute(Attribute::Bold)));
    for row in &table.rows {
        view.add_row(cells(row, columns));
    }
    for (at, i) in columns.iter().enumerate() {
        let align = table.columns[*i].align;
        let Some(view) = view.column_mut(at) else { continue };
        view.set_cell_alignment(match align {
            Align::Left => CellAlignment::Left,
            Align::Right => CellAlignment::Right,
        });
        view.set_constraint(match align {
            Align::Right => ColumnConstraint::ContentWidth,
            Align::Left => {
                let padding = if roomy { ROOMY } else { TIGHT } - 1;
                ColumnConstraint::LowerBoundary(Width::Fixed(u16::try_from(padding + least(table, *i)).unwrap_or(u16::MAX)))
            }
        });
        if !roomy {
            view.set_padding((1, 0));
        }
    }
    view.trim_fmt()
}

fn cells(row: &Row, columns: &[usize]) -> Vec<View> {
    let styled = |view: View| match row.kind {
        RowKind::Ours => view,
        RowKind::Published => view.fg(Color::DarkGrey),
        RowKind::Average => view.add_attribute(Attribute::Bold),
    };
    columns.iter().map(|i| styled(View::new(row.cells[*i].shown()))).collect()
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
        for width in [40, 30] {
            let narrow = render(&sample(), Look { width: Some(width), ..WIDE });
            let rows: Vec<&str> = narrow.lines().skip(2).take_while(|line| !line.starts_with('*')).collect();
            assert!(rows.iter().all(|line| line.width() <= usize::from(width)), "{narrow}");
            for part in ["0.0312*", "0.5000", "1119", "partial:", "120"] {
                assert!(narrow.contains(part), "{part}: {narrow}");
            }
        }
        assert!(render(&sample(), WIDE).lines().any(|line| line.width() > 40), "the same table is wider where there is room");
    }

    #[test]
    fn what_does_not_fit_stands_in_blocks_that_name_their_rows() {
        let narrow = render(&sample(), Look { width: Some(24), ..WIDE });
        let times = |what: &str| narrow.matches(what).count();
        assert!(times("読解 ") > 1 && times("0.0312*") == 1 && times("1119") == 1, "{narrow}");
        assert_eq!(blocks(&sample(), Some(200)), [[0, 1, 2, 3]]);
    }

    #[test]
    fn prose_wraps_between_words_and_leaves_what_is_copied_whole() {
        assert_eq!(wrapped("one two three\nfour\n", Some(8), 2), "one two\n  three\nfour\n");
        assert_eq!(wrapped("a p|t|v0|123456 b\n", Some(8), 2), "a p|t|v0|123456 b\n");
        assert_eq!(wrapped("one two three\n", None, 2), "one two three\n");
    }

    #[test]
    fn escape_sequences_only_where_wanted() {
        let ansi = render(&sample(), Look { colour: Colour::Ansi, ..WIDE });
        assert!(ansi.contains("\u{1b}[1;31mDEMO") && ansi.contains("\u{1b}[1m task"), "{ansi:?}");
        assert!(!render(&sample(), WIDE).contains('\u{1b}'));
    }
}
