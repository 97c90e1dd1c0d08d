//! The table in LaTeX: a `tabular` with the rules of the booktabs package, to be put into a `table` of the paper's own.

use super::table::{Align, DEMO, MARK_EXPLAINED, RowKind, Table, one_line};

/// The whole file. Footnotes become comments, since where they go is the paper's choice; marks and a demo are said in the table itself.
pub fn render(table: &Table) -> String {
    let mut text = format!("% {}\n% \\usepackage{{booktabs}}\n", one_line(&table.title));
    for note in &table.footnotes {
        text += &format!("% {}\n", one_line(&note.to_string()));
    }
    let sides: String = table.columns.iter().map(|c| if c.align == Align::Left { 'l' } else { 'r' }).collect();
    let whole = |note: &str| format!("\\multicolumn{{{}}}{{l}}{{{}}} \\\\\n", table.columns.len().max(1), escaped(note));
    text += &format!("\\begin{{tabular}}{{{sides}}}\n\\toprule\n");
    if table.demo {
        text += &whole(DEMO);
    }
    text += &line(table.columns.iter().map(|c| escaped(&c.heading)));
    text += "\\midrule\n";
    for (i, row) in table.rows.iter().enumerate() {
        let first_average = row.kind == RowKind::Average && i > 0 && table.rows[i - 1].kind != RowKind::Average;
        text += if first_average { "\\midrule\n" } else { "" };
        text += &line(row.cells.iter().map(|cell| match cell.shown() {
            shown if row.kind == RowKind::Average && !shown.is_empty() => format!("\\textbf{{{}}}", escaped(&shown)),
            shown => escaped(&shown),
        }));
    }
    text += "\\bottomrule\n";
    if table.has_marks() {
        text += &whole(MARK_EXPLAINED);
    }
    text + "\\end{tabular}\n"
}

fn line(cells: impl Iterator<Item = String>) -> String {
    format!("{} \\\\\n", cells.collect::<Vec<_>>().join(" & "))
}

/// Text that LaTeX shows as it is.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in one_line(text).chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '<' => out.push_str("\\textless{}"),
            '>' => out.push_str("\\textgreater{}"),
            '|' => out.push_str("\\textbar{}"),
            '"' => out.push_str("\\textquotedbl{}"),
            '–' => out.push_str("--"),
            '±' => out.push_str("$\\pm$"),
            // A number's minus, not a hyphen.
            '-' if out.is_empty() && text[1..].starts_with(|d: char| d.is_ascii_digit()) => out.push_str("$-$"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::table::tests::sample;

    #[test]
    fn snapshot() {
        let expected = r#"% suite | 日本語
% \usepackage{booktabs}
% a|b: no data
% 読解: p|t|v0
\begin{tabular}{lrrl}
\toprule
\multicolumn{4}{l}{DEMO: bundled samples answered by a toy model. These numbers measure nothing.} \\
task & score & n & remarks \\
\midrule
読解 & 0.0312* & 40 & partial: 40 of 120 \\
a\textbar{}b & -- &  &  \\
常識, \textquotedbl{}推論\textquotedbl{} & 0.5000 & 1119 &  \\
\midrule
\textbf{Avg} & \textbf{--} &  &  \\
\bottomrule
\multicolumn{4}{l}{* not the protocol's number: see the remarks} \\
\end{tabular}
"#;
        assert_eq!(render(&sample()), expected);
    }

    #[test]
    fn commands_in_text_are_shown_not_obeyed() {
        for (text, expected) in [
            (r"\input{x}", r"\textbackslash{}input\{x\}"),
            ("50 % of a_b", r"50 \% of a\_b"),
            ("-0.0100", "$-$0.0100"),
            ("-x", "-x"),
            ("-", "-"),
        ] {
            assert_eq!(escaped(text), expected);
        }
    }
}
