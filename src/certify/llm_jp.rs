//! Goldens of the five llm-jp-eval tasks: prompts, extractions, scores, full-set digests, JMMLU's groups.

use super::asked;
use super::report::Folder;
use super::source::{CertifyError, Row, Source, entries};
use crate::answer::{self, Answer};
use crate::dataset::Record;
use crate::engine::{EndTokens, ModelFacts};
use crate::metric::{self, Evidence, Metric, Reference, Resources, Score};
use crate::prompt::{fewshot, requests};
use crate::task::{Task, document::Document};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Records of a data set's split, or why they are not at hand.
pub type Data<'d> = &'d dyn Fn(&str, &str) -> Result<Vec<Record>, String>;

/// Splits and documents of a task, where its data is at hand.
struct FullSet {
    documents: Vec<Document>,
    drawn: Option<fewshot::Drawn>,
}

/// Replays one task folder. `data` gives the raw records where they are at hand.
///
/// # Errors
/// When a file is missing, is not of this kind's shape, or a template of the task fails.
pub fn task_folder(folder: &Path, task: &Task, data: Option<Data<'_>>) -> Result<Folder, CertifyError> {
    let mut report = Folder::new("");
    for name in entries(folder)? {
        match name.as_str() {
            "requests.jsonl" | "scoring.jsonl" | "summary.json" | "fewshot.json" | "category_full.json" => {}
            "scoring_v202411.jsonl" => report.outside.push((name.clone(), Source::new(folder, &name).rows()?.len() as u64)),
            _ => return Err(CertifyError::UnknownFile { path: folder.join(name), kind: "ja-llmjp".into() }),
        }
    }
    let full = full_set(task, data, &mut report)?;
    let shots = fewshot_file(&mut report, &Source::new(folder, "fewshot.json"), task, &full)?;
    let documents = requests_file(&mut report, &Source::new(folder, "requests.jsonl"), task, &shots, &full)?;
    let scores = scoring_file(&mut report, &Source::new(folder, "scoring.jsonl"), task, &documents)?;
    summary_file(&mut report, &Source::new(folder, "summary.json"), task, &scores, &full, &shots)?;
    let categories = Source::new(folder, "category_full.json");
    if folder.join(&categories.name).exists() {
        category_file(&mut report, &categories, task, &full)?;
    }
    Ok(report)
}

/// Draws the task from raw data. Where only the shots' file is missing the documents alone are used (JSQuAD: its recorded shots are
/// substitutes).
fn full_set(task: &Task, data: Option<Data<'_>>, report: &mut Folder) -> Result<FullSet, CertifyError> {
    let mut full = FullSet { documents: Vec::new(), drawn: None };
    let Some(data) = data else {
        report.left_out.push("full-set digests and shot positions: no data given (SWALLOW_EVAL_DATA)".into());
        return Ok(full);
    };
    let mut sets = Vec::new();
    for split in fewshot::splits(task) {
        match data(&task.file.dataset, &split) {
            Ok(records) => sets.push(task.documents(&split, records)?),
            Err(why) if !sets.is_empty() && task.file.subset.is_empty() => {
                report.left_out.push(format!("shots drawn from raw data: {why}"));
                full.documents = sets.remove(0);
                return Ok(full);
            }
            Err(why) => return Err(CertifyError::Data(why)),
        }
    }
    let drawn =
        fewshot::draw(task, sets, task.file.shots as usize, &ModelFacts::default()).map_err(|e| CertifyError::Data(e.to_string()))?;
    full.documents = drawn.documents.clone();
    full.drawn = Some(drawn);
    Ok(full)
}

