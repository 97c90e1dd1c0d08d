//! The result tree of the original team, swallow-evaluation tag v202407: a file a harness below `results/<model>/`, and what its aggregation makes
//! of them, `aggregated_result.json`.
//!
//! `swallow.csv` beside this file says where each of its columns stands: the first four fields are those of the original's
//! `scripts/column-path-key.csv`, the others say which number of ours belongs there. A column without a number is absent from the tree and -1.0 in
//! the aggregate, which is that format's way to say so.

use super::{ExportFile, pretty};
use crate::results::scores::{Scores, TaskScore};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, sync::LazyLock};

/// What stands for a missing value in this format.
const MISSING: f64 = -1.0;
/// What stands for the model's name in keys.
const MODEL_NAME: &str = "MODEL_NAME";

/// Where a column of the original's table stands, and which number of ours it is.
#[derive(Debug, Deserialize)]
struct Column {
    column: String,
    file: String,
    key: String,
    divisor: f64,
    suite: String,
    title: String,
    part: String,
    form: Form,
}

/// How the original writes a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    Number,
    /// A string with four decimals.
    Text,
    /// Not written: the mean of other columns (`key`, separated by semicolons) that have a number all.
    Mean,
}

static COLUMNS: LazyLock<Vec<Column>> = LazyLock::new(|| {
    let mut reader = csv::Reader::from_reader(include_str!("swallow.csv").as_bytes());
    reader.deserialize().collect::<Result<_, _>>().expect("the embedded table is well formed, a test reads it")
});

/// Where a model's files stand below `results/`: its hub id, or the last part of a path.
pub fn folder(model: &str) -> String {
    let parts: Vec<&str> = model.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect();
    match parts.as_slice() {
        [organisation, name] if !model.starts_with(['/', '.']) => format!("{organisation}/{name}"),
        [.., last] => (*last).to_owned(),
        [] => "model".to_owned(),
    }
}

/// The files that the run has numbers for, below `results/<model>/`.
pub fn files(scores: &Scores) -> Vec<ExportFile> {
    let model = folder(&scores.model);
    let mut trees: BTreeMap<&str, Value> = BTreeMap::new();
    for column in COLUMNS.iter() {
        let Some(value) = column.ours(scores) else { continue };
        let written = value * column.divisor;
        let leaf = if column.form == Form::Text { json!(format!("{written:.4}")) } else { json!(written) };
        insert(trees.entry(&column.file).or_insert_with(|| json!({})), &column.keys(&model), leaf);
    }
    trees.into_iter().map(|(file, tree)| ExportFile { path: format!("results/{model}/{file}"), text: pretty(&tree) }).collect()
}

/// `aggregated_result.json`, as the original's aggregation makes it. `read` gives the content of a file below `results/<model>/`, where it is.
pub fn aggregated(model: &str, read: impl Fn(&str) -> Option<Value>) -> ExportFile {
    let folder = folder(model);
    let mut trees: BTreeMap<&str, Option<Value>> = BTreeMap::new();
    let mut found: BTreeMap<&str, f64> = BTreeMap::new();
    for column in COLUMNS.iter().filter(|column| column.form != Form::Mean) {
        let tree = trees.entry(&column.file).or_insert_with(|| read(&column.file));
        if let Some(value) = tree.as_ref().and_then(|tree| number(tree, &column.keys(&folder))) {
            found.insert(&column.column, value / column.divisor);
        }
    }
    for column in COLUMNS.iter().filter(|column| column.form == Form::Mean) {
        let values: Option<Vec<f64>> = column.key.split(';').map(|name| found.get(name).copied()).collect();
        if let Some(values) = values {
            found.insert(&column.column, values.iter().sum::<f64>() / values.len() as f64);
        }
    }
    let value = |column: &Column| found.get(column.column.as_str()).copied().unwrap_or(MISSING);
    let result: Map<String, Value> = COLUMNS.iter().map(|column| (column.column.clone(), json!(value(column)))).collect();
    let overall: Vec<String> = result.values().map(Value::to_string).collect();
    let tasks: Vec<&String> = result.keys().collect();
    let text = pretty(&json!({ "model": model, "result": result, "overall": overall.join(","), "tasks": tasks }));
    ExportFile { path: format!("results/{folder}/aggregated_result.json"), text }
}

