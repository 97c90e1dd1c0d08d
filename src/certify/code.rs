//! Goldens of the code tasks: prompts, candidates cut out of answers, verdicts of executed programs, pass@k, answer ratio.

use super::report::Folder;
use super::source::{CertifyError, Row, Source, entries};
use crate::answer::program;
use crate::engine::ModelFacts;
use crate::metric::{self, Evidence, Metric, Reference, Resources, Score, answer_ratio, pass_at_k};
use crate::prompt::requests;
use crate::sandbox::{Executed, Sandbox};
use crate::task::{EosStop, Task, document::Document};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, path::Path, sync::atomic::AtomicBool};

/// Chooses a sandbox, once something must be executed.
pub type Programs<'p> = &'p dyn Fn() -> Result<Sandbox, CertifyError>;

/// Documents by record number.
type Documents = BTreeMap<usize, Document>;

/// The text that stands for the model's own end token in recorded requests.
const EOS: &str = "<tokenizer eos_token>";

/// Replays the folder of one task.
///
/// # Errors
/// When a file is missing or not of this kind's shape, or nothing can be executed.
pub fn task_folder(folder: &Path, task: &Task, programs: Programs<'_>) -> Result<Folder, CertifyError> {
    const FILES: [&str; 6] = ["requests.jsonl", "postprocess.jsonl", "scoring.jsonl", "pass_at_k_run.json", "summary.json", "fewshot.json"];
    let mut report = Folder::new("");
    if let Some(name) = entries(folder)?.into_iter().find(|name| !FILES.contains(&name.as_str())) {
        return Err(CertifyError::UnknownFile { path: folder.join(name), kind: "code".into() });
    }
    let documents = requests_file(&mut report, &Source::new(folder, "requests.jsonl"), task)?;
    postprocess_file(&mut report, &Source::new(folder, "postprocess.jsonl"), task, &documents)?;
    let sandbox = programs()?;
    let passed = scoring_file(&mut report, &Source::new(folder, "scoring.jsonl"), task, &documents, &sandbox)?;
    let shares = run_file(&mut report, &Source::new(folder, "pass_at_k_run.json"), &documents, &sandbox)?;
    summary_file(&mut report, &Source::new(folder, "summary.json"), task, &passed, &shares)?;
    let fewshot = Source::new(folder, "fewshot.json");
    report.check_value(&fewshot.name, "", "", &json!([]), &serde_json::from_str(&fewshot.text()?).unwrap_or_default());
    Ok(report)
}

fn requests_file(report: &mut Folder, source: &Source, task: &Task) -> Result<Documents, CertifyError> {
    let mut documents = BTreeMap::new();
    for row in source.rows()? {
        source.only_keys(&row.fields, &["doc_id", "index", "doc", "request"], Some(row.line))?;
        let document = task.document(source.object_of(&row.fields, "doc", Some(row.line))?.clone(), &row.id)?;
        report.rows += 1;
        let prompt = requests::prompt(task, &document, &[], &ModelFacts::default()).map_err(|e| CertifyError::Data(e.to_string()))?;
        let rule = &task.file.request;
        for (key, value) in source.object_of(&row.fields, "request", Some(row.line))? {
            let got = match key.as_str() {
                "kind" => json!("generate"),
                "prompt" => json!(prompt),
                "stop" => json!(rule.stop),
                "stop_also" => json!((rule.eos_stop == EosStop::Last).then_some(EOS)),
                "max_total_tokens" => json!(rule.max_total_tokens),
                "temperature" => json!(rule.sampling.temperature),
                "top_p" => json!(rule.sampling.top_p),
                "top_k" => json!(rule.sampling.top_k),
                "n" => json!(rule.samples),
                _ => return Err(source.shape(Some(row.line), format!("request has an unknown field '{key}'"))),
            };
            report.check_value(&source.name, &row.id, &format!("request.{key}"), value, &got);
        }
        documents.insert(number(source, &row.id, Some(row.line))?, document);
    }
    Ok(documents)
}

/// Record number of a document: ids of one task are written with the prefix of either data set.
fn number(source: &Source, id: &str, line: Option<usize>) -> Result<usize, CertifyError> {
    let number = id.rsplit_once('/').and_then(|(_, number)| number.parse().ok());
    number.ok_or_else(|| source.shape(line, format!("'{id}' must be a name, a stroke and the record's number")))
}

