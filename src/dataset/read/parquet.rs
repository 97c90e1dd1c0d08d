//! Apache Parquet: rows to records.

use super::{Broken, Record};
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;

/// Every row, in file order.
pub(super) fn records(content: &[u8]) -> Result<Vec<Record>, Broken> {
    let whole = |e| Broken::at("the whole file", e);
    let reader = SerializedFileReader::new(bytes::Bytes::copy_from_slice(content)).map_err(whole)?;
    let mut records = Vec::new();
    for (index, row) in reader.get_row_iter(None).map_err(whole)?.enumerate() {
        let place = format!("record {index}");
        match row.map_err(|e| Broken::at(&place, e))?.to_json_value() {
            Value::Object(fields) => records.push(Record(fields)),
            _ => return Err(Broken::at(place, "a row is no record")),
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Written by pyarrow as the hub writes: two row groups, snappy, dictionaries, lists in structures and the reverse
    /// (`scripts/make_parquet_fixture.py`).
    const OF_PYARROW: &[u8] = include_bytes!("../../../tests/fixtures/hub.parquet");

    #[test]
    fn rows_of_pyarrow_are_records() {
        let found = records(OF_PYARROW).expect("read");
        let rows: Vec<Value> = found.into_iter().map(|record| Value::Object(record.0)).collect();
        let choices = json!([{"label": "A", "text": "一\n二"}, {"label": "B", "text": ""}]);
        let row = |i: usize, text: Value, start: Value| {
            json!({"id": format!("行{i}"), "label": i as i64 - 1, "right": i != 1, "weight": i as f64 / 8.0,
                "answers": {"text": text, "answer_start": start}, "choices": choices})
        };
        let empty = json!({"id": null, "label": null, "right": null, "weight": null, "answers": null, "choices": []});
        assert_eq!(
            rows,
            [row(0, json!([]), json!([])), row(1, json!(["はい"]), json!([3])), row(2, json!(["はい", "うん"]), json!([3, 14])), empty]
        );
    }

    #[test]
    fn a_torn_file_is_an_error() {
        for cut in [0, 3, OF_PYARROW.len() / 2, OF_PYARROW.len() - 1] {
            assert!(records(&OF_PYARROW[..cut]).is_err(), "{cut} bytes");
        }
    }
}