/// `fewshot.json`: the shots' input and output from their records, and the same shots drawn from raw data. Returns the shots.
fn fewshot_file(report: &mut Folder, source: &Source, task: &Task, full: &FullSet) -> Result<Vec<Document>, CertifyError> {
    let file = source.object()?;
    source.only_keys(&file, &["num_fewshot", "selection", "documents", "note", "real_protocol_indices"], None)?;
    report.check_value(&source.name, "", "num_fewshot", source.value_of(&file, "num_fewshot", None)?, &json!(task.file.shots));
    let mut shots = Vec::new();
    for (position, entry) in source.array_of(&file, "documents", None)?.iter().enumerate() {
        let row = format!("documents[{position}]");
        let entry = entry.as_object().ok_or_else(|| source.shape(None, format!("{row} must be an object")))?;
        source.only_keys(entry, &["doc", "input", "output", "index_in_filtered_train_source"], None)?;
        let shot = task.document(source.object_of(entry, "doc", None)?.clone(), &row)?;
        report.rows += 1;
        report.check_text(&source.name, &row, "input", source.text_of(entry, "input", None)?, &shot.input);
        report.check_text(&source.name, &row, "output", source.text_of(entry, "output", None)?, &shot.output);
        if let Some(drawn) = &full.drawn {
            let got = drawn.shots.first().and_then(|s| s.get(position));
            let fields = got.map(|s| Value::Object(s.fields.clone())).unwrap_or_default();
            report.check_value(&source.name, &row, "doc", &Value::Object(shot.fields.clone()), &fields);
            if let Some(index) = entry.get("index_in_filtered_train_source").filter(|i| !i.is_null()) {
                report.check_value(&source.name, &row, "index_in_filtered_train_source", index, &json!(got.map(|s| s.row)));
            }
        }
        shots.push(shot);
    }
    Ok(shots)
}

/// `requests.jsonl`: the request made of each document. Returns the documents by id.
fn requests_file(
    report: &mut Folder,
    source: &Source,
    task: &Task,
    shots: &[Document],
    full: &FullSet,
) -> Result<BTreeMap<String, Document>, CertifyError> {
    let mut documents = BTreeMap::new();
    for row in source.rows()? {
        source.only_keys(&row.fields, &["doc_id", "doc", "request"], Some(row.line))?;
        let document = task.document(source.object_of(&row.fields, "doc", Some(row.line))?.clone(), &row.id)?;
        report.rows += 1;
        let expected = source.object_of(&row.fields, "request", Some(row.line))?;
        asked::check(report, source, &row, expected, &asked::generate(task, &document, shots, &ModelFacts::default())?, &|_| None)?;
        let prefix = format!("{}/test/", task.name);
        let index = row.id.strip_prefix(&prefix).and_then(|i| i.parse::<usize>().ok());
        let index = index.ok_or_else(|| source.shape(Some(row.line), format!("doc_id must be {prefix}INDEX")))?;
        if !full.documents.is_empty() {
            let got = full.documents.get(index).map(|d| Value::Object(d.fields.clone())).unwrap_or_default();
            report.check_value(&source.name, &row.id, "doc", &Value::Object(document.fields.clone()), &got);
        }
        documents.insert(row.id.clone(), document);
    }
    Ok(documents)
}

/// `scoring.jsonl`: response to extraction to scores. Returns every metric's scores in row order.
fn scoring_file(
    report: &mut Folder,
    source: &Source,
    task: &Task,
    documents: &BTreeMap<String, Document>,
) -> Result<BTreeMap<&'static str, Vec<Score>>, CertifyError> {
    let mut scores = BTreeMap::new();
    for row in source.rows()? {
        source.only_keys(&row.fields, &["doc_id", "response", "extracted", "reference", "scores"], Some(row.line))?;
        let document = documents.get(&row.id).ok_or_else(|| source.shape(Some(row.line), "doc_id is not in requests.jsonl"))?;
        report.rows += 1;
        check_scoring(report, source, &row, task, &answer::reference(task, document), &mut scores)?;
    }
    Ok(scores)
}

/// Extraction, reference and every score of one row.
fn check_scoring(
    report: &mut Folder,
    source: &Source,
    row: &Row,
    task: &Task,
    reference: &Reference,
    scores: &mut BTreeMap<&'static str, Vec<Score>>,
) -> Result<(), CertifyError> {
    let Answer::Text(extracted) = answer::extract(task, source.text_of(&row.fields, "response", Some(row.line))?);
    report.check_text(&source.name, &row.id, "extracted", source.text_of(&row.fields, "extracted", Some(row.line))?, &extracted);
    let gold = reference.texts.first().map(String::as_str).unwrap_or_default();
    report.check_text(&source.name, &row.id, "reference", source.text_of(&row.fields, "reference", Some(row.line))?, gold);
    let evidence = [Evidence::Text(extracted)];
    for (name, expected) in source.object_of(&row.fields, "scores", Some(row.line))? {
        let metric = known_metric(source, name, Some(row.line))?;
        let score = metric.score(&Resources::default(), reference, &evidence);
        report.check_value(&source.name, &row.id, &format!("scores.{name}"), expected, &json!(score.value));
        scores.entry(metric.name()).or_default().push(score);
    }
    Ok(())
}

