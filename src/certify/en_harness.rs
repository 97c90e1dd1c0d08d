//! Goldens of the tasks that ran through the Language Model Evaluation Harness: draws, prompts, requests, extractions, scores, aggregates.
//!
//! A golden of a benchmark with subsets holds some documents of each; the harness knows every subset as a task of its own
//! (`mmlu_anatomy`).

use super::Inputs;
use super::asked;
use super::llm_jp::Data;
use super::report::Folder;
use super::source::{CertifyError, Row, Source, entries};
use crate::answer;
use crate::dataset::read::{self, Reader};
use crate::engine::{Cleanup, Generate, LogLikelihood, ModelFacts, RequestKind};
use crate::metric::Score;
use crate::prompt::{
    fewshot::{self, Drawn},
    requests,
};
use crate::task::{Arrange, Task, document::Document};
use flate2::read::GzDecoder;
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

mod scores;
pub mod units;

/// Records that a golden brings along, in their order: shots of invented benchmarks, and XWINO as derived from its origin.
const OWN_POOL: &str = "synthetic.train.jsonl";
const OWN_SPLIT: &str = "test.derived.jsonl.gz";

/// Everything of one folder that its files are compared with.
struct Replay {
    task: Task,
    /// By the harness's name of the subset, or the task's.
    parts: Vec<Part>,
    /// Text of the end token that stood among the stop strings.
    eos: String,
}

/// What the harness knows as a task: the benchmark, or a subset.
struct Part {
    name: String,
    subset: String,
    pool: usize,
    drawn: Drawn,
}

/// The scores of one document, by metric and reading.
type Scored = BTreeMap<String, Score>;

/// Replays one task folder.
///
/// # Errors
/// When a file is missing, is not of this kind's shape, or the data is not at hand.
pub fn task_folder(folder: &Path, task: &Task, inputs: &Inputs<'_>) -> Result<Folder, CertifyError> {
    let mut report = Folder::new("");
    for name in entries(folder)? {
        if !["requests.jsonl", "scoring.jsonl", "summary.json", "fewshot.json", "dataset"].contains(&name.as_str()) {
            return Err(CertifyError::UnknownFile { path: folder.join(name), kind: "en-harness".into() });
        }
    }
    let summary = Source::new(folder, "summary.json");
    let file = summary.object()?;
    let eos = summary.text_of(summary.object_of(&file, "settings", None)?, "eos", None)?.to_owned();
    let asked = Source::new(folder, "requests.jsonl");
    let replay = Replay::new(&mut report, folder, task, &asked, eos, inputs.data)?;
    replay.fewshot_file(&mut report, &Source::new(folder, "fewshot.json"))?;
    replay.requests_file(&mut report, &asked)?;
    let scores = replay.scoring_file(&mut report, &Source::new(folder, "scoring.jsonl"))?;
    replay.summary_file(&mut report, &summary, &file, &scores)?;
    Ok(report)
}

impl Replay {
    fn new(
        report: &mut Folder,
        folder: &Path,
        task: &Task,
        asked: &Source,
        eos: String,
        data: Option<Data<'_>>,
    ) -> Result<Self, CertifyError> {
        let mut task = task.clone();
        // These goldens were made with the clean-up off.
        (task.file.request.cleanup, task.file.request.cleanup_from) = (Cleanup::Off, Default::default());
        let sets = match own_records(folder)? {
            Some((OWN_POOL, path)) => vec![of_rows(&task, asked)?, own_documents(&task, &path)?],
            Some((_, path)) => {
                let own = own_documents(&task, &path)?;
                same_as_data(report, &task, &own, data)?;
                vec![own]
            }
            None => of_data(&task, data)?,
        };
        Ok(Replay { parts: parts(&task, sets)?, task, eos })
    }

    /// A row's part and the position of its document in it.
    fn place(&self, source: &Source, row: &str, line: Option<usize>) -> Result<(&Part, usize), CertifyError> {
        let found = row.rsplit_once(':').and_then(|(name, position)| {
            let part = self.parts.iter().find(|part| part.name == name)?;
            Some((part, position.parse().ok().filter(|position| *position < part.drawn.documents.len())?))
        });
        found.ok_or_else(|| source.shape(line, format!("doc_id '{row}' is not a task of this folder and a position in it")))
    }

