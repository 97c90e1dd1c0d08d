//! Attacks on the sandbox: every program must get a verdict that its row accepts. What it may have left on the host is looked for where a
//! row names a file; listeners, variables and planted files are prepared by the integration test, which runs the same rows.

use super::code::Programs;
use super::report::Folder;
use super::source::{CertifyError, Source, entries};
use crate::sandbox::{Executed, Verdict};
use serde_json::{Value, json};
use std::{path::Path, sync::atomic::AtomicBool};

/// Replays `attacks.jsonl`.
///
/// # Errors
/// When the file is not of this kind's shape, or nothing can be executed.
pub fn folder(folder: &Path, programs: Programs<'_>) -> Result<Folder, CertifyError> {
    let mut report = Folder::new("sandbox");
    for name in entries(folder)? {
        if name != "attacks.jsonl" {
            return Err(CertifyError::UnknownFile { path: folder.join(name), kind: "sandbox".into() });
        }
    }
    let source = Source::new(folder, "attacks.jsonl");
    let rows = source.rows()?;
    let texts = rows.iter().map(|row| source.text_of(&row.fields, "program", Some(row.line))).collect::<Result<Vec<_>, _>>()?;
    let mut found: Vec<Option<Executed>> = vec![None; rows.len()];
    programs()?.execute(&texts, &AtomicBool::new(false), &mut |i, e| found[i] = Some(e)).map_err(CertifyError::Sandbox)?;
    for (row, executed) in rows.iter().zip(found) {
        let line = Some(row.line);
        source.only_keys(&row.fields, &["name", "program", "expected", "accept", "must_not", "probe", "note"], line)?;
        report.rows += 1;
        let class = executed.map_or("", |e| class(&e.last.verdict));
        let name = source.text_of(&row.fields, "name", line)?;
        let accept = source.array_of(&row.fields, "accept", line)?.to_vec();
        // The recorded class where it is one of the accepted, so that a row compares equal exactly when its verdict is accepted.
        let got = if accept.contains(&json!(class)) { Value::Array(accept.clone()) } else { json!(class) };
        report.check_value(&source.name, name, "accept", &Value::Array(accept.clone()), &got);
        for path in absent_files(&row.fields) {
            report.check_value(&source.name, name, "probe", &json!(false), &json!(Path::new(path).exists()));
        }
    }
    Ok(report)
}

/// The words of the rows: an end without a report counts as a failure.
fn class(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "pass",
        Verdict::Failed { .. } | Verdict::Died { .. } => "fail",
        Verdict::TimedOut => "timeout",
    }
}

/// Files that must not be there afterwards; those below a home directory are the integration test's.
fn absent_files(row: &serde_json::Map<String, Value>) -> Vec<&str> {
    let Some(probe) = row.get("probe").filter(|p| p["kind"] == "file_absent") else { return Vec::new() };
    let paths = match &probe["path"] {
        Value::Array(paths) => paths.iter().filter_map(Value::as_str).collect(),
        other => other.as_str().into_iter().collect::<Vec<_>>(),
    };
    paths.into_iter().filter(|path| !path.starts_with('~')).collect()
}