fn known_metric(source: &Source, name: &str, line: Option<usize>) -> Result<&'static dyn Metric, CertifyError> {
    metric::by_name(name).ok_or_else(|| source.shape(line, format!("'{name}' is not a metric of this program")))
}

/// `summary.json`: aggregates, settings, digests over the whole test set.
fn summary_file(
    report: &mut Folder,
    source: &Source,
    task: &Task,
    scores: &BTreeMap<&'static str, Vec<Score>>,
    full: &FullSet,
    shots: &[Document],
) -> Result<(), CertifyError> {
    let file = source.object()?;
    let known = ["n", "metrics", "metrics_formatted_by_upstream", "primary_metric", "settings", "full_test_set", "produced_with", "note"];
    source.only_keys(&file, &known, None)?;
    let headline = metric::by_name(&task.file.headline).expect("checked when the task was loaded");
    let rows = scores.get(headline.name()).map(Vec::as_slice).unwrap_or_default();
    let value = headline.aggregate(rows);
    let key = format!("{}_{}", task.name, headline.name());
    report.check_value(&source.name, "", "n", source.value_of(&file, "n", None)?, &json!(rows.len()));
    report.check_value(&source.name, "", "metrics", source.value_of(&file, "metrics", None)?, &json!({ key.as_str(): value }));
    let formatted = value.map(|v| format!("{v:.4}"));
    report.check_value(
        &source.name,
        "",
        "metrics_formatted_by_upstream",
        source.value_of(&file, "metrics_formatted_by_upstream", None)?,
        &json!({ key.as_str(): formatted }),
    );
    report.check_value(&source.name, "", "primary_metric", source.value_of(&file, "primary_metric", None)?, &json!(key));
    settings(report, source, task, source.object_of(&file, "settings", None)?)?;
    full_test_set(report, source, task, source.object_of(&file, "full_test_set", None)?, full, shots)
}

fn settings(report: &mut Folder, source: &Source, task: &Task, settings: &Map<String, Value>) -> Result<(), CertifyError> {
    source.only_keys(settings, &["num_fewshot", "pipeline_kwargs", "split", "sample", "doc_id"], None)?;
    report.check_value(&source.name, "", "settings.num_fewshot", source.value_of(settings, "num_fewshot", None)?, &json!(task.file.shots));
    let request = &task.file.request;
    for (key, expected) in source.object_of(settings, "pipeline_kwargs", None)? {
        let got = match key.as_str() {
            "max_new_tokens" => json!(request.max_new_tokens),
            "do_sample" => json!(request.sampling.temperature != 0.0),
            "repetition_penalty" => json!(request.sampling.repetition_penalty),
            "eos_token_id" => json!(match request.end {
                EndTokens::Tokenizer => "tokenizer.eos_token_id",
                EndTokens::GenerationConfig => "generation_config.eos_token_id",
            }),
            // Padding never happens: upstream asks one prompt a call.
            "pad_token_id" => continue,
            _ => return Err(source.shape(None, format!("settings.pipeline_kwargs has an unknown field '{key}'"))),
        };
        report.check_value(&source.name, "", &format!("settings.pipeline_kwargs.{key}"), expected, &got);
    }
    Ok(())
}

