//! What will be asked: tasks, documents, shots, requests. Everything that can fail cheaply fails here, before the first request.

use crate::answer;
use crate::dataset::Record;
use crate::engine::{Request, RequestKind};
use crate::prompt::{fewshot, requests};
use crate::results::requests::PlannedRequest;
use crate::results::spec::{Limit, Shard};
use crate::task::{
    Task,
    document::Document,
    load::{self, Suite, TaskError},
};
use serde_json::Value;
use std::collections::BTreeMap;

/// What the user asked for, resolved and checked.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The suite whose table is made.
    pub suite: Suite,
    /// The tasks to run, in the suite's order, then in the order given.
    pub tasks: Vec<Task>,
    /// `--limit`.
    pub limit: Option<Limit>,
    /// `--samples`: positions by task name.
    pub samples: BTreeMap<String, Vec<usize>>,
    /// `--shard`.
    pub shard: Option<Shard>,
    /// `--num-fewshot`.
    pub num_fewshot: Option<u32>,
    /// `--gen-kwargs`, checked.
    pub generation: Vec<Override>,
}

/// A generation setting that replaces the task file's: off-protocol.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Override {
    /// `temperature`
    Temperature(f64),
    /// `top_k`
    TopK(u32),
    /// `top_p`
    TopP(f64),
    /// `repetition_penalty`
    RepetitionPenalty(f64),
    /// `max_gen_toks` or `max_new_tokens`
    MaxNewTokens(u32),
    /// `seed`
    Seed(u64),
}

impl Override {
    /// Name in signatures and `run.json`.
    pub fn name(&self) -> &'static str {
        match self {
            Override::Temperature(_) => "temperature",
            Override::TopK(_) => "top_k",
            Override::TopP(_) => "top_p",
            Override::RepetitionPenalty(_) => "repetition_penalty",
            Override::MaxNewTokens(_) => "max_new_tokens",
            Override::Seed(_) => "seed",
        }
    }

    /// Its value.
    pub fn value(&self) -> Value {
        match *self {
            Override::Temperature(v) | Override::TopP(v) | Override::RepetitionPenalty(v) => v.into(),
            Override::TopK(v) | Override::MaxNewTokens(v) => v.into(),
            Override::Seed(v) => v.into(),
        }
    }

    /// One setting of lm-eval's `--gen_kwargs`.
    ///
    /// # Errors
    /// A sentence naming key, value and limit.
    pub fn parse(key: &str, value: &str) -> Result<Self, String> {
        let number = |low: f64, high: f64| match value.parse::<f64>() {
            Ok(v) if v >= low && v <= high => Ok(v),
            _ => Err(format!("{key} must be a number from {low} to {high}, not '{value}'")),
        };
        let whole = |low: u64, high: u64| match value.parse::<u64>() {
            Ok(v) if v >= low && v <= high => Ok(v),
            _ => Err(format!("{key} must be a whole number from {low} to {high}, not '{value}'")),
        };
        Ok(match key {
            "temperature" => Override::Temperature(number(0.0, 100.0)?),
            "top_p" => Override::TopP(number(1e-9, 1.0)?),
            "top_k" => Override::TopK(whole(0, u64::from(u32::MAX))? as u32),
            "repetition_penalty" => Override::RepetitionPenalty(number(1e-9, 100.0)?),
            "max_gen_toks" | "max_new_tokens" => Override::MaxNewTokens(whole(1, 1 << 20)? as u32),
            "seed" => Override::Seed(whole(0, u64::MAX)?),
            _ => {
                let known = "temperature, top_p, top_k, repetition_penalty, max_gen_toks, seed";
                return Err(format!("unknown generation setting '{key}'; known: {known}"));
            }
        })
    }
}

/// Records of a split of a data set, or why they are not at hand.
pub type Records<'r> = &'r dyn Fn(&str, &str) -> Result<Vec<Record>, Missing>;

/// Where records come from.
pub struct Source<'s> {
    /// Gives records.
    pub records: Records<'s>,
    /// SHA-256 that identifies a data set's content.
    pub digest: &'s dyn Fn(&str) -> String,
}

