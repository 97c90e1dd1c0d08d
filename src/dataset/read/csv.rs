//! Comma- and tab-separated values as Python's `csv.reader` sees them (Excel dialect).

use super::{Broken, Heading, Record};
use serde_json::{Map, Value};

/// Rows with exactly the named columns; columns of one name are a list under it. One leading byte-order mark is dropped, by the `csv` crate itself; a second one is content, as to
/// Python's `utf-8-sig`.
pub(super) fn records(content: &[u8], columns: &[String], delimiter: u8, heading: Heading) -> Result<Vec<Record>, Broken> {
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).has_headers(false).flexible(true).from_reader(content);
    let mut records = Vec::new();
    let skipped = usize::from(heading == Heading::Skip);
    for (index, row) in reader.records().enumerate().skip(skipped) {
        let row = row.map_err(|e| Broken::at(format!("record {index}"), e))?;
        let line = row.position().map_or(0, csv::Position::line);
        if row.len() != columns.len() {
            let cause = format!("{} columns are expected, not {}", columns.len(), row.len());
            return Err(Broken::at(format!("line {line}"), cause));
        }
        let mut fields = Map::new();
        for (column, cell) in columns.iter().zip(row.iter().map(Value::from)) {
            match fields.get_mut(column) {
                None => drop(fields.insert(column.clone(), cell)),
                Some(Value::Array(cells)) => cells.push(cell),
                Some(first) => *first = Value::Array(vec![first.take(), cell]),
            }
        }
        records.push(Record(fields));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(content: &[u8]) -> Vec<Vec<String>> {
        let columns = ["a".to_owned(), "b".to_owned()];
        let records = records(content, &columns, b',', Heading::None).expect("well-formed");
        records.iter().map(|r| r.0.values().map(|v| v.as_str().expect("text").to_owned()).collect()).collect()
    }

    #[test]
    fn cells_are_kept_as_they_are() {
        assert_eq!(
            cells("\u{feff} 海王星 ,\"x\r\ny\"\r\n\"a \"\"b\"\"\",\u{feff}2\r\n".as_bytes()),
            [[" 海王星 ", "x\r\ny"], ["a \"b\"", "\u{feff}2"]]
        );
        assert_eq!(cells("\u{feff}\u{feff}1,2".as_bytes()), [["\u{feff}1", "2"]]);
        assert_eq!(cells(b"1,\n,2"), [["1", ""], ["", "2"]]);
    }

    #[test]
    fn a_row_of_another_width_is_named() {
        let columns = ["a".to_owned(), "b".to_owned()];
        let three = records(b"1,2\n1,2,3\n", &columns, b',', Heading::None).expect_err("three");
        assert_eq!(three, Broken::at("line 2", "2 columns are expected, not 3"));
        assert!(records(b"1,\xff\n", &columns, b',', Heading::None).is_err());
    }

    #[test]
    fn columns_of_one_name_are_a_list_and_a_heading_is_no_record() {
        let columns = ["q", "choice", "choice", "choice", "a"].map(str::to_owned);
        let records = records(b"q,c0,c1,c2,a\nwhat,x,y,z,2\n", &columns, b',', Heading::Skip).expect("well-formed");
        let expected = serde_json::json!({"q": "what", "choice": ["x", "y", "z"], "a": "2"});
        assert_eq!(records.into_iter().map(|r| Value::Object(r.0)).collect::<Vec<_>>(), [expected]);
    }
}
