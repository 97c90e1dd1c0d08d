//! JSON: an array of objects, an object a line, SQuAD's nested questions, TriviaQA's.

use super::{Broken, Record, numbered_lines};
use serde_json::{Map, Value, json};

/// One array of objects, the whole file or the value of one key of it.
pub(super) fn array(content: &[u8], at: Option<&str>) -> Result<Vec<Record>, Broken> {
    let items: Vec<Value> = match at {
        None => serde_json::from_slice(content).map_err(whole_file)?,
        Some(key) => {
            let mut file: Value = serde_json::from_slice(content).map_err(whole_file)?;
            list(&file, key, "the file")?;
            file.get_mut(key).map(Value::take).and_then(|items| serde_json::from_value(items).ok()).unwrap_or_default()
        }
    };
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

/// TriviaQA under the names of the hub's data set (huggingface/datasets 2.4.0 `datasets/trivia_qa/trivia_qa.py`).
pub(super) fn trivia(content: &[u8]) -> Result<Vec<Record>, Broken> {
    let file: Value = serde_json::from_slice(content).map_err(whole_file)?;
    let mut records = Vec::new();
    for (index, item) in list(&file, "Data", "the file")?.iter().enumerate() {
        let place = format!("Data[{index}]");
        let answer = item.get("Answer").ok_or_else(|| Broken::at(&place, "'Answer' is missing"))?;
        let place_of_answer = format!("{place}.Answer");
        let alias = |alias: &Value| match alias.as_str() {
            Some(text) => Ok(Value::from(stripped(text))),
            None => Err(Broken::at(&place_of_answer, "an alias must be text")),
        };
        let aliases = list(answer, "Aliases", &place_of_answer)?.iter().map(alias).collect::<Result<Vec<_>, _>>()?;
        records.push(Record(Map::from_iter([
            ("question".to_owned(), stripped(text(item, "Question", &place)?).into()),
            ("question_id".to_owned(), text(item, "QuestionId", &place)?.into()),
            ("answer".to_owned(), json!({ "value": stripped(text(answer, "Value", &place_of_answer)?), "aliases": aliases })),
        ])));
    }
    Ok(records)
}

/// Python's `str.strip()`.
fn stripped(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
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
    fn trivia_gets_the_hubs_names_and_stripped_texts() {
        let file = json!({"Data": [{"Question": " Who? \u{1f}", "QuestionId": "q1", "Extra": 1,
            "Answer": {"Value": "A ", "Aliases": [" A", "B\u{3000}"], "NormalizedAliases": ["a"]}}]});
        let records = trivia(file.to_string().as_bytes()).expect("well-formed");
        let expected = json!({"question": "Who?", "question_id": "q1", "answer": {"value": "A", "aliases": ["A", "B"]}});
        assert_eq!(Value::Object(records[0].0.clone()), expected);
    }

    #[test]
    fn an_array_may_stand_under_a_key() {
        assert_eq!(array(br#"{"canary": "x", "examples": [{"input": "i"}]}"#, Some("examples")).expect("well-formed").len(), 1);
    }

    #[test]
    fn broken_files_say_where() {
        assert_eq!(squad(b"{}").expect_err("no data"), Broken::at("the file", "'data' must be an array"));
        let no_text = json!({"data": [{"title": "t", "paragraphs": [{"qas": []}]}]}).to_string();
        assert_eq!(squad(no_text.as_bytes()).expect_err("no context"), Broken::at("data[0].paragraphs[0]", "'context' must be text"));
        assert_eq!(array(b"[{}, 3]", None).expect_err("a number"), Broken::at("record 1", "an object is expected, not a number"));
        assert_eq!(lines(b"{}\n\n{}\n").expect_err("an empty line").place, "line 2");
        assert_eq!(lines(b"").expect("no lines"), []);
        assert_eq!(array(b"{}", Some("examples")).expect_err("no key"), Broken::at("the file", "'examples' must be an array"));
        let no_alias = json!({"Data": [{"Question": "?", "QuestionId": "q", "Answer": {"Value": "v", "Aliases": [3]}}]}).to_string();
        assert_eq!(trivia(no_alias.as_bytes()).expect_err("a number"), Broken::at("Data[0].Answer", "an alias must be text"));
    }
}
