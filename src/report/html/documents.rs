//! The documents of all runs as the page's script reads them: one index, and blocks with everything, unpacked when they are needed.
//!
//! The index has a column a field and a row a document: what the list shows and filters by. A block holds about 256 KiB of documents in full.
//! Prompts refer to the paragraphs that they share; those stand in blocks of their own.

use super::{
    Subject, pack,
    paragraphs::{Part, Shared, skippable},
};
use crate::results::{
    requests::{PlannedRequest, fields_but_text},
    samples::Sample,
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Characters of answer and reference that the list shows.
const GLIMPSE: usize = 60;

/// What a document without a response is marked with, beside the names of notes.
const FAILED: &str = "failed";

/// What the template puts into the page, packed.
#[derive(Debug, Serialize)]
pub(super) struct Packed {
    index: String,
    documents: Vec<String>,
    paragraphs: Vec<String>,
    count: usize,
}

/// One document in one run.
#[derive(Clone, Copy)]
struct Account<'r> {
    run: &'r Subject,
    sample: Option<&'r Sample>,
    asked: &'r [PlannedRequest],
}

/// One document in all runs; `None` where a run does not have it.
struct Line<'r> {
    task: &'r str,
    id: &'r str,
    accounts: Vec<Option<Account<'r>>>,
}

#[derive(Serialize)]
struct Index<'r> {
    /// Name, title and headline metric.
    tasks: Vec<(&'r str, &'r str, &'r str)>,
    /// Id and model.
    runs: Vec<(&'r str, &'r str)>,
    /// Names of marks: bit `i` of a document's marks is the `i`-th.
    marks: Vec<String>,
    task: Vec<usize>,
    id: Vec<&'r str>,
    group: Vec<&'r str>,
    reference: Vec<String>,
    by_run: Vec<OfRun>,
    /// First document and first paragraph of each block.
    documents: Vec<usize>,
    paragraphs: Vec<usize>,
}

/// Columns of one run.
#[derive(Default, Serialize)]
struct OfRun {
    /// Headline score; `null` where the run has not this document, or did not score it.
    score: Vec<Option<f64>>,
    marks: Vec<u32>,
    answer: Vec<String>,
}

/// A document in full.
#[derive(Serialize)]
struct Document<'r> {
    reference: &'r [String],
    runs: Vec<Option<Told<'r>>>,
}

/// What one run tells of it.
#[derive(Serialize)]
struct Told<'r> {
    /// Absent where it is what the first run asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<Vec<Asked<'r>>>,
    /// One for each request.
    outcomes: Vec<Value>,
    response: Option<&'r str>,
    answer: Option<&'r str>,
    scores: Value,
    failure: Option<&'r str>,
    notes: Value,
    prompt_sha256: Option<&'r str>,
}

/// A request.
#[derive(Serialize)]
struct Asked<'r> {
    id: &'r str,
    prompt: Vec<Part<'r>>,
    /// Characters (UTF-16 code units, as the script counts) at the beginning that are folded.
    fold: usize,
    settings: Map<String, Value>,
}

/// Everything the runs recorded about single documents.
pub(super) fn pack(runs: &[Subject]) -> Packed {
    let lines = lines(runs);
    let prompts = lines.iter().enumerate().flat_map(|(number, line)| {
        let asked = line.accounts.iter().flatten().flat_map(|account| account.asked);
        asked.map(move |planned| (number, planned.request.kind.text()))
    });
    let shared = Shared::among(prompts);
    let (documents, blocks) = pack::blocks((0..lines.len()).map(|at| document(&lines, at, &shared)));
    let (paragraphs, texts) = pack::blocks(&shared.texts);
    let index = index(runs, &lines, documents, paragraphs);
    Packed { index: pack::json(&index), documents: blocks, paragraphs: texts, count: lines.len() }
}

/// The documents: tasks in the order of the scores, documents in the order of the first run that has them.
fn lines(runs: &[Subject]) -> Vec<Line<'_>> {
    let mut places: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut lines: Vec<Line<'_>> = Vec::new();
    for (number, run) in runs.iter().enumerate() {
        for account in accounts(run) {
            let Some(key) = account.key() else { continue };
            let place = *places.entry(key).or_insert_with(|| {
                lines.push(Line { task: key.0, id: key.1, accounts: vec![None; runs.len()] });
                lines.len() - 1
            });
            lines[place].accounts[number] = Some(account);
        }
    }
    let order = tasks(runs);
    lines.sort_by_key(|line| order.iter().position(|(name, ..)| *name == line.task));
    lines
}

