//! The table as JSON: `{"title","demo","rows":[{"kind","<column key>":value,...,"missing":{"<column key>":"why"}}],"footnotes":[...]}`.
//!
//! Numbers stand in full, not as printed; a cell without a value is `null`, and `missing` (present where it is not empty) says why.

use super::table::{Cell, Number, Row, RowKind, Table};
use serde_json::{Map, Value, json};

/// The whole file, indented.
pub fn render(table: &Table) -> String {
    let footnotes: Vec<String> = table.footnotes.iter().map(ToString::to_string).collect();
    let rows: Vec<Value> = table.rows.iter().map(|row| row_value(table, row)).collect();
    let value = json!({ "title": table.title, "demo": table.demo, "rows": rows, "footnotes": footnotes });
    format!("{value:#}\n")
}

fn row_value(table: &Table, row: &Row) -> Value {
    let kind = match row.kind {
        RowKind::Ours => "ours",
        RowKind::Published => "published",
        RowKind::Average => "average",
    };
    let mut fields = Map::from_iter([("kind".to_owned(), json!(kind))]);
    let mut missing = Map::new();
    for (column, cell) in table.columns.iter().zip(&row.cells) {
        let value = match cell {
            Cell::Text(text) => json!(text),
            Cell::Count(count) => json!(count),
            Cell::Number(Number { value, .. }) => json!(value),
            Cell::Blank => Value::Null,
            Cell::Missing { why } => {
                missing.insert(column.key.clone(), json!(why));
                Value::Null
            }
        };
        fields.insert(column.key.clone(), value);
    }
    if !missing.is_empty() {
        fields.insert("missing".to_owned(), Value::Object(missing));
    }
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::table::tests::sample;

    #[test]
    fn snapshot() {
        let expected = json!({
            "title": "suite | 日本語",
            "demo": true,
            "rows": [
                { "kind": "ours", "task": "読解", "score": 0.03125, "n": 40, "remarks": "partial: 40 of 120" },
                { "kind": "ours", "task": "a|b", "score": null, "n": null, "remarks": "", "missing": { "score": "no data" } },
                { "kind": "published", "task": "常識, \"推論\"", "score": 0.5, "n": 1119, "remarks": "" },
                { "kind": "average", "task": "Avg", "score": null, "n": null, "remarks": "", "missing": { "score": "a demo measures nothing" } },
            ],
            "footnotes": ["a|b: no data", "読解: p|t|v0"],
        });
        assert_eq!(render(&sample()), format!("{expected:#}\n"));
    }
}
