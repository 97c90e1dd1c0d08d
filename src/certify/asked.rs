//! What is asked of a document, as every kind of golden with one generation a document records it.

use super::report::Folder;
use super::source::{CertifyError, Row, Source};
use crate::engine::{Generate, ModelFacts, RequestKind};
use crate::prompt::requests;
use crate::task::{Task, document::Document};
use serde_json::{Map, Value, json};

/// The one generation that a document is asked for.
///
/// # Errors
/// When its prompt cannot be made, or the task asks for something else.
pub(super) fn generate(task: &Task, document: &Document, shots: &[Document], facts: &ModelFacts) -> Result<Generate, CertifyError> {
    let mut made = requests::requests(task, document, shots, facts)?;
    match made.pop().map(|r| r.kind) {
        Some(RequestKind::Generate(generate)) if made.is_empty() => Ok(generate),
        _ => Err(CertifyError::Data(format!("task '{}' must make one generation request a document", task.name))),
    }
}

/// Compares the recorded `request` of a row. `more` knows the fields that only some harnesses record.
///
/// # Errors
/// When it has a field that nobody compares.
pub(super) fn check(
    report: &mut Folder,
    source: &Source,
    row: &Row,
    expected: &Map<String, Value>,
    got: &Generate,
    more: &dyn Fn(&str) -> Option<Value>,
) -> Result<(), CertifyError> {
    for (key, value) in expected {
        let got = match key.as_str() {
            "kind" => json!("generate"),
            "prompt" => json!(got.prompt),
            "stop" => json!(got.stop),
            "max_new_tokens" => json!(got.max_new_tokens),
            "temperature" => json!(got.sampling.temperature),
            other => more(other).ok_or_else(|| source.shape(Some(row.line), format!("request has an unknown field '{key}'")))?,
        };
        report.check_value(&source.name, &row.id, &format!("request.{key}"), value, &got);
    }
    Ok(())
}