    /// Pool sizes, every draw, and what is left of it.
    fn fewshot_file(&self, report: &mut Folder, source: &Source) -> Result<(), CertifyError> {
        let file = source.object()?;
        source.only_keys(&file, &["pool_size", "num_fewshot", "per_doc", "note"], None)?;
        report.check_value(&source.name, "", "num_fewshot", source.value_of(&file, "num_fewshot", None)?, &json!(self.task.file.shots));
        let sizes = source.object_of(&file, "pool_size", None)?;
        for (name, size) in sizes {
            // A class of its own may have another name than its task (`SQuAD2`), but then it is alone.
            let part = self.parts.iter().find(|part| part.name == *name).or(self.parts.first().filter(|_| sizes.len() == 1));
            let part = part.ok_or_else(|| source.shape(None, format!("pool_size has an unknown task '{name}'")))?;
            report.check_value(&source.name, name, "pool_size", size, &json!(part.pool));
        }
        for (id, entry) in source.object_of(&file, "per_doc", None)? {
            let entry = entry.as_object().ok_or_else(|| source.shape(None, format!("per_doc.{id} must be an object")))?;
            source.only_keys(entry, &["drawn", "used"], None)?;
            let (part, at) = self.place(source, id, None)?;
            report.rows += 1;
            let used: Vec<usize> = part.drawn.shots[at].iter().map(|shot| shot.row).collect();
            for (key, got) in [("drawn", json!(part.drawn.draws[at].concat())), ("used", json!(used))] {
                report.check_value(&source.name, id, key, source.value_of(entry, key, None)?, &got);
            }
        }
        Ok(())
    }

    /// Every document at its place, and what is asked of it.
    fn requests_file(&self, report: &mut Folder, source: &Source) -> Result<(), CertifyError> {
        for row in source.rows()? {
            let line = Some(row.line);
            source.only_keys(&row.fields, &["doc_id", "doc", "request", "extra_requests"], line)?;
            let (part, at) = self.place(source, &row.id, line)?;
            report.rows += 1;
            let document = &part.drawn.documents[at];
            let recorded = document_of(&self.task, &part.subset, source.object_of(&row.fields, "doc", line)?, &row.id)?;
            report.check_value(&source.name, &row.id, "doc", &seen(&recorded), &seen(document));
            let made = requests::requests(&self.task, document, &part.drawn.shots[at], &ModelFacts::default())?;
            let kinds: Vec<RequestKind> = made.into_iter().map(|request| request.kind).collect();
            let expected = source.object_of(&row.fields, "request", line)?;
            let also = match kinds.as_slice() {
                [RequestKind::Generate(generate), also @ ..] => {
                    self.generation(report, source, &row, expected, generate)?;
                    also
                }
                choices => {
                    choice(report, source, &row, expected, choices)?;
                    &[]
                }
            };
            if !also.is_empty() || row.fields.contains_key("extra_requests") {
                let got: Vec<Value> = also
                    .iter()
                    .filter_map(scored)
                    .map(|scored| json!({"kind": "loglikelihood", "prompt": scored.context, "continuations": scored.continuations}))
                    .collect();
                report.check_value(
                    &source.name,
                    &row.id,
                    "extra_requests",
                    &row.fields.get("extra_requests").cloned().unwrap_or_default(),
                    &json!(got),
                );
            }
        }
        Ok(())
    }

    fn generation(
        &self,
        report: &mut Folder,
        source: &Source,
        row: &Row,
        expected: &Map<String, Value>,
        got: &Generate,
    ) -> Result<(), CertifyError> {
        asked::check(report, source, row, expected, got, &|key| match key {
            "stop_with_eos" => Some(json!(requests::stops(&self.task.file.request, Some(&self.eos)))),
            "do_sample" => Some(json!(got.sampling.temperature > 0.0)),
            // A document's generations are numbered from 0, and these are asked for once.
            "n" => Some(json!(got.sample + 1)),
            _ => None,
        })
    }