impl Column {
    fn ours(&self, scores: &Scores) -> Option<f64> {
        if self.suite != scores.suite || self.form == Form::Mean {
            return None;
        }
        if self.part == "average" {
            return scores.average;
        }
        let task: &TaskScore = scores.by_title(&self.title)?;
        match self.part.split_once(':') {
            Some(("group", path)) => task.groups.iter().find(|group| group.path == path && group.metric == task.metric)?.value,
            Some((_, metric)) => task.others.get(metric).copied(),
            None => task.value,
        }
    }

    fn keys(&self, folder: &str) -> Vec<String> {
        self.key.split('.').map(|key| if key == MODEL_NAME { folder.replace('/', "_") } else { key.to_owned() }).collect()
    }
}

/// Puts a value at a path of keys into a tree of objects.
fn insert(tree: &mut Value, keys: &[String], leaf: Value) {
    match (keys, tree) {
        ([last], Value::Object(fields)) => {
            fields.insert(last.clone(), leaf);
        }
        ([first, rest @ ..], Value::Object(fields)) => insert(fields.entry(first.clone()).or_insert_with(|| json!({})), rest, leaf),
        _ => unreachable!("no key of the embedded table ends inside another, a test holds it"),
    }
}

/// The number at a path of keys, written as a number or as text.
fn number(tree: &Value, keys: &[String]) -> Option<f64> {
    let leaf = keys.iter().try_fold(tree, |tree, key| tree.get(key))?;
    leaf.as_f64().or_else(|| leaf.as_str()?.parse().ok()).filter(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{reference, scores::GroupScore, scores::tests::task};

    fn tree(files: &[ExportFile], model: &str) -> impl Fn(&str) -> Option<Value> {
        let files: BTreeMap<String, String> = files.iter().map(|f| (f.path.clone(), f.text.clone())).collect();
        let folder = folder(model);
        move |path| serde_json::from_str(files.get(&format!("results/{folder}/{path}"))?).ok()
    }

    #[test]
    fn every_published_column_has_a_place_and_comes_back() {
        for suite in reference::SUITES {
            let titles = reference::columns(suite).expect("published").titles();
            let tasks: Vec<TaskScore> = titles.iter().enumerate().map(|(i, title)| task(title, 0.25 + i as f64 / 64.0)).collect();
            let scores = Scores::new("swallow-202407", suite, "org/some-model", false, tasks);
            let aggregate = aggregated(&scores.model, tree(&files(&scores), &scores.model));
            let aggregate: Value = serde_json::from_str(&aggregate.text).expect("JSON");
            for title in titles {
                let column = COLUMNS.iter().find(|c| c.suite == suite && c.title == title && c.part.is_empty()).expect(title);
                let got = aggregate["result"][&column.column].as_f64().expect("a number");
                let ours = scores.by_title(title).and_then(|t| t.value).expect("a number");
                // The harness of these files writes four decimals.
                let width = if column.form == Form::Text { 0.5e-4 } else { 1e-15 };
                assert!((got - ours).abs() <= width, "{title}: {got} {ours}");
            }
        }
    }

    #[test]
    fn parts_means_and_missing_values() {
        let mut jmmlu = task("JMMLU", 0.5);
        jmmlu.groups = vec![GroupScore { path: "stem".into(), metric: "exact_match".into(), value: Some(0.75), stderr: None, n: 4 }];
        let tasks = vec![task("JEMHopQA", 0.5), task("NIILC", 0.25), jmmlu];
        let scores = Scores::new("swallow-202407", "ja", "/models/mine", false, tasks);
        let files = files(&scores);
        assert!(files.iter().all(|file| file.path.starts_with("results/mine/ja/llmjp/")), "{files:?}");
        let aggregate: Value = serde_json::from_str(&aggregated(&scores.model, tree(&files, &scores.model)).text).expect("JSON");
        for (column, expected) in [("QA", 0.375), ("jmmlu_stem", 0.75), ("jmmlu_other", -1.0), ("MC", -1.0), ("NLI", -1.0), ("gsm8k", -1.0)]
        {
            assert_eq!(aggregate["result"][column], expected, "{column}");
        }
    }

    #[test]
    fn model_names_become_folders() {
        for (model, expected) in [
            ("org/some-model", "org/some-model"),
            ("/data/models/x", "x"),
            ("./models/x/", "x"),
            ("../x", "x"),
            ("a/../b", "a/b"),
            ("gpt-4o", "gpt-4o"),
            ("..", "model"),
            ("", "model"),
        ] {
            assert_eq!(folder(model), expected, "{model}");
        }
    }
}