/// Digests and sizes over the whole test set; `mock_run` is not compared, its responses are not recorded.
fn full_test_set(
    report: &mut Folder,
    source: &Source,
    task: &Task,
    expected: &Map<String, Value>,
    full: &FullSet,
    shots: &[Document],
) -> Result<(), CertifyError> {
    let known = ["n", "n_train", "n_dev", "sha256_prompts", "sha256_golds", "digest_rule", "mock_run", "mock_run_formatted"];
    source.only_keys(expected, &known, None)?;
    if full.documents.is_empty() {
        return Ok(());
    }
    let (prompts, golds) = digests(task, &full.documents, |_| shots)?;
    let mut got = vec![("n", json!(full.documents.len())), ("sha256_prompts", json!(prompts)), ("sha256_golds", json!(golds))];
    if let Some(drawn) = &full.drawn {
        got.extend([("n_train", json!(drawn.pool)), ("n_dev", json!(drawn.unused))]);
    }
    for (key, got) in got {
        if let Some(expected) = expected.get(key) {
            report.check_value(&source.name, "", &format!("full_test_set.{key}"), expected, &got);
        }
    }
    Ok(())
}

/// Digests of all prompts and all references, in order.
///
/// # Errors
/// When a template fails.
pub fn digests<'s>(task: &Task, documents: &[Document], shots: impl Fn(usize) -> &'s [Document]) -> Result<(String, String), CertifyError> {
    let mut prompts = Vec::with_capacity(documents.len());
    for (position, document) in documents.iter().enumerate() {
        prompts.push(requests::prompt(task, document, shots(position), &ModelFacts::default())?);
    }
    let golds: Vec<String> = documents.iter().flat_map(|d| answer::reference(task, d).texts.into_iter().take(1)).collect();
    Ok((requests::digest(prompts.iter().map(String::as_str)), requests::digest(golds.iter().map(String::as_str))))
}

/// `category_full.json`: a mock run over all documents. Compared by true subject; upstream's own table is compared after filing the
/// documents it lists under another subject where upstream filed them.
fn category_file(report: &mut Folder, source: &Source, task: &Task, full: &FullSet) -> Result<(), CertifyError> {
    let file = source.object()?;
    let moved_key = "documents_upstream_files_under_another_subject";
    let known = ["responses_in_test_order", "upstream_per_task_json", "listdir_order", moved_key, "with_true_subjects"];
    source.only_keys(&file, &known, None)?;
    if full.documents.is_empty() {
        return Ok(());
    }
    let responses = source.array_of(&file, "responses_in_test_order", None)?;
    report.rows += responses.len() as u64;
    if responses.len() != full.documents.len() {
        return Err(source.shape(None, format!("{} responses stand for {} documents", responses.len(), full.documents.len())));
    }
    let mut subjects: Vec<&str> = full.documents.iter().map(|d| d.subset.as_str()).collect();
    let hits: Vec<bool> = full
        .documents
        .iter()
        .zip(responses)
        .map(|(document, response)| {
            let Answer::Text(text) = answer::extract(task, response.as_str().unwrap_or_default());
            metric::exact_match::ExactMatch.score(&Resources::default(), &answer::reference(task, document), &[Evidence::Text(text)]).value
                == 1.0
        })
        .collect();
    let tally = Tally::of(task, &subjects, &hits);
    for (subject, expected) in source.object_of(&file, "with_true_subjects", None)? {
        let (correct, n) = tally.0.get(subject.as_str()).copied().unwrap_or_default();
        report.check_value(&source.name, subject, "with_true_subjects", expected, &json!({"correct": correct, "n": n}));
    }
    for entry in source.array_of(&file, moved_key, None)? {
        let index = entry["test_index"].as_u64().ok_or_else(|| source.shape(None, "'test_index' must be a number"))? as usize;
        let subject = subjects.get_mut(index).ok_or_else(|| source.shape(None, format!("test_index {index} is beyond the test set")))?;
        report.check_value(&source.name, &index.to_string(), "true_subject", &entry["true_subject"], &json!(subject));
        *subject = entry["upstream_subject"].as_str().ok_or_else(|| source.shape(None, "'upstream_subject' must be text"))?;
    }
    let tally = Tally::of(task, &subjects, &hits);
    let upstream = source.object_of(&file, "upstream_per_task_json", None)?;
    for (key, expected) in source.object_of(upstream, "results", None)? {
        let name = key.strip_prefix(&format!("{}_", task.name)).unwrap_or("__all__");
        let got = tally.0.get(name).map(|(correct, n)| *correct as f64 / *n as f64);
        report.check_value(&source.name, key, "upstream_per_task_json", expected, &json!(got));
    }
    Ok(())
}

