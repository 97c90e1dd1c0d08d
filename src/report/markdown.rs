//! The table as GitHub-flavoured Markdown, padded so that it also reads well as plain text (East Asian characters take two columns).

use super::table::{Align, Column, DEMO, Footnote, MARK_EXPLAINED, RowKind, Table, one_line};
use unicode_width::UnicodeWidthStr;

/// The whole document.
pub fn render(table: &Table) -> String {
    let mut text = format!("## {}\n\n", escaped(&table.title));
    if table.demo {
        text += &format!("> **{DEMO}**\n\n");
    }
    text += &grid(table);
    let mark = table.has_marks().then(|| MARK_EXPLAINED.replacen('*', "\\*", 1));
    let notes: Vec<String> = mark.into_iter().chain(table.footnotes.iter().map(footnote)).map(|note| format!("- {note}\n")).collect();
    if !notes.is_empty() {
        text += &format!("\n{}", notes.concat());
    }
    text
}

/// Heading, rule and rows.
fn grid(table: &Table) -> String {
    let heading: Vec<String> = table.columns.iter().map(|c| escaped(&c.heading)).collect();
    let rows = table.rows.iter().map(|row| {
        let strong = |text: String| if row.kind == RowKind::Average && !text.is_empty() { format!("**{text}**") } else { text };
        row.cells.iter().map(|cell| strong(escaped(&cell.shown()))).collect::<Vec<_>>()
    });
    let lines: Vec<Vec<String>> = std::iter::once(heading).chain(rows).collect();
    let width = |i: usize| lines.iter().filter_map(|line| line.get(i)).map(|text| text.width()).max().unwrap_or(0).max(3);
    let widths: Vec<usize> = (0..table.columns.len()).map(width).collect();

    let rule: Vec<String> = table.columns.iter().zip(&widths).map(|(column, width)| rule(column, *width)).collect();
    let padded = |line: &Vec<String>| -> Vec<String> {
        let cells = line.iter().zip(&table.columns).zip(&widths);
        cells.map(|((text, column), width)| pad(text, column, *width)).collect()
    };
    let mut out: Vec<Vec<String>> = lines.iter().map(padded).collect();
    out.insert(1, rule);
    out.iter().map(|cells| format!("| {} |\n", cells.join(" | "))).collect()
}

fn rule(column: &Column, width: usize) -> String {
    match column.align {
        Align::Left => "-".repeat(width),
        Align::Right => "-".repeat(width - 1) + ":",
    }
}

fn pad(text: &str, column: &Column, width: usize) -> String {
    let blanks = " ".repeat(width - text.width());
    match column.align {
        Align::Left => format!("{text}{blanks}"),
        Align::Right => format!("{blanks}{text}"),
    }
}

fn footnote(note: &Footnote) -> String {
    match note {
        Footnote::Text(text) => escaped(text),
        Footnote::Signature { of, signature } => format!("{}: `{}`", escaped(of), one_line(signature).replace('`', "'")),
    }
}

/// Text that Markdown shows as it is: no cell ends early, no tag opens, no emphasis begins.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in one_line(text).chars() {
        if matches!(c, '\\' | '|' | '*' | '_' | '`' | '<' | '[' | ']') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::table::tests::sample;

    #[test]
    fn snapshot() {
        let expected = r#"## suite \| 日本語

> **DEMO: bundled samples answered by a toy model. These numbers measure nothing.**

| task         |    score |    n | remarks            |
| ------------ | -------: | ---: | ------------------ |
| 読解         | 0.0312\* |   40 | partial: 40 of 120 |
| a\|b         |        – |      |                    |
| 常識, "推論" |   0.5000 | 1119 |                    |
| **Avg**      |    **–** |      |                    |

- \* not the protocol's number: see the remarks
- a\|b: no data
- 読解: `p|t|v0`
"#;
        assert_eq!(render(&sample()), expected);
    }

    #[test]
    fn markup_in_text_is_shown_not_obeyed() {
        for (text, expected) in [("a_b*c", r"a\_b\*c"), ("<img>\n[x]", r"\<img> \[x\]"), (r"a\b", r"a\\b")] {
            assert_eq!(escaped(text), expected);
        }
    }
}