fn find<'d>(documents: &'d Documents, source: &Source, id: &str, line: Option<usize>) -> Result<&'d Document, CertifyError> {
    let document = documents.get(&number(source, id, line)?);
    document.ok_or_else(|| source.shape(line, format!("document '{id}' is not in requests.jsonl")))
}

/// `postprocess.jsonl`: an answer, or a whole decoded text, to the candidate.
fn postprocess_file(report: &mut Folder, source: &Source, task: &Task, documents: &Documents) -> Result<(), CertifyError> {
    for row in source.rows()? {
        let line = Some(row.line);
        let known = ["doc_id", "index", "tokenizer", "eos_token", "kind", "response", "raw_decoded", "extracted", "extracted_completion"];
        source.only_keys(&row.fields, &known, line)?;
        report.rows += 1;
        let prompt = &find(documents, source, &row.id, line)?.input;
        let stops = requests::stops(&task.file.request, Some(source.text_of(&row.fields, "eos_token", line)?));
        let response = match source.value_of(&row.fields, "response", line)? {
            Value::Null => program::completion(source.text_of(&row.fields, "raw_decoded", line)?, prompt),
            _ => source.text_of(&row.fields, "response", line)?,
        };
        let candidate = program::candidate(prompt, response, &stops);
        let row_name = format!("line {} ({})", row.line, row.id);
        report.check_text(&source.name, &row_name, "extracted", source.text_of(&row.fields, "extracted", line)?, &candidate);
        let completion = source.text_of(&row.fields, "extracted_completion", line)?;
        report.check_text(&source.name, &row_name, "extracted_completion", completion, &candidate[prompt.len()..]);
    }
    Ok(())
}

/// `scoring.jsonl`: candidates and tests to verdicts. Returns which passed, in row order.
fn scoring_file(
    report: &mut Folder,
    source: &Source,
    task: &Task,
    documents: &Documents,
    sandbox: &Sandbox,
) -> Result<Vec<bool>, CertifyError> {
    let rows = source.rows()?;
    let mut programs = Vec::new();
    for row in &rows {
        programs.push(scored_program(report, source, task, row, documents)?);
    }
    let sensitive = |row: &Row| row.fields.get("timing_sensitive").and_then(Value::as_bool).unwrap_or(false);
    let (alone, beside): (Vec<usize>, Vec<usize>) = (0..rows.len()).partition(|i| sensitive(&rows[*i]));
    let texts: Vec<&str> = beside.iter().map(|i| programs[*i].as_str()).collect();
    let mut verdicts: BTreeMap<usize, &'static str> =
        beside.iter().copied().zip(executed(sandbox, &texts)?.iter().map(|e| e.last.verdict.class())).collect();
    for index in alone {
        verdicts.insert(index, sandbox.execute_alone(&programs[index]).map_err(CertifyError::Sandbox)?.verdict.class());
    }
    for (index, row) in rows.iter().enumerate() {
        let result = source.text_of(&row.fields, "result", Some(row.line))?;
        let class = result.split_once(':').map_or(result, |(class, _)| class);
        let name = format!("line {} ({})", row.line, row.id);
        report.check_text(&source.name, &name, "result", class, verdicts[&index]);
        let scores = source.object_of(&row.fields, "scores", Some(row.line))?;
        source.only_keys(scores, &["passed"], Some(row.line))?;
        let passed = json!(f64::from(u8::from(verdicts[&index] == "passed")));
        report.check_value(&source.name, &name, "scores.passed", source.value_of(scores, "passed", Some(row.line))?, &passed);
    }
    Ok(verdicts.values().map(|class| *class == "passed").collect())
}

