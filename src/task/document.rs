//! Records to documents: the task's templates over one record's fields.

use super::{Task, TemplateName, load::TaskError};
use crate::dataset::Record;
use serde::Serialize;
use serde_json::{Map, Value};

/// One question of a benchmark, or one shot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Document {
    /// Position in the evaluated split, as five digits (`00042`); set once the order is known.
    pub id: String,
    /// Position among the documents of its split or subset, in file order, dropped ones not counted.
    pub row: usize,
    /// The record's fields.
    pub fields: Map<String, Value>,
    /// Question part of the prompt.
    pub input: String,
    /// The gold as a shot shows it.
    pub output: String,
    /// The gold an answer is compared with; `answer` makes the reference of scoring from it.
    pub gold: String,
    /// Subset the record belongs to; empty without subsets.
    pub subset: String,
    /// Group the document is counted in; empty without groups.
    pub group: String,
}

impl Task {
    /// Documents of one split or subset, in file order, less those the protocol drops.
    ///
    /// # Errors
    /// [`TaskError::Render`] when a record lacks a field that a template names.
    pub fn documents(&self, split: &str, records: Vec<Record>) -> Result<Vec<Document>, TaskError> {
        let mut documents = Vec::with_capacity(records.len());
        for (row, record) in records.into_iter().enumerate() {
            let mut fields = record.0;
            if !self.file.subset.is_empty() {
                fields.insert("subject".into(), split.into());
                fields.insert("row".into(), row.into());
            }
            let mut document = self.document(fields, &format!("record {row} of split '{split}'"))?;
            document.row = documents.len();
            if self.file.document.drop_output.as_ref() != Some(&document.output) {
                documents.push(document);
            }
        }
        Ok(documents)
    }

    /// One document from the fields of one record. `what` names the record in errors.
    ///
    /// # Errors
    /// [`TaskError::Render`].
    pub fn document(&self, mut fields: Map<String, Value>, what: &str) -> Result<Document, TaskError> {
        if self.file.document.universal_newlines {
            fields.values_mut().for_each(fold_newlines);
        }
        let render = |template| self.render(template, &fields, what);
        let (input, output) = (render(TemplateName::Input)?, render(TemplateName::Output)?);
        let gold = if self.file.document.gold.is_some() { render(TemplateName::Gold)? } else { output.clone() };
        let subset = fields.get("subject").and_then(Value::as_str).unwrap_or_default().to_owned();
        let group = self.file.subset.iter().find(|s| s.name == subset).map(|s| s.group.clone()).unwrap_or_default();
        let subset = if self.file.subset.is_empty() { String::new() } else { subset };
        Ok(Document { id: String::new(), row: 0, fields, input, output, gold, subset, group })
    }
}

/// Python's text mode (`newline=None`): CRLF and lone CR become LF.
fn fold_newlines(value: &mut Value) {
    if let Value::String(text) = value
        && text.contains('\r')
    {
        *text = text.replace("\r\n", "\n").replace('\r', "\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::load;
    use serde_json::json;

    fn record(value: Value) -> Record {
        match value {
            Value::Object(fields) => Record(fields),
            other => panic!("{other}"),
        }
    }

    fn task(name: &str) -> Task {
        load::find(&load::embedded().expect("valid"), name).expect("known").clone()
    }

    #[test]
    fn several_answers_are_joined_and_dashes_dropped() {
        let records = vec![
            record(json!({"id": "1", "text": "色は？", "answers": ["赤", "", "青"]})),
            record(json!({"id": "2", "text": "？", "answers": ["-"]})),
            record(json!({"id": "3", "text": "海は？", "answers": ["広い"]})),
        ];
        let documents = task("niilc").documents("test", records).expect("renders");
        let got: Vec<_> = documents.iter().map(|d| (d.input.as_str(), d.output.as_str())).collect();
        assert_eq!(got, [("質問：色は？", "赤,青"), ("質問：海は？", "広い")]);
    }

    #[test]
    fn carriage_returns_inside_cells_become_line_feeds() {
        let cells = json!({"question": "a\r\nb\rc", "A": " 1", "B": "2", "C": "3", "D": "4", "answer": "A"});
        let documents = task("jmmlu").documents("anatomy", vec![record(cells)]).expect("renders");
        assert_eq!(documents[0].input, "質問：a\nb\nc\n選択肢：A. 1,B.2,C.3,D.4");
        assert_eq!((documents[0].subset.as_str(), documents[0].group.as_str()), ("anatomy", "stem"));
    }

    #[test]
    fn braces_and_quotes_are_values_not_template() {
        let fields = json!({"question": "{{ x }} {% if %} \"<&>\"", "answer": "{a}"});
        let documents = task("jemhopqa").documents("dev", vec![record(fields)]).expect("renders");
        assert_eq!(documents[0].input, "質問：{{ x }} {% if %} \"<&>\"");
    }

    #[test]
    fn a_missing_field_is_named() {
        let error = task("jemhopqa").documents("dev", vec![record(json!({"answer": "x"}))]).expect_err("no question").to_string();
        assert!(error.contains("record 0 of split 'dev'") && error.contains("input"), "{error}");
    }
}