/// Right answers and documents by subject, group and in all.
struct Tally<'n>(BTreeMap<&'n str, (u64, u64)>);

impl<'n> Tally<'n> {
    fn of(task: &'n Task, subjects: &[&'n str], hits: &[bool]) -> Self {
        let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for (subject, hit) in subjects.iter().zip(hits) {
            let group = task.file.subset.iter().find(|s| s.name == *subject).map(|s| s.group.as_str());
            for name in [Some(*subject), group, Some("__all__")].into_iter().flatten() {
                let entry = counts.entry(name).or_default();
                entry.0 += u64::from(*hit);
                entry.1 += 1;
            }
        }
        Tally(counts)
    }
}

/// `_metrics/`: torture pairs and exact means.
///
/// # Errors
/// When a file is missing or not of this kind's shape.
pub fn metrics_folder(folder: &Path, task: &Task) -> Result<Folder, CertifyError> {
    let mut report = Folder::new("");
    for name in entries(folder)? {
        match name.as_str() {
            "pairs.jsonl" | "mean_vectors.json" | "summary.json" => {}
            "pairs_v202411.jsonl" => report.outside.push((name.clone(), Source::new(folder, &name).rows()?.len() as u64)),
            _ => return Err(CertifyError::UnknownFile { path: folder.join(name), kind: "ja-llmjp/_metrics".into() }),
        }
    }
    let pairs = Source::new(folder, "pairs.jsonl");
    let mut scores = BTreeMap::new();
    let mut n = 0;
    for row in pairs.rows()? {
        pairs.only_keys(&row.fields, &["id", "response", "gold", "extracted", "reference", "scores"], Some(row.line))?;
        let gold = pairs.text_of(&row.fields, "gold", Some(row.line))?;
        let reference = Reference::of([answer::steps::apply(&task.file.document.reference, gold)]);
        report.rows += 1;
        n += 1;
        check_scoring(&mut report, &pairs, &row, task, &reference, &mut scores)?;
    }
    let summary = Source::new(folder, "summary.json");
    let file = summary.object()?;
    summary.only_keys(&file, &["n", "metrics", "settings", "produced_with"], None)?;
    report.check_value(&summary.name, "", "n", summary.value_of(&file, "n", None)?, &json!(n));
    for (name, expected) in summary.object_of(&file, "metrics", None)? {
        let metric = known_metric(&summary, name, None)?;
        let got = metric.aggregate(scores.get(metric.name()).map(Vec::as_slice).unwrap_or_default());
        report.check_value(&summary.name, "", &format!("metrics.{name}"), expected, &json!(got));
    }
    mean_vectors(&mut report, &Source::new(folder, "mean_vectors.json"))?;
    Ok(report)
}

/// Means of hundredths: the double and its four decimals.
fn mean_vectors(report: &mut Folder, source: &Source) -> Result<(), CertifyError> {
    let file = source.object()?;
    source.only_keys(&file, &["rule", "vectors"], None)?;
    for (index, vector) in source.array_of(&file, "vectors", None)?.iter().enumerate() {
        let row = format!("vectors[{index}]");
        let vector = vector.as_object().ok_or_else(|| source.shape(None, format!("{row} must be an object")))?;
        source.only_keys(vector, &["scores_x100", "mean", "formatted", "tie_at_4_decimals"], None)?;
        let hundredths: Vec<f64> = source.array_of(vector, "scores_x100", None)?.iter().filter_map(Value::as_f64).collect();
        let mean = metric::aggregate::exact_mean(hundredths.iter().map(|s| s / 100.0));
        report.rows += 1;
        report.check_value(&source.name, &row, "mean", source.value_of(vector, "mean", None)?, &json!(mean));
        report.check_value(
            &source.name,
            &row,
            "formatted",
            source.value_of(vector, "formatted", None)?,
            &json!(mean.map(|m| format!("{m:.4}"))),
        );
    }
    Ok(())
}