/// The program of a row, each of its parts compared on the way.
fn scored_program(report: &mut Folder, source: &Source, task: &Task, row: &Row, documents: &Documents) -> Result<String, CertifyError> {
    let (line, fields) = (Some(row.line), &row.fields);
    let known = ["doc_id", "index", "kind", "response", "extracted", "reference", "program_sha256", "timing_sensitive", "result", "scores"];
    source.only_keys(fields, &known, line)?;
    report.rows += 1;
    let document = find(documents, source, &row.id, line)?;
    let candidate = program::candidate(&document.input, source.text_of(fields, "response", line)?, &task.file.request.stop);
    let program = program::assemble(&candidate, &document.gold);
    let name = format!("line {} ({})", row.line, row.id);
    report.check_text(&source.name, &name, "extracted", source.text_of(fields, "extracted", line)?, &candidate);
    report.check_text(&source.name, &name, "reference", source.text_of(fields, "reference", line)?, &document.gold);
    let digest: String = Sha256::digest(&program).iter().map(|b| format!("{b:02x}")).collect();
    report.check_text(&source.name, &name, "program_sha256", source.text_of(fields, "program_sha256", line)?, &digest);
    Ok(program)
}

fn executed(sandbox: &Sandbox, programs: &[&str]) -> Result<Vec<Executed>, CertifyError> {
    let mut found: Vec<Option<Executed>> = vec![None; programs.len()];
    sandbox.execute(programs, &AtomicBool::new(false), &mut |i, e| found[i] = Some(e)).map_err(CertifyError::Sandbox)?;
    Ok(found.into_iter().flatten().collect())
}

/// `pass_at_k_run.json`: candidates of whole problems to verdicts and pass@k. Returns pass@k by name.
fn run_file(report: &mut Folder, source: &Source, documents: &Documents, sandbox: &Sandbox) -> Result<Map<String, Value>, CertifyError> {
    let file = source.object()?;
    source.only_keys(&file, &["task_ids", "predictions", "correct", "pass_at_k"], None)?;
    let text = |v: &Value| v.as_str().map(str::to_owned).ok_or_else(|| source.shape(None, "text is expected"));
    let mut problems = Vec::new();
    let ids = source.array_of(&file, "task_ids", None)?;
    for (id, candidates) in ids.iter().zip(source.array_of(&file, "predictions", None)?) {
        let tests = &find(documents, source, &text(id)?, None)?.gold;
        let candidates = candidates.as_array().ok_or_else(|| source.shape(None, "predictions must be arrays"))?;
        problems.push(candidates.iter().map(|c| Ok(program::assemble(&text(c)?, tests))).collect::<Result<Vec<_>, CertifyError>>()?);
    }
    let flat: Vec<&str> = problems.iter().flatten().map(String::as_str).collect();
    let mut verdicts = executed(sandbox, &flat)?.into_iter().map(|e| e.last.verdict.passed());
    let mut scores: [Vec<Score>; 2] = Default::default();
    for (index, (problem, correct)) in problems.iter().zip(source.array_of(&file, "correct", None)?).enumerate() {
        report.rows += 1;
        let passed: Vec<bool> = verdicts.by_ref().take(problem.len()).collect();
        report.check_value(&source.name, &format!("correct[{index}]"), "correct", correct, &json!(passed));
        let evidence: Vec<Evidence> = passed.into_iter().map(Evidence::Passed).collect();
        for (metric, scores) in [pass_at_k::PassAtK::ONE, pass_at_k::PassAtK::TEN].iter().zip(&mut scores) {
            scores.push(metric.score(&Resources::default(), &Reference::default(), &evidence));
        }
    }
    let mut got = Map::new();
    for (metric, scores) in [pass_at_k::PassAtK::ONE, pass_at_k::PassAtK::TEN].iter().zip(&scores) {
        got.insert(metric.name().into(), json!(metric.aggregate(scores)));
    }
    for (name, value) in source.object_of(&file, "pass_at_k", None)? {
        report.check_value(&source.name, "", &format!("pass_at_k.{name}"), value, got.get(name).unwrap_or(&Value::Null));
    }
    Ok(got)
}

fn summary_file(
    report: &mut Folder,
    source: &Source,
    task: &Task,
    passed: &[bool],
    shares: &Map<String, Value>,
) -> Result<(), CertifyError> {
    let file = source.object()?;
    source.only_keys(&file, &["n", "metrics", "settings", "produced_with"], None)?;
    report.check_value(&source.name, "", "n", source.value_of(&file, "n", None)?, &json!(passed.len()));
    let share = passed.iter().filter(|p| **p).count() as f64 / passed.len() as f64;
    for (name, value) in source.object_of(&file, "metrics", None)? {
        let got = match name.strip_suffix(" (pass_at_k_run.json)") {
            Some(k) => shares.get(k).cloned().unwrap_or_default(),
            None if name == "passed" => json!(share),
            None => return Err(source.shape(None, format!("metrics has an unknown field '{name}'"))),
        };
        report.check_value(&source.name, "", &format!("metrics.{name}"), value, &got);
    }
    let stops = source.value_of(source.object_of(&file, "settings", None)?, "stop_words", None)?;
    report.check_value(&source.name, "", "settings.stop_words", stops, &json!(task.file.request.stop));
    Ok(())
}

