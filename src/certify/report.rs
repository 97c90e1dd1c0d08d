//! What certify found: per folder rows, compared fields, mismatches.

use serde_json::Value;
use std::collections::BTreeMap;

/// The result of replaying one golden folder or one family of flat files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Folder {
    /// Path relative to the folder that was asked for.
    pub name: String,
    /// Rows replayed.
    pub rows: u64,
    /// How often each field was compared, by file and field name (`scoring.jsonl extracted`).
    pub compared: BTreeMap<String, u64>,
    /// Files outside the protocol: name and number of rows.
    pub outside: Vec<(String, u64)>,
    /// Checks that were left out, and what they lacked.
    pub left_out: Vec<String>,
    /// Every difference found.
    pub mismatches: Vec<Mismatch>,
}

/// One field that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// File inside the folder.
    pub file: String,
    /// `doc_id`, `id` or line of the row; empty for a file that is one object.
    pub row: String,
    /// Path of the field in the row.
    pub field: String,
    /// What the golden says.
    pub expected: String,
    /// What this program says.
    pub got: String,
    /// First differing byte of two texts.
    pub at: Option<usize>,
}

impl Folder {
    /// A folder nothing has been compared in yet.
    pub fn new(name: impl Into<String>) -> Self {
        Folder { name: name.into(), ..Folder::default() }
    }

    /// Fields compared.
    pub fn fields(&self) -> u64 {
        self.compared.values().sum()
    }

    /// Compares two texts byte for byte.
    pub fn check_text(&mut self, file: &str, row: &str, field: &str, expected: &str, got: &str) {
        self.count_field(file, field);
        if expected != got {
            let at = expected.bytes().zip(got.bytes()).take_while(|(a, b)| a == b).count();
            self.mismatch(file, row, field, expected.to_owned(), got.to_owned(), Some(at));
        }
    }

    /// Compares two JSON values; numbers as numbers (`1` equals `1.0`), floats exactly.
    pub fn check_value(&mut self, file: &str, row: &str, field: &str, expected: &Value, got: &Value) {
        if let (Value::String(expected), Value::String(got)) = (expected, got) {
            return self.check_text(file, row, field, expected, got);
        }
        self.count_field(file, field);
        if !same(expected, got) {
            let (expected, got) = (expected.to_string(), got.to_string());
            let at = expected.bytes().zip(got.bytes()).take_while(|(a, b)| a == b).count();
            self.mismatch(file, row, field, expected, got, Some(at));
        }
    }

    /// Compares two numbers within an absolute tolerance; NaN equals nothing.
    pub fn check_close(&mut self, file: &str, row: &str, field: &str, expected: f64, got: f64, tolerance: f64) {
        self.count_field(file, field);
        let close = (expected - got).abs() <= tolerance;
        if !close {
            self.mismatch(file, row, field, expected.to_string(), got.to_string(), None);
        }
    }

    /// Notes a field that differs; for comparisons with a rule of their own, which count their field with [`Folder::count_field`].
    pub fn mismatch(&mut self, file: &str, row: &str, field: &str, expected: String, got: String, at: Option<usize>) {
        let (file, row, field) = (file.to_owned(), row.to_owned(), field.to_owned());
        self.mismatches.push(Mismatch { file, row, field, expected, got, at });
    }

    /// Counts one compared field.
    pub fn count_field(&mut self, file: &str, field: &str) {
        *self.compared.entry(format!("{file} {field}")).or_default() += 1;
    }
}

/// Equality of JSON values in which integers and floats of equal value are equal. Two integers are compared as such: beyond 2^53 several
/// have the same double.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || ((x.is_f64() || y.is_f64()) && x.as_f64() == y.as_f64()),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same(a, b)),
        (Value::Object(x), Value::Object(y)) => x.len() == y.len() && x.iter().all(|(k, a)| y.get(k).is_some_and(|b| same(a, b))),
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_report_the_first_differing_byte() {
        let mut folder = Folder::new("x");
        folder.check_text("f", "r", "a", "東京", "東京");
        folder.check_text("f", "r", "b", "東京都", "東京京");
        folder.check_text("f", "r", "c", "ab", "abc");
        assert_eq!((folder.fields(), folder.mismatches.len()), (3, 2));
        assert_eq!(folder.mismatches[0].at, Some(6));
        assert_eq!(folder.mismatches[1].at, Some(2));
    }

    #[test]
    fn numbers_compare_as_numbers() {
        let mut folder = Folder::new("x");
        folder.check_value("f", "r", "a", &json!(1), &json!(1.0));
        folder.check_value("f", "r", "b", &json!([1, {"x": null}]), &json!([1.0, {"x": null}]));
        assert!(folder.mismatches.is_empty());
        folder.check_value("f", "r", "c", &json!(0.1), &json!(0.1_f64.next_up()));
        folder.check_value("f", "r", "d", &json!(null), &json!(0));
        folder.check_close("f", "r", "e", 1.0, f64::NAN, 1e-3);
        folder.check_value("f", "r", "f", &json!(u64::MAX), &json!(u64::MAX - 1));
        assert_eq!(folder.mismatches.len(), 4);
    }
}
