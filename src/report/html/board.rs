//! A table alone as one self-contained page: the leaderboard for people without a terminal.

use super::{STYLE, hash};
use crate::report::table::{Align, Column, DEMO, MARK_EXPLAINED, RowKind, Table};
use crate::results::spec::Tool;
use minijinja::{Environment, context};

const PAGE: &str = include_str!("assets/table.html");

/// The whole page. It has no script.
pub fn render(table: &Table) -> String {
    let column = |c: &Column| context! { heading => c.heading, number => c.align == Align::Right };
    let rows = table.rows.iter().map(|row| {
        let kind = match row.kind {
            RowKind::Ours => "ours",
            RowKind::Published => "published",
            RowKind::Average => "average",
        };
        context! { kind, cells => row.cells.iter().map(|cell| cell.shown()).collect::<Vec<_>>() }
    });
    let mark = table.has_marks().then(|| MARK_EXPLAINED.to_owned());
    let mut environment = Environment::new();
    environment.add_template("table.html", PAGE).expect("the template is part of the program and a test renders it");
    let rendered = environment.get_template("table.html").expect("added above").render(context! {
        title => table.title,
        demo => table.demo.then_some(DEMO),
        policy => format!("default-src 'none'; style-src '{}'; base-uri 'none'; form-action 'none'", hash(STYLE)),
        style => STYLE,
        columns => table.columns.iter().map(column).collect::<Vec<_>>(),
        rows => rows.collect::<Vec<_>>(),
        notes => mark.into_iter().chain(table.footnotes.iter().map(ToString::to_string)).collect::<Vec<_>>(),
        tool => Tool::current(),
    });
    rendered.expect("the template names only what it is given, a test renders it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::table::tests::sample;

    #[test]
    fn everything_of_a_table_stands_in_the_page_and_nothing_runs() {
        let mut table = sample();
        table.title = "<script>alert(1)</script>".into();
        let page = render(&table);
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script"), "{page}");
        assert!(
            page.contains(DEMO) && page.contains("class=\"number\"") && page.contains(&MARK_EXPLAINED.replace('\'', "&#x27;")),
            "{page}"
        );
        assert_eq!(page.matches("<tr").count(), 1 + table.rows.len());
        for column in &table.columns {
            assert!(page.contains(&format!(">{}</th>", column.heading)), "{}", column.heading);
        }
    }
}