/// What a run tells of each of its documents: from its samples, and from its requests where there are no samples.
fn accounts(run: &Subject) -> Vec<Account<'_>> {
    let key = |planned: &PlannedRequest| (planned.task.clone(), planned.doc_id.clone());
    let mut samples: BTreeMap<(&str, &str), &Sample> = run.samples.iter().map(|s| ((s.task.as_str(), s.doc_id.as_str()), s)).collect();
    let asked = run.requests.chunk_by(|a, b| key(a) == key(b));
    let mut accounts: Vec<Account<'_>> =
        asked.map(|asked| Account { run, sample: samples.remove(&(asked[0].task.as_str(), asked[0].doc_id.as_str())), asked }).collect();
    accounts.extend(samples.into_values().map(|sample| Account { run, sample: Some(sample), asked: &[] }));
    accounts
}

impl<'r> Account<'r> {
    fn key(&self) -> Option<(&'r str, &'r str)> {
        let asked = || self.asked.first().map(|planned| (planned.task.as_str(), planned.doc_id.as_str()));
        self.sample.map(|sample| (sample.task.as_str(), sample.doc_id.as_str())).or_else(asked)
    }

    fn reference(&self) -> &'r [String] {
        self.sample.map(|sample| sample.reference.as_slice()).or_else(|| Some(self.asked.first()?.reference.as_slice())).unwrap_or_default()
    }

    fn group(&self) -> &'r str {
        self.sample.and_then(|s| s.group.as_deref()).or_else(|| Some(self.asked.first()?.group.as_str())).unwrap_or_default()
    }

    fn score(&self) -> Option<f64> {
        let sample = self.sample?;
        let metric = &self.run.scores.tasks.iter().find(|task| task.task == sample.task)?.metric;
        sample.scores.get(metric).copied()
    }

    /// Names of what it is marked with.
    fn marks(&self) -> Vec<String> {
        let Some(sample) = self.sample else { return Vec::new() };
        let failed = sample.failure.iter().map(|_| FAILED.to_owned());
        failed.chain(sample.notes.iter().filter_map(|note| Some(serde_json::to_value(note).ok()?.as_str()?.to_owned()))).collect()
    }

    /// What became of a request, less the ids of tokens and less a text that stands beside it as the response.
    fn outcome(&self, planned: &PlannedRequest) -> Value {
        let (answers, id) = (&self.run.answers, &planned.request.id);
        if let Some(response) = answers.responses.get(id) {
            let mut value = serde_json::to_value(&response.output).unwrap_or_default();
            if let Value::Object(fields) = &mut value {
                fields.remove("token_ids");
                let text = fields.get("text").and_then(Value::as_str);
                if text.is_some() && text == self.sample.and_then(|sample| sample.response.as_deref()) {
                    fields.remove("text");
                }
            }
            return value;
        }
        answers.failures.get(id).map_or(Value::Null, |failure| json!({ "failure": failure.message, "attempts": failure.attempts }))
    }
}

/// Name, title and metric of every task with documents, in the order of the scores.
fn tasks(runs: &[Subject]) -> Vec<(&str, &str, &str)> {
    let mut tasks: Vec<(&str, &str, &str)> = Vec::new();
    for run in runs {
        for task in &run.scores.tasks {
            if task.n > 0 && !tasks.iter().any(|(name, ..)| *name == task.task) {
                tasks.push((&task.task, &task.title, &task.metric));
            }
        }
        // Asked, and not in the scores: `--predict-only` leaves such runs.
        for planned in run.requests.chunk_by(|a, b| a.task == b.task).map(|of_task| &of_task[0]) {
            if !tasks.iter().any(|(name, ..)| *name == planned.task) {
                tasks.push((&planned.task, &planned.task, ""));
            }
        }
    }
    tasks
}

