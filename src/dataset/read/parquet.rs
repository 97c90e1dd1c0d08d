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