    /// Answers and scores, row by row; gives the scores of each part in row order.
    fn scoring_file(&self, report: &mut Folder, source: &Source) -> Result<Vec<Vec<Scored>>, CertifyError> {
        let mut all: Vec<Vec<Scored>> = self.parts.iter().map(|_| Vec::new()).collect();
        for row in source.rows()? {
            let known = ["doc_id", "response", "after_stop", "extracted", "reference", "scores"];
            let of_squad = ["na_logprob", "na_is_greedy", "no_answer_probability"];
            source.only_keys(&row.fields, &[&known[..], &of_squad].concat(), Some(row.line))?;
            let (part, at) = self.place(source, &row.id, Some(row.line))?;
            report.rows += 1;
            let scored = self.scored_row(report, source, &row, &part.drawn.documents[at])?;
            if let Some(index) = self.parts.iter().position(|p| p.name == part.name) {
                all[index].push(scored);
            }
        }
        Ok(all)
    }

    /// What the harness read of a response.
    fn after_stop(&self, response: &str) -> String {
        let stops = requests::stops(&self.task.file.request, Some(&self.eos));
        answer::cleaned_and_cut(response, self.task.file.request.cleanup, &stops)
    }
}

/// The requests of a multiple choice: one context for all choices, or one for each.
fn choice(report: &mut Folder, source: &Source, row: &Row, expected: &Map<String, Value>, got: &[RequestKind]) -> Result<(), CertifyError> {
    let got: Vec<&LogLikelihood> = got.iter().filter_map(scored).collect();
    let (prompt, prompts) = match got.as_slice() {
        [one] => (json!(one.context), Value::Null),
        several => (Value::Null, json!(several.iter().map(|scored| &scored.context).collect::<Vec<_>>())),
    };
    let continuations: Vec<&String> = got.iter().flat_map(|scored| &scored.continuations).collect();
    for (key, value) in expected {
        let got = match key.as_str() {
            "kind" => &json!("loglikelihood"),
            "prompt" => &prompt,
            "prompts" => &prompts,
            "continuations" => &json!(continuations),
            _ => return Err(source.shape(Some(row.line), format!("request has an unknown field '{key}'"))),
        };
        report.check_value(&source.name, &row.id, &format!("request.{key}"), value, got);
    }
    Ok(())
}

fn scored(kind: &RequestKind) -> Option<&LogLikelihood> {
    match kind {
        RequestKind::LogLikelihood(scored) => Some(scored),
        RequestKind::Generate(_) | RequestKind::Chat(_) => None,
    }
}

/// What a prompt, a request or a score can show of a document.
fn seen(document: &Document) -> Value {
    let Document { input, output, golds, choices, right, .. } = document;
    json!({"input": input, "output": output, "golds": golds, "choices": choices, "right": right})
}

/// A recorded document, in the shape of the hub's records.
fn document_of(task: &Task, subset: &str, doc: &Map<String, Value>, what: &str) -> Result<Document, CertifyError> {
    let mut fields = doc.clone();
    if !subset.is_empty() {
        fields.insert("subject".into(), subset.into());
    }
    Ok(task.document(fields, what)?)
}

/// The records a golden brings along, where it does.
fn own_records(folder: &Path) -> Result<Option<(&'static str, PathBuf)>, CertifyError> {
    let dir = folder.join("dataset");
    if !dir.is_dir() {
        return Ok(None);
    }
    match entries(&dir)?.as_slice() {
        [name] if name == OWN_POOL => Ok(Some((OWN_POOL, dir.join(name)))),
        [name] if name == OWN_SPLIT => Ok(Some((OWN_SPLIT, dir.join(name)))),
        names => Err(CertifyError::UnknownFile { path: dir.join(names.join(", ")), kind: "en-harness".into() }),
    }
}

fn own_documents(task: &Task, path: &Path) -> Result<Vec<Document>, CertifyError> {
    let cannot = |cause| CertifyError::Read { path: path.to_owned(), cause };
    let mut content = std::fs::read(path).map_err(cannot)?;
    if path.extension().is_some_and(|e| e == "gz") {
        let mut plain = Vec::new();
        GzDecoder::new(content.as_slice()).read_to_end(&mut plain).map_err(cannot)?;
        content = plain;
    }
    let records = read::records(&Reader::Jsonl, &content, path).map_err(|e| CertifyError::Data(e.to_string()))?;
    Ok(task.documents("own", records)?)
}