/// Why a task cannot be asked: its data is not at hand (exit code 4).
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Missing {
    /// What is missing, where it was looked for, where it comes from.
    pub message: String,
    /// What the user can do.
    pub hint: Option<String>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A task file or flag (exit code 2).
    #[error(transparent)]
    Task(#[from] TaskError),
    /// Fewer shots than wanted (exit code 2).
    #[error(transparent)]
    Shots(#[from] fewshot::TooFewShots),
    /// Data (exit code 4).
    #[error("task '{task}': {missing}")]
    Data {
        /// Which task.
        task: String,
        /// What is missing.
        missing: Missing,
    },
    /// `--samples` names a document that does not exist (exit code 2).
    #[error("--samples: task '{task}' has {documents} documents, so there is no document {position}")]
    NoSuchDocument {
        /// Which task.
        task: String,
        /// How many it has.
        documents: usize,
        /// What was asked for.
        position: usize,
    },
}

/// A task with everything it will ask.
#[derive(Clone, Debug)]
pub struct PlannedTask {
    /// The task.
    pub task: Task,
    /// Shots in force.
    pub shots: u32,
    /// What is asked, in protocol order; the requests of one document stand together.
    pub asked: Vec<PlannedRequest>,
    /// Documents that are asked.
    pub documents: usize,
    /// Documents of the full set.
    pub in_full: usize,
    /// Identifies the data.
    pub data_sha256: String,
    /// Departures from the task file, by name.
    pub overrides: BTreeMap<String, Value>,
}

/// Everything that will be asked.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The suite whose table is made.
    pub suite: Suite,
    /// In the suite's order.
    pub tasks: Vec<PlannedTask>,
    /// Tasks left out because their data is missing, with the reason.
    pub left_out: BTreeMap<String, String>,
}

/// Finds tasks by name or alias; an empty list means every task of the suite.
///
/// # Errors
/// Unknown names, naming what is known.
pub fn select(suite: &Suite, names: &[String], tasks: &[Task]) -> Result<Vec<Task>, TaskError> {
    let columns: Vec<&str> = suite.columns.iter().filter_map(|c| c.task.as_deref()).collect();
    let mut chosen: Vec<Task> = match names {
        [] => columns.iter().map(|name| load::find(tasks, name).cloned()).collect::<Result<_, _>>()?,
        _ => names.iter().map(|name| load::find(tasks, name).cloned()).collect::<Result<_, _>>()?,
    };
    let rank = |task: &Task| columns.iter().position(|c| *c == task.name).unwrap_or(columns.len());
    chosen.sort_by_key(rank);
    let mut seen = std::collections::BTreeSet::new();
    chosen.retain(|task| seen.insert(task.name.clone()));
    Ok(chosen)
}

/// Makes the plan. With `skip_missing`, tasks without data are left out instead of failing the plan.
///
/// # Errors
/// [`PlanError`].
pub fn plan(selection: &Selection, source: &Source<'_>, skip_missing: SkipMissing) -> Result<Plan, PlanError> {
    let mut plan = Plan { suite: selection.suite.clone(), tasks: Vec::new(), left_out: BTreeMap::new() };
    for task in &selection.tasks {
        match plan_task(task, selection, source) {
            Ok(planned) => plan.tasks.push(planned),
            Err(PlanError::Data { task, missing }) if skip_missing == SkipMissing::Yes => {
                plan.left_out.insert(task, missing.message);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(plan)
}

/// `--skip-missing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipMissing {
    /// A task without data is left out; the others run.
    Yes,
    /// A task without data ends the run before it starts.
    No,
}

fn plan_task(task: &Task, selection: &Selection, source: &Source<'_>) -> Result<PlannedTask, PlanError> {
    let data = |missing| PlanError::Data { task: task.name.clone(), missing };
    let mut sets = Vec::new();
    for split in fewshot::splits(task) {
        let records = (source.records)(&task.file.dataset, &split).map_err(data)?;
        sets.push(task.documents(&split, records)?);
    }
    let shots = selection.num_fewshot.unwrap_or(task.file.shots);
    let drawn = fewshot::draw(task, sets, shots as usize)?;
    let mut overrides: BTreeMap<String, Value> = selection.generation.iter().map(|o| (o.name().to_owned(), o.value())).collect();
    if shots != task.file.shots {
        overrides.insert("num_fewshot".into(), shots.into());
    }
    let in_full = drawn.documents.len();
    let positions = positions(&task.name, in_full, selection)?;
    let mut asked = Vec::with_capacity(positions.len());
    for &position in &positions {
        let document = &drawn.documents[position];
        let group = if document.group.is_empty() { String::new() } else { format!("{}/{}", document.group, document.subset) };
        for request in document_requests(task, document, &drawn.shots[position], &selection.generation)? {
            asked.push(PlannedRequest {
                task: task.name.clone(),
                doc_id: document.id.clone(),
                group: group.clone(),
                reference: answer::reference(task, document).texts,
                request,
            });
        }
    }
    let data_sha256 = (source.digest)(&task.file.dataset);
    Ok(PlannedTask { task: task.clone(), shots, asked, documents: positions.len(), in_full, data_sha256, overrides })
}

fn document_requests(task: &Task, document: &Document, shots: &[Document], overrides: &[Override]) -> Result<Vec<Request>, TaskError> {
    let made = requests::requests(task, document, shots)?;
    if overrides.is_empty() {
        return Ok(made);
    }
    let changed = made.into_iter().map(|request| {
        let mut kind = request.kind;
        if let RequestKind::Generate(generate) = &mut kind {
            for change in overrides {
                match *change {
                    Override::Temperature(v) => generate.sampling.temperature = v,
                    Override::TopK(v) => generate.sampling.top_k = v,
                    Override::TopP(v) => generate.sampling.top_p = v,
                    Override::RepetitionPenalty(v) => generate.sampling.repetition_penalty = v,
                    Override::MaxNewTokens(v) => generate.max_new_tokens = v,
                    Override::Seed(v) => generate.sampling.seed = v,
                }
            }
        }
        Request::new(kind)
    });
    Ok(changed.collect())
}

/// Positions that are asked: `--samples`, else every position; then `--limit`, then `--shard`.
fn positions(task: &str, documents: usize, selection: &Selection) -> Result<Vec<usize>, PlanError> {
    let mut positions: Vec<usize> = match selection.samples.get(task) {
        Some(listed) => {
            if let Some(&position) = listed.iter().find(|p| **p >= documents) {
                return Err(PlanError::NoSuchDocument { task: task.to_owned(), documents, position });
            }
            let mut listed = listed.clone();
            listed.sort_unstable();
            listed.dedup();
            listed
        }
        None => (0..documents).collect(),
    };
    match selection.limit {
        Some(Limit::Count(n)) => positions.truncate(usize::try_from(n).unwrap_or(usize::MAX)),
        // Rounded up, as lm-eval 0.4.13 does (`evaluator_utils.py`, `get_sample_size`), so that a small fraction asks something.
        Some(Limit::Fraction(part)) => positions.truncate((documents as f64 * part).ceil() as usize),
        None => {}
    }
    if let Some(Shard { index, count }) = selection.shard {
        positions.retain(|p| p % count as usize == (index - 1) as usize);
    }
    Ok(positions)
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

    fn selection() -> Selection {
        let suite = load::suite("ja").expect("embedded");
        let tasks = select(&suite, &["jemhopqa".into()], &load::embedded().expect("valid")).expect("known");
        Selection { suite, tasks, limit: None, samples: BTreeMap::new(), shard: None, num_fewshot: None, generation: vec![] }
    }

    fn planned(selection: &Selection) -> PlannedTask {
        let records = |_: &str, split: &str| {
            Ok((0..10).map(|i| record(json!({"question": format!("{split} {i}"), "answer": format!("{i}")}))).collect())
        };
        let source = Source { records: &records, digest: &|_| "d".into() };
        plan(selection, &source, SkipMissing::No).expect("plans").tasks.remove(0)
    }

    fn ids(task: &PlannedTask) -> Vec<&str> {
        task.asked.iter().map(|a| a.doc_id.as_str()).collect()
    }

    #[test]
    fn limits_samples_and_shards_leave_prompts_as_in_the_full_run() {
        let full = planned(&selection());
        assert_eq!((full.documents, full.in_full), (10, 10));
        let cases: [(Selection, &[&str]); 5] = [
            (Selection { limit: Some(Limit::Count(3)), ..selection() }, &["00000", "00001", "00002"]),
            (Selection { limit: Some(Limit::Fraction(0.25)), ..selection() }, &["00000", "00001", "00002"]),
            (Selection { limit: Some(Limit::Fraction(0.001)), ..selection() }, &["00000"]),
            (Selection { shard: Some(Shard { index: 2, count: 4 }), ..selection() }, &["00001", "00005", "00009"]),
            (Selection { samples: BTreeMap::from([("jemhopqa".into(), vec![7, 2, 2])]), ..selection() }, &["00002", "00007"]),
        ];
        for (selection, expected) in cases {
            let some = planned(&selection);
            assert_eq!(ids(&some), expected);
            assert!(some.asked.iter().all(|a| full.asked.contains(a)));
        }
    }

    #[test]
    fn overrides_change_requests_and_are_named() {
        let changed = planned(&Selection {
            num_fewshot: Some(1),
            generation: vec![Override::parse("max_gen_toks", "7").expect("valid"), Override::parse("temperature", "0.5").expect("valid")],
            ..selection()
        });
        let RequestKind::Generate(generate) = &changed.asked[0].request.kind else { panic!("a generation") };
        assert_eq!((generate.max_new_tokens, generate.sampling.temperature), (7, 0.5));
        assert_eq!(generate.prompt.matches("### 応答").count(), 2);
        assert_eq!(changed.overrides.keys().map(String::as_str).collect::<Vec<_>>(), ["max_new_tokens", "num_fewshot", "temperature"]);
    }

    #[test]
    fn wrong_settings_name_key_value_and_limit() {
        for (key, value, expected) in [
            ("temperature", "hot", "'hot'"),
            ("top_p", "0", "from 0.000000001 to 1"),
            ("max_gen_toks", "0", "from 1"),
            ("beams", "3", "unknown generation setting 'beams'"),
        ] {
            assert!(Override::parse(key, value).expect_err(key).contains(expected), "{key}");
        }
    }

    #[test]
    fn missing_data_fails_or_is_left_out() {
        let records = |_: &str, _: &str| Err(Missing { message: "file x is missing".into(), hint: None });
        let source = Source { records: &records, digest: &|_| "d".into() };
        let error = plan(&selection(), &source, SkipMissing::No).expect_err("no data").to_string();
        assert_eq!(error, "task 'jemhopqa': file x is missing");
        let left = plan(&selection(), &source, SkipMissing::Yes).expect("skips").left_out;
        assert_eq!(left["jemhopqa"], "file x is missing");
    }

    #[test]
    fn documents_beyond_the_set_are_refused() {
        let records =
            |_: &str, split: &str| Ok((0..10).map(|i| record(json!({"question": format!("{split} {i}"), "answer": "a"}))).collect());
        let source = Source { records: &records, digest: &|_| "d".into() };
        let selection = Selection { samples: BTreeMap::from([("jemhopqa".into(), vec![10])]), ..selection() };
        let error = plan(&selection, &source, SkipMissing::No).expect_err("no document 10").to_string();
        assert!(error.contains("10 documents") && error.contains("no document 10"), "{error}");
    }

    #[test]
    fn tasks_come_in_the_suites_order_once() {
        let suite = load::suite("ja").expect("embedded");
        let tasks = load::embedded().expect("valid");
        let chosen = select(&suite, &["jmmlu".into(), "jemhopqa".into(), "jmmlu".into()], &tasks).expect("known");
        assert_eq!(chosen.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["jemhopqa", "jmmlu"]);
        assert_eq!(select(&suite, &[], &tasks).expect("all").len(), 5);
    }
}