/// Replays `pass_at_k` or `answer_ratio`: formulas without programs.
///
/// # Errors
/// When a file is missing or not of this kind's shape.
pub fn formulas(folder: &Path) -> Result<Folder, CertifyError> {
    let mut report = Folder::new("");
    for name in entries(folder)? {
        let source = Source::new(folder, &name);
        for row in source.rows()? {
            report.rows += 1;
            let place = format!("line {}", row.line);
            for (field, expected, got) in formula(&source, &row)? {
                report.check_value(&name, &place, field, expected, &got);
            }
        }
    }
    Ok(report)
}

/// Field, recorded value and ours for every result of a row.
fn formula<'r>(source: &Source, row: &'r Row) -> Result<Vec<(&'static str, &'r Value, Value)>, CertifyError> {
    let (fields, line) = (&row.fields, Some(row.line));
    let shape = |what: &str| source.shape(line, what.to_owned());
    let number = |key: &str| fields.get(key).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    match source.name.as_str() {
        "estimator.jsonl" => {
            source.only_keys(fields, &["n", "c", "k", "pass_at_k"], line)?;
            let (n, c, k) = (number("n").zip(number("c")))
                .zip(number("k"))
                .map(|((n, c), k)| (n, c, k))
                .ok_or_else(|| shape("n, c and k must be counts"))?;
            Ok(vec![("pass_at_k", source.value_of(fields, "pass_at_k", line)?, json!(pass_at_k::estimate(n, c, k)))])
        }
        "means.jsonl" => {
            source.only_keys(fields, &["n", "correct", "pass@1", "pass@10"], line)?;
            let n = number("n").ok_or_else(|| shape("n must be a count"))?;
            let correct: Option<Vec<u64>> = source.array_of(fields, "correct", line)?.iter().map(Value::as_u64).collect();
            let correct = correct.ok_or_else(|| shape("correct must be counts"))?;
            let evidence = |c: u64| (0..n).map(|i| Evidence::Passed(u64::from(i) < c)).collect::<Vec<_>>();
            let problems: Vec<_> = correct.into_iter().map(evidence).collect();
            let mean = |metric: &dyn Metric| {
                let scores: Vec<Score> = problems.iter().map(|e| metric.score(&Resources::default(), &Reference::default(), e)).collect();
                json!(metric.aggregate(&scores))
            };
            // A k beyond the samples is not reported.
            let recorded = |key: &str| fields.get(key).unwrap_or(&Value::Null);
            let one = ("pass@1", recorded("pass@1"), mean(&pass_at_k::PassAtK::ONE));
            Ok(vec![one, ("pass@10", recorded("pass@10"), mean(&pass_at_k::PassAtK::TEN))])
        }
        "scoring.jsonl" => {
            source.only_keys(fields, &["generations", "answer_ratio", "no_answer"], line)?;
            let problems: Option<Vec<Vec<&str>>> =
                source.array_of(fields, "generations", line)?.iter().map(|p| p.as_array()?.iter().map(Value::as_str).collect()).collect();
            let problems = problems.ok_or_else(|| shape("generations must be lists of texts"))?;
            let answered: Vec<bool> = problems.iter().map(|p| answer_ratio::answered(p.iter().copied())).collect();
            let scores: Vec<Score> = answered.iter().map(|a| Score::of(f64::from(u8::from(*a)))).collect();
            let ratio = metric::by_name("answer_ratio").and_then(|m| m.aggregate(&scores));
            let without: Vec<bool> = answered.iter().map(|a| !a).collect();
            let share = ("answer_ratio", source.value_of(fields, "answer_ratio", line)?, json!(ratio));
            Ok(vec![share, ("no_answer", source.value_of(fields, "no_answer", line)?, json!(without))])
        }
        _ => Err(CertifyError::UnknownFile { path: source.name.clone().into(), kind: "code".into() }),
    }
}