/// The documents of the rows, each at the position that its id tells. The rest of the split is not known, and nothing depends on it.
fn of_rows(task: &Task, asked: &Source) -> Result<Vec<Document>, CertifyError> {
    let mut documents = Vec::new();
    for row in asked.rows()? {
        let position = row.id.rsplit_once(':').and_then(|(_, position)| position.parse::<usize>().ok()).filter(|p| *p < 1 << 20);
        let position = position.ok_or_else(|| asked.shape(Some(row.line), "doc_id must end in a position"))?;
        if documents.len() <= position {
            documents.resize_with(position + 1, Document::default);
        }
        documents[position] = document_of(task, "", asked.object_of(&row.fields, "doc", Some(row.line))?, &row.id)?;
    }
    Ok(documents)
}

fn of_data(task: &Task, data: Option<Data<'_>>) -> Result<Vec<Vec<Document>>, CertifyError> {
    let data = data.ok_or_else(|| CertifyError::Data(format!("the goldens of '{}' need its data", task.name)))?;
    let of_split = |split: &String| Ok(task.documents(split, data(&task.file.dataset, split).map_err(CertifyError::Data)?)?);
    fewshot::splits(task).iter().map(of_split).collect()
}

/// The records a golden brings along are those that the data gives.
fn same_as_data(report: &mut Folder, task: &Task, own: &[Document], data: Option<Data<'_>>) -> Result<(), CertifyError> {
    let Some(records) = data.and_then(|data| data(&task.file.dataset, fewshot::splits(task).first()?).ok()) else {
        report.left_out.push(format!("dataset/{OWN_SPLIT}: the data set '{}' is not at hand", task.file.dataset));
        return Ok(());
    };
    let own: Vec<&Map<String, Value>> = own.iter().map(|document| &document.fields).collect();
    report.check_value(OWN_SPLIT, "", "number of records", &json!(own.len()), &json!(records.len()));
    for (at, (own, record)) in own.iter().zip(&records).enumerate() {
        report.check_value(OWN_SPLIT, &at.to_string(), "record", &json!(own), &json!(record.0));
    }
    Ok(())
}

/// Draws the shots of every subset by itself, as a run does for all of them.
fn parts(task: &Task, sets: Vec<Vec<Document>>) -> Result<Vec<Part>, CertifyError> {
    let count = task.file.shots as usize;
    let draw = |task: &Task, sets| fewshot::draw(task, sets, count, &ModelFacts::default()).map_err(|e| CertifyError::Data(e.to_string()));
    let alias = task.file.aliases.first().unwrap_or(&task.name);
    if task.file.subset.is_empty() {
        let pool = sets.last().map_or(0, Vec::len);
        return Ok(vec![Part { name: alias.clone(), subset: String::new(), pool, drawn: draw(task, sets)? }]);
    }
    let pools: Vec<usize> = sets.chunks(2).map(|sets| sets.last().map_or(0, Vec::len)).collect();
    let drawn = draw(task, sets)?;
    let mut all: Vec<Part> = Vec::new();
    for (subset, pool) in task.file.subset.iter().zip(pools) {
        let own = |at: &usize| drawn.documents[*at].subset == subset.name;
        let of_subset: Vec<usize> = (0..drawn.documents.len()).filter(own).collect();
        let drawn = Drawn {
            documents: of_subset.iter().map(|at| drawn.documents[*at].clone()).collect(),
            shots: of_subset.iter().map(|at| drawn.shots[*at].clone()).collect(),
            draws: of_subset.iter().map(|at| drawn.draws[*at].clone()).collect(),
            pool,
            unused: 0,
        };
        all.push(Part { name: format!("{alias}_{}", subset.name), subset: subset.name.clone(), pool, drawn });
    }
    Ok(all)
}

/// Whether a task ran through this harness.
pub(super) fn is_of_harness(task: &Task) -> bool {
    matches!(task.file.arrange, Arrange::LmEval { .. })
}
