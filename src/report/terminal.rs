//! The table for a terminal: ruled, wrapped to its width, coloured where wanted.

use super::table::{Align, DEMO, MARK_EXPLAINED, Row, RowKind, Table};
use comfy_table::{Attribute, Cell as View, CellAlignment, Color, ColumnConstraint, ContentArrangement, LineStyle, TableStyle};
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
    match look.width.filter(|width| fits(table, usize::from(*width))) {
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
            // A number broken over two lines reads as another number.
            if column.align == Align::Right {
                view.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
    }
    view.trim_fmt()
}

/// Whether every number fits whole beside text of some width. A table that does not fit is not wrapped at all: lines that run on are easier to
/// read than columns of single letters.
fn fits(table: &Table, width: usize) -> bool {
    const NARROW_TEXT: usize = 8;
    const BETWEEN: usize = 3;
    let widest = |i: usize| table.rows.iter().map(|row| row.cells[i].shown().width()).max().unwrap_or(0);
    let needed = table.columns.iter().enumerate().map(|(i, column)| {
        let content = widest(i).max(column.heading.width());
        BETWEEN + if column.align == Align::Right { content } else { content.min(NARROW_TEXT) }
    });
    needed.sum::<usize>() <= width
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
    fn a_table_that_cannot_fit_is_not_wrapped() {
        let look = Look { width: Some(30), ..WIDE };
        assert_eq!(render(&sample(), look), render(&sample(), WIDE));
    }

    #[test]
    fn escape_sequences_only_where_wanted() {
        let ansi = render(&sample(), Look { colour: Colour::Ansi, ..WIDE });
        assert!(ansi.contains("\u{1b}[1;31mDEMO") && ansi.contains("\u{1b}[1m task"), "{ansi:?}");
        assert!(!render(&sample(), WIDE).contains('\u{1b}'));
    }
}
