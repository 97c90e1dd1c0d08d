//! What will be asked: tasks, documents, shots, requests. Everything that can fail cheaply fails here, before the first request.

use super::overrides::{self, Override};
use crate::answer;
use crate::dataset::Record;
use crate::engine::{AnswerForm, Decode, ModelFacts, Request, RequestKind};
use crate::metric::Reference;
use crate::prompt::{
    fewshot::{self, Drawn},
    fit, neighbours, requests,
};
use crate::results::requests::PlannedRequest;
use crate::results::spec::{Defects, Limit, Shard};
use crate::task::{
    Defect, Task,
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
    /// `--defects`.
    pub defects: Defects,
    /// What is known of the model.
    pub facts: ModelFacts,
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
    #[error("{0}")]
    Shots(fewshot::DrawError),
    /// A document that the protocol cannot make a prompt of (exit code 4).
    #[error("task '{task}': {cause}")]
    Unfit {
        /// Which task.
        task: String,
        /// What is wrong.
        cause: fit::FitError,
    },
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

impl PlannedTask {
    /// What documents are asked themselves: less the neighbours that are asked because a document's answer depends on theirs.
    pub fn of_documents(&self) -> impl Iterator<Item = &PlannedRequest> {
        let documents = self.asked.chunk_by(|a, b| a.doc_id == b.doc_id);
        documents.flat_map(|asked| if asked[0].lost_tokens > 0 { &asked[..1] } else { asked })
    }
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
    let columns: Vec<&str> = suite.columns.iter().map(|c| c.task.as_str()).collect();
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

impl Plan {
    /// Leaves tasks out after all.
    pub fn leave_out(&mut self, why: &str, which: impl Fn(&Task) -> bool) {
        for planned in self.tasks.extract_if(.., |planned| which(&planned.task)) {
            self.left_out.insert(planned.task.name, why.to_owned());
        }
    }
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
    let drawn = fewshot::draw(task, sets, shots as usize, &selection.facts).map_err(|e| undrawn(task, e))?;
    let mut overrides: BTreeMap<String, Value> = selection.generation.iter().map(|o| (o.name().to_owned(), o.value())).collect();
    if shots != task.file.shots {
        overrides.insert("num_fewshot".into(), shots.into());
    }
    let in_full = drawn.documents.len();
    let positions = positions(&task.name, in_full, selection)?;
    let asking = Asking { task, drawn: &drawn, selection };
    let asked = if asking.loses_tokens() { asking.in_batches(&positions)? } else { asking.alone(&positions)? };
    let data_sha256 = (source.digest)(&task.file.dataset);
    Ok(PlannedTask { task: task.clone(), shots, asked, documents: positions.len(), in_full, data_sha256, overrides })
}

fn undrawn(task: &Task, error: fewshot::DrawError) -> PlanError {
    match error {
        fewshot::DrawError::Task(e) => e.into(),
        fewshot::DrawError::Fit(cause) => PlanError::Unfit { task: task.name.clone(), cause },
        few @ fewshot::DrawError::TooFew { .. } => PlanError::Shots(few),
    }
}

/// From documents and shots to what is asked.
struct Asking<'a> {
    task: &'a Task,
    drawn: &'a Drawn,
    selection: &'a Selection,
}

impl Asking<'_> {
    /// Whether the defect is to be reproduced. Without the model's tokens nobody knows whose answers it hits.
    fn loses_tokens(&self) -> bool {
        self.selection.defects == Defects::Faithful
            && self.task.file.request.defects.contains(&Defect::LostTokens)
            && self.selection.facts.tokenizer.is_some()
    }

    /// Every document by itself.
    fn alone(&self, positions: &[usize]) -> Result<Vec<PlannedRequest>, PlanError> {
        let mut asked = Vec::with_capacity(positions.len());
        for &position in positions {
            asked.extend(self.requests(position)?.into_iter().map(|request| self.planned(position, request, 0)));
        }
        Ok(asked)
    }

    /// [`Defect::LostTokens`]: whom it hits is decided by the prompts of the whole set. A document it hits is asked without stop strings, for
    /// token ids, and so is the one beside it, whose length decides what is left of both.
    fn in_batches(&self, positions: &[usize]) -> Result<Vec<PlannedRequest>, PlanError> {
        let Some(tokenizer) = &self.selection.facts.tokenizer else { return self.alone(positions) };
        let all: Vec<Vec<Request>> = (0..self.drawn.documents.len()).map(|at| self.requests(at)).collect::<Result<_, _>>()?;
        let prompts: Vec<&str> = all.iter().map(|made| made.first().map_or("", |r| r.kind.text())).collect();
        let counts = prompts.iter().map(|p| fit::count(tokenizer, p).map_err(|e| self.unfit(e.into()))).collect::<Result<Vec<_>, _>>()?;
        let batches = neighbours::batches(&prompts, &counts);
        let room = fit::prompt_length(&self.task.file.request, &self.selection.facts);
        let mut asked = Vec::with_capacity(positions.len());
        for &position in positions {
            let lost = batches[position].padded.saturating_sub(room);
            let made = |at: usize| all[at].iter().cloned();
            if lost == 0 {
                asked.extend(made(position).map(|request| self.planned(position, request, 0)));
            } else {
                let beside = batches[position].partner.into_iter();
                for at in [position].into_iter().chain(beside) {
                    asked.extend(made(at).map(|request| self.planned(position, to_the_end(request), lost as u32)));
                }
            }
        }
        Ok(asked)
    }

    fn planned(&self, position: usize, request: Request, lost_tokens: u32) -> PlannedRequest {
        let document = &self.drawn.documents[position];
        let path = [document.group.as_str(), document.subset.as_str()].into_iter().filter(|part| !part.is_empty());
        let Reference { texts, right } = answer::reference(self.task, document);
        PlannedRequest {
            task: self.task.name.clone(),
            doc_id: document.id.clone(),
            group: path.collect::<Vec<_>>().join("/"),
            reference: texts,
            right,
            request,
            lost_tokens,
        }
    }

    fn requests(&self, position: usize) -> Result<Vec<Request>, PlanError> {
        let (document, shots) = (&self.drawn.documents[position], &self.drawn.shots[position]);
        let made = requests::requests(self.task, document, shots, &self.selection.facts).map_err(|e| match e {
            requests::PromptError::Task(e) => e.into(),
            requests::PromptError::Fit(e) => self.unfit(e),
        })?;
        let keeps_specials =
            self.selection.defects == Defects::Faithful && self.task.file.request.defects.contains(&Defect::ForeignEndTokens);
        let made = made.into_iter().map(|request| if keeps_specials { with_specials(request) } else { request });
        Ok(made.map(|request| overrides::apply(request, &self.selection.generation)).collect())
    }

    fn unfit(&self, cause: fit::FitError) -> PlanError {
        PlanError::Unfit { task: self.task.name.clone(), cause }
    }
}

/// [`Defect::ForeignEndTokens`]: the same request, answered with its special tokens.
fn with_specials(request: Request) -> Request {
    let mut kind = request.kind;
    if let RequestKind::Generate(generate) = &mut kind {
        generate.rules.decode = Decode::WithSpecials;
    }
    Request::new(kind)
}

/// The same request, answered up to the end token or the limit, whatever stop string comes.
fn to_the_end(request: Request) -> Request {
    let mut kind = request.kind;
    if let RequestKind::Generate(generate) = &mut kind {
        generate.stop.clear();
        generate.rules.form = AnswerForm::TokenIds;
    }
    Request::new(kind)
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
        Selection {
            suite,
            tasks,
            limit: None,
            samples: BTreeMap::new(),
            shard: None,
            num_fewshot: None,
            generation: vec![],
            defects: Defects::Faithful,
            facts: ModelFacts::default(),
        }
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
        assert_eq!(select(&suite, &[], &tasks).expect("all").len(), suite.columns.len());
    }
}
