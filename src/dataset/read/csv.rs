//! Comma- and tab-separated values as Python's `csv.reader` sees them (Excel dialect), without heading.

use super::{Broken, Record};
use serde_json::{Map, Value};

/// Rows with exactly the named columns. One leading byte-order mark is dropped, by the `csv` crate itself; a second one is content, as to
/// Python's `utf-8-sig`.
pub(super) fn records(content: &[u8], columns: &[String], delimiter: u8) -> Result<Vec<Record>, Broken> {
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).has_headers(false).flexible(true).from_reader(content);
    let mut records = Vec::new();
    for (index, row) in reader.records().enumerate() {
        let row = row.map_err(|e| Broken::at(format!("record {index}"), e))?;
        let line = row.position().map_or(0, csv::Position::line);
        if row.len() != columns.len() {
            let cause = format!("{} columns are expected, not {}", columns.len(), row.len());
            return Err(Broken::at(format!("line {line}"), cause));
        }
        let cells = columns.iter().cloned().zip(row.iter().map(Value::from));
        records.push(Record(Map::from_iter(cells)));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(content: &[u8]) -> Vec<Vec<String>> {
        let columns = ["a".to_owned(), "b".to_owned()];
        let records = records(content, &columns, b',').expect("well-formed");
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
        assert_eq!(records(b"1,2\n1,2,3\n", &columns, b',').expect_err("three"), Broken::at("line 2", "2 columns are expected, not 3"));
        assert!(records(b"1,\xff\n", &columns, b',').is_err());
    }
}
