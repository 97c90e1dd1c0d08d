//! The table as CSV (RFC 4180): a heading of the columns' keys, numbers with their decimals and no mark, an empty cell where there is none.
//!
//! Title and footnotes stay out, since a program reads this; a demo has a further column `demo` that says so in every row.

use super::table::{Cell, Number, Table};

/// The whole file.
pub fn render(table: &Table) -> String {
    let demo = table.demo.then_some("demo");
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    let mut write = |record: Vec<String>| writer.write_record(record).expect("rows have a cell for every column, and memory accepts them");
    write(table.columns.iter().map(|c| c.key.clone()).chain(demo.map(str::to_owned)).collect());
    for row in &table.rows {
        write(row.cells.iter().map(field).chain(demo.map(str::to_owned)).collect());
    }
    let bytes = writer.into_inner().expect("memory accepts every byte");
    String::from_utf8(bytes).expect("made of strings")
}

fn field(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) => text.clone(),
        Cell::Count(count) => count.to_string(),
        Cell::Number(Number { value, decimals, .. }) => format!("{value:.decimals$}"),
        Cell::Missing { .. } | Cell::Blank => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::table::tests::sample;

    #[test]
    fn snapshot() {
        let expected = "task,score,n,remarks,demo\n\
                        読解,0.0312,40,partial: 40 of 120,demo\n\
                        a|b,,,,demo\n\
                        \"常識, \"\"推論\"\"\",0.5000,1119,,demo\n\
                        Avg,,,,demo\n";
        assert_eq!(render(&sample()), expected);
        let plain = Table { demo: false, ..sample() };
        assert!(render(&plain).starts_with("task,score,n,remarks\n"));
    }
}
