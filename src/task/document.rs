//! Records to documents: the task's templates over one record's fields.

use super::{Task, load::TaskError, template::TemplateName};
use crate::dataset::Record;
use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Map, Value};

/// One question of a benchmark, or one shot.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
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
    /// Every gold that is accepted; the one above alone, unless the task has a list.
    pub golds: Vec<String>,
    /// What can be chosen; empty where nothing is.
    pub choices: Vec<Choice>,
    /// Position of the right choice.
    pub right: Option<usize>,
    /// Subset the record belongs to; empty without subsets.
    pub subset: String,
    /// Group the document is counted in; empty without groups.
    pub group: String,
}

/// One choice of a multiple-choice question.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// The choice itself.
    pub label: String,
    /// Question part of the prompt when this is chosen; mostly the same for all.
    pub input: String,
    /// What then follows.
    pub output: String,
}

impl Document {
    /// What a prompt needs of it when it is shown as a shot.
    pub fn as_shot(&self) -> Document {
        let Document { row, input, output, gold, .. } = self;
        Document { row: *row, input: input.clone(), output: output.clone(), gold: gold.clone(), ..Document::default() }
    }
}

/// What stands in a record of a benchmark with subsets beside the record's own fields.
const ADDED: [&str; 2] = ["subject", "row"];

impl Task {
    /// Documents of one split or subset (the part of the split's name before a slash), in file order, less those the protocol drops.
    ///
    /// # Errors
    /// [`TaskError::Render`] when a record lacks a field that a template names.
    pub fn documents(&self, split: &str, records: Vec<Record>) -> Result<Vec<Document>, TaskError> {
        let subset = split.split('/').next().unwrap_or_default();
        let made = records.into_par_iter().enumerate().map(|(row, record)| {
            let mut fields = record.0;
            if !self.file.subset.is_empty() {
                fields.extend(ADDED.map(str::to_owned).into_iter().zip([Value::from(subset), row.into()]));
            }
            self.document(fields, &format!("record {row} of split '{split}'"))
        });
        let mut documents = made.collect::<Result<Vec<_>, _>>()?;
        documents.retain(|document| self.file.document.drop_output.as_ref() != Some(&document.output));
        documents.iter_mut().enumerate().for_each(|(row, document)| document.row = row);
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
        let record = minijinja::Value::from_serialize(&fields);
        let choices = self.choices(&record, what)?;
        let right: Option<usize> = self.value(TemplateName::Right, &record, what)?;
        let (input, output) = match (choices.is_empty(), right.and_then(|right| choices.get(right))) {
            (true, _) => (self.render(TemplateName::Input, &record, what)?, self.render(TemplateName::Output, &record, what)?),
            (false, Some(choice)) => (choice.input.clone(), choice.output.clone()),
            (false, None) => {
                let cause = format!("the right one is {right:?}, but the choices are 0 to {}", choices.len() - 1);
                return Err(self.unrendered(TemplateName::Right, what, &cause));
            }
        };
        let gold = if self.file.document.gold.is_some() { self.render(TemplateName::Gold, &record, what)? } else { output.clone() };
        let golds = self.value(TemplateName::Golds, &record, what)?.unwrap_or_else(|| vec![gold.clone()]);
        let subset = fields.get("subject").and_then(Value::as_str).unwrap_or_default().to_owned();
        let group = self.file.subset.iter().find(|s| s.name == subset).map(|s| s.group.clone()).unwrap_or_default();
        let subset = if self.file.subset.is_empty() { String::new() } else { subset };
        Ok(Document { id: String::new(), row: 0, fields, input, output, gold, golds, choices, right, subset, group })
    }

    fn choices(&self, record: &minijinja::Value, what: &str) -> Result<Vec<Choice>, TaskError> {
        let labels: Vec<String> = self.value(TemplateName::Choices, record, what)?.unwrap_or_default();
        let choice = |label: String| {
            let context = minijinja::context! { choice => label, ..record.clone() };
            let input = self.render(TemplateName::Input, &context, what)?;
            Ok(Choice { input, output: self.render(TemplateName::Output, &context, what)?, label })
        };
        labels.into_iter().map(choice).collect()
    }
}

/// Whether two documents are of the same record: the record's own fields, not its place.
pub fn same_record(a: &Document, b: &Document) -> bool {
    let own = |document: &Document| document.fields.iter().filter(|(key, _)| !ADDED.contains(&key.as_str())).count();
    let all = |(key, value): (&String, &Value)| ADDED.contains(&key.as_str()) || b.fields.get(key) == Some(value);
    own(a) == own(b) && a.fields.iter().all(all)
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