fn index<'r>(runs: &'r [Subject], lines: &[Line<'r>], documents: Vec<usize>, paragraphs: Vec<usize>) -> Index<'r> {
    let tasks = tasks(runs);
    let mut marks: Vec<String> = vec![FAILED.to_owned()];
    let mut by_run: Vec<OfRun> = runs.iter().map(|_| OfRun::default()).collect();
    for line in lines {
        for (columns, account) in by_run.iter_mut().zip(&line.accounts) {
            columns.score.push(account.and_then(|account| account.score()));
            columns.answer.push(glimpse(account.and_then(|account| account.sample?.answer.as_deref()).unwrap_or_default()));
            columns.marks.push(account.map(|account| bits(&account.marks(), &mut marks)).unwrap_or_default());
        }
    }
    let first = |line: &Line<'r>| line.accounts.iter().flatten().next().copied();
    Index {
        runs: runs.iter().map(|run| (run.run.as_str(), run.scores.model.as_str())).collect(),
        task: lines.iter().map(|line| tasks.iter().position(|(name, ..)| *name == line.task).unwrap_or_default()).collect(),
        id: lines.iter().map(|line| line.id).collect(),
        group: lines.iter().map(|line| first(line).map(|account| account.group()).unwrap_or_default()).collect(),
        reference: lines.iter().map(|line| glimpse(first(line).and_then(|a| a.reference().first()).map_or("", String::as_str))).collect(),
        tasks,
        marks,
        by_run,
        documents,
        paragraphs,
    }
}

/// Marks as bits, new names added. Script counts bits in 32-bit numbers; there are a handful of notes.
fn bits(of_document: &[String], names: &mut Vec<String>) -> u32 {
    let mut bits = 0;
    for mark in of_document {
        let place = names.iter().position(|name| name == mark).unwrap_or_else(|| {
            names.push(mark.clone());
            names.len() - 1
        });
        bits |= 1u32.checked_shl(place as u32).unwrap_or_default();
    }
    bits
}

/// The beginning of a text, in one line.
fn glimpse(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(GLIMPSE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn document<'r>(lines: &[Line<'r>], at: usize, shared: &Shared<'r>) -> Document<'r> {
    let line = &lines[at];
    let ids = |account: &Account<'r>| account.asked.iter().map(|planned| &planned.request.id).collect::<Vec<_>>();
    let first = line.accounts.iter().flatten().next();
    let is_news = |account: &Account<'r>| first.is_none_or(|first| std::ptr::eq(first.run, account.run) || ids(first) != ids(account));
    let told = |account: &Account<'r>| Told {
        asked: is_news(account).then(|| account.asked.iter().map(|planned| asked(planned, lines, at, shared)).collect()),
        outcomes: account.asked.iter().map(|planned| account.outcome(planned)).collect(),
        response: account.sample.and_then(|sample| sample.response.as_deref()),
        answer: account.sample.and_then(|sample| sample.answer.as_deref()),
        scores: account.sample.map(|sample| json!(sample.scores)).unwrap_or_default(),
        failure: account.sample.and_then(|sample| sample.failure.as_deref()),
        notes: account.sample.map(|sample| json!(sample.notes)).unwrap_or_default(),
        prompt_sha256: account.sample.map(|sample| sample.prompt_sha256.as_str()),
    };
    Document {
        reference: first.map(|account| account.reference()).unwrap_or_default(),
        runs: line.accounts.iter().map(|account| account.as_ref().map(told)).collect(),
    }
}

fn asked<'r>(planned: &'r PlannedRequest, lines: &[Line<'r>], at: usize, shared: &Shared<'r>) -> Asked<'r> {
    let prompt = planned.request.kind.text();
    let neighbour = |at: Option<usize>| {
        let line = lines.get(at?).filter(|line| line.task == planned.task)?;
        Some(line.accounts.iter().flatten().next()?.asked.first()?.request.kind.text())
    };
    let fold = skippable(prompt, [neighbour(at.checked_sub(1)), neighbour(Some(at + 1))]);
    Asked {
        id: &planned.request.id.0,
        prompt: shared.parts(prompt),
        fold: prompt[..fold].encode_utf16().count(),
        settings: settings(planned),
    }
}

/// The fields of a request that say something: all but its text and what is empty.
fn settings(planned: &PlannedRequest) -> Map<String, Value> {
    let says = |value: &Value| !matches!(value, Value::Null) && value.as_array().is_none_or(|list| !list.is_empty());
    fields_but_text(&planned.request.kind).into_iter().filter(|(_, value)| says(value)).collect()
}
