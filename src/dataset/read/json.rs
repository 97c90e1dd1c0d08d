//! JSON: an array of objects, an object a line, and SQuAD 1.1.

use super::{Broken, Record, numbered_lines};
use serde_json::{Map, Value};

/// One array of objects.
pub(super) fn array(content: &[u8]) -> Result<Vec<Record>, Broken> {
    let items: Vec<Value> = serde_json::from_slice(content).map_err(whole_file)?;
    items.into_iter().enumerate().map(|(index, item)| object(item, &format!("record {index}"))).collect()
}

/// An object a line; the last line may lack its line feed.
pub(super) fn lines(content: &[u8]) -> Result<Vec<Record>, Broken> {
    numbered_lines(content)
        .map(|(number, line)| {
            let place = format!("line {number}");
            object(serde_json::from_slice(line).map_err(|e| Broken::at(&place, e))?, &place)
        })
        .collect()
}

/// SQuAD 1.1.
pub(super) fn squad(content: &[u8]) -> Result<Vec<Record>, Broken> {
    let file: Value = serde_json::from_slice(content).map_err(whole_file)?;
    let mut records = Vec::new();
    for (a, article) in list(&file, "data", "the file")?.iter().enumerate() {
        let place = format!("data[{a}]");
        let title = text(article, "title", &place)?;
        for (p, paragraph) in list(article, "paragraphs", &place)?.iter().enumerate() {
            let place = format!("{place}.paragraphs[{p}]");
            let context = text(paragraph, "context", &place)?;
            for (q, question) in list(paragraph, "qas", &place)?.iter().enumerate() {
                let Record(own) = object(question.clone(), &format!("{place}.qas[{q}]"))?;
                let mut fields = Map::from_iter([("title".to_owned(), title.into()), ("context".to_owned(), context.into())]);
                fields.extend(own);
                records.push(Record(fields));
            }
        }
    }
    Ok(records)
}

fn whole_file(error: serde_json::Error) -> Broken {
    Broken::at(format!("line {}", error.line()), error)
}

fn object(value: Value, place: &str) -> Result<Record, Broken> {
    match value {
        Value::Object(fields) => Ok(Record(fields)),
        other => Err(Broken::at(place, format!("an object is expected, not {}", kind(&other)))),
    }
}

fn list<'v>(value: &'v Value, key: &str, place: &str) -> Result<&'v Vec<Value>, Broken> {
    value.get(key).and_then(Value::as_array).ok_or_else(|| Broken::at(place, format!("'{key}' must be an array")))
}

fn text<'v>(value: &'v Value, key: &str, place: &str) -> Result<&'v str, Broken> {
    value.get(key).and_then(Value::as_str).ok_or_else(|| Broken::at(place, format!("'{key}' must be text")))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn squad_is_flattened_in_file_order() {
        let file = json!({"version": "1.1", "data": [
            {"title": "山", "paragraphs": [{"context": "富士山", "qas": [{"id": "q1", "question": "?", "answers": []}, {"id": "q2"}]}]},
            {"title": "川", "paragraphs": [{"context": "信濃川", "qas": [{"id": "q3"}]}]},
        ]});
        let records = squad(file.to_string().as_bytes()).expect("well-formed");
        assert_eq!(records.len(), 3);
        assert_eq!(
            Value::Object(records[0].0.clone()),
            json!({"title": "山", "context": "富士山", "id": "q1", "question": "?", "answers": []})
        );
        assert_eq!(records[2].0["context"], "信濃川");
    }

    #[test]
    fn broken_files_say_where() {
        assert_eq!(squad(b"{}").expect_err("no data"), Broken::at("the file", "'data' must be an array"));
        let no_text = json!({"data": [{"title": "t", "paragraphs": [{"qas": []}]}]}).to_string();
        assert_eq!(squad(no_text.as_bytes()).expect_err("no context"), Broken::at("data[0].paragraphs[0]", "'context' must be text"));
        assert_eq!(array(b"[{}, 3]").expect_err("a number"), Broken::at("record 1", "an object is expected, not a number"));
        assert_eq!(lines(b"{}\n\n{}\n").expect_err("an empty line").place, "line 2");
        assert_eq!(lines(b"").expect("no lines"), []);
    }
}
