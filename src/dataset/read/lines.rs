//! Plain text: a value a line.

use super::{Broken, Record, numbered_lines};
use serde_json::{Map, Value};

/// Where a line's value stands until its file's field is known.
pub(super) const VALUE: &str = "value";

/// A record a line. As Python's `line.rstrip()` leaves it: white space at the end is no part of a value.
pub(super) fn records(content: &[u8]) -> Result<Vec<Record>, Broken> {
    numbered_lines(content)
        .map(|(number, line)| {
            let line = std::str::from_utf8(line).map_err(|e| Broken::at(format!("line {number}"), e))?;
            Ok(Record(Map::from_iter([(VALUE.to_owned(), Value::from(line.trim_end()))])))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Reader, beside, records};
    use std::path::Path;

    fn read(content: &str) -> Vec<crate::dataset::Record> {
        records(&Reader::Lines, content.as_bytes(), Path::new("f")).expect("text")
    }

    #[test]
    fn files_stand_beside_each_other() {
        let mut pairs = Vec::new();
        beside(&mut pairs, read("a b \r\n\n"), "src", Path::new("f.en")).expect("the first file");
        beside(&mut pairs, read("甲\n乙"), "ref", Path::new("f.ja")).expect("as long");
        let got: Vec<_> = pairs.iter().map(|r| (r.0["src"].as_str(), r.0["ref"].as_str())).collect();
        assert_eq!(got, [(Some("a b"), Some("甲")), (Some(""), Some("乙"))]);
        let error = beside(&mut pairs, read("x\n"), "more", Path::new("f.x")).expect_err("shorter").to_string();
        assert!(error.contains("f.x") && error.contains("1 lines, but the file before it has 2"), "{error}");
    }
}
