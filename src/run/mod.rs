//! The order of things. A run is [`plan`], then [`ask`], then [`score`]; this file reads as its contents page.

pub mod agreement;
pub mod ask;
pub mod grade;
pub mod judge;
pub mod judge_batch;
pub mod measure;
pub mod merge;
pub mod overrides;
pub mod plan;
pub mod resources;
pub mod score;
pub mod verdicts;

use crate::engine::{Engine, Identity, Request, endpoint::batch::BatchServer};
use crate::metric::Need;
use crate::results::{
    ResultsError,
    journal::Answers,
    requests::PlannedRequest,
    run_dir::{RunDir, RunWriter},
    samples::Sample,
    scores::{Scores, TaskScore},
    signature::Purpose,
    spec::{RunSpec, Session, TaskSpec},
};
use crate::task::{Task, load::Suite};
use ask::{AskError, Asking, Event};
use grade::{Chosen, GradeError, Graded};
use plan::Plan;
use resources::Tools;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// How many failed requests a run may have and still count as complete.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaxFailures {
    /// So many.
    Count(u64),
    /// This part of all requests, 0 to 1.
    Ratio(f64),
}

impl MaxFailures {
    /// Whether `failed` of `requests` are too many.
    pub fn exceeded(self, failed: u64, requests: u64) -> bool {
        match self {
            MaxFailures::Count(n) => failed > n,
            MaxFailures::Ratio(part) => failed as f64 > part * requests as f64,
        }
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The numbers; `None` when the run was stopped, or is not to be scored.
    pub scores: Option<Scores>,
    /// Whether the user stopped it before every request was through.
    pub cancelled: bool,
    /// Documents without an answer.
    pub failed: u64,
    /// Why the first of them has none.
    pub failure: Option<String>,
    /// Documents asked.
    pub documents: u64,
    /// A last line of the journal that a kill had cut short.
    pub torn: Option<String>,
    /// What judging came to, where a judge was asked.
    pub verdicts: Option<verdicts::Verdicts>,
}

/// Who judges, and for how much at most.
pub struct Judge<'j> {
    /// Who is asked.
    pub engine: &'j mut dyn Engine,
    /// The same judge's batches, where it is asked in them.
    pub batches: Option<&'j BatchServer>,
    /// Limit on money.
    pub budget: Option<verdicts::Budget>,
}

/// What follows the asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Scores and a line a document.
    ScoreAndLog,
    /// Scores alone (`--no-log-samples`).
    Score,
    /// Nothing (`--predict-only`).
    Nothing,
}

/// Everything a run needs once it is planned.
pub struct Job<'j> {
    /// What to ask.
    pub plan: &'j Plan,
    /// `run.json` as it will stand; sessions are added here.
    pub spec: RunSpec,
    /// Where everything goes.
    pub writer: &'j RunWriter,
    /// Who answers.
    pub engine: &'j mut dyn Engine,
    /// Set from outside (Ctrl-C).
    pub cancel: &'j AtomicBool,
    /// Told of progress.
    pub onlooker: &'j dyn Fn(Event<'_>),
    /// What follows the asking.
    pub then: Then,
    /// What scoring needs.
    pub tools: &'j Tools,
    /// What executes programs.
    pub sandbox: Chosen<'j>,
    /// Who judges the tasks that have a judge; none are judged without one.
    pub judge: Option<Judge<'j>>,
}

/// The entries of `run.json` for the tasks of a plan.
pub fn task_specs(plan: &Plan) -> Vec<TaskSpec> {
    let spec = |planned: &plan::PlannedTask| TaskSpec {
        task: planned.task.name.clone(),
        task_sha256: planned.task.sha256.clone(),
        data_sha256: planned.data_sha256.clone(),
        shots: planned.shots,
        documents: planned.documents as u64,
        documents_in_full: planned.in_full as u64,
        overrides: planned.overrides.clone(),
    };
    plan.tasks.iter().map(spec).collect()
}

/// Asks what is open, scores what is there, writes every file. What was answered stays in the journal whatever happens.
///
/// # Errors
/// [`AskError`]: a refusal or a dead engine, or an output that became unwritable.
pub fn execute(job: Job<'_>) -> Result<Finished, AskError> {
    let Job { plan, mut spec, writer, engine, cancel, onlooker, then, tools, sandbox, judge } = job;
    ask::check(&plan.tasks, engine)?;
    let asked: Vec<PlannedRequest> = plan.tasks.iter().flat_map(|t| t.asked.iter().cloned()).collect();
    let (mut journal, recovered) = writer.journal().map_err(AskError::Recorded)?;
    let torn = recovered.torn.map(|t| t.to_string());
    let mut answers = Answers::of(recovered.outcomes);
    let (started, mut session) = (Instant::now(), Session::begin());
    writer.write_requests(&asked)?;
    spec.timing.sessions.push(session.clone());
    writer.write_spec(&spec)?;
    keep_tokenizer(plan, writer, tools)?;

    let result = Asking { journal: &mut journal, answers: &mut answers, cancel, onlooker }.ask(&plan.tasks, engine)?;

    session.end(started.elapsed(), result.answered, &result.stats);
    spec.timing.sessions.pop();
    spec.timing.sessions.push(session);
    writer.write_spec(&spec)?;
    if result.cancelled || then == Then::Nothing {
        let documents = plan.tasks.iter().map(|t| t.documents as u64).sum();
        let (failed, failure) = (answers.failures.len() as u64, answers.failures.values().next().map(|f| f.message.clone()));
        return Ok(Finished { scores: None, cancelled: result.cancelled, failed, failure, documents, torn, verdicts: None });
    }
    let tasks: Vec<Task> = plan.tasks.iter().map(|t| t.task.clone()).collect();
    let graded = grade::grade(&tasks, &asked, &answers, writer, sandbox, cancel)?;
    let verdicts = match judge {
        Some(judge) => Some(ask_judge(judge, &tasks, &asked, &answers, writer, cancel, onlooker)?),
        None => None,
    };
    if let Some(verdicts) = verdicts.clone().filter(|v| v.cancelled) {
        return Ok(Finished { cancelled: true, failed: 0, failure: None, documents: 0, scores: None, torn, verdicts: Some(verdicts) });
    }
    let scoring = Scoring { graded: &graded, suite: &plan.suite, tasks: &tasks, spec: &spec, writer, then, tools };
    let mut finished = scoring.score(&asked, &answers)?;
    finished.torn = torn;
    finished.verdicts = verdicts;
    Ok(finished)
}

/// Asks a judge about every judged task's recorded answers; its journal is its own.
///
/// # Errors
/// [`AskError`].
pub fn ask_judge(
    judge: Judge<'_>,
    tasks: &[Task],
    asked: &[PlannedRequest],
    answers: &Answers,
    writer: &RunWriter,
    cancel: &AtomicBool,
    onlooker: &dyn Fn(Event<'_>),
) -> Result<verdicts::Verdicts, AskError> {
    let (mut journal, recovered) = writer.judgements(&judge.engine.identity().model).map_err(AskError::Recorded)?;
    let mut known = Answers::of(recovered.outcomes);
    let calls = judge_calls(tasks, asked, answers);
    let (journal, answers, budget) = (&mut journal, &mut known, judge.budget.as_ref());
    let name = judge.engine.identity().model.clone();
    if let Some(server) = judge.batches {
        if let Some(error) = calls.iter().find_map(|call| judge.engine.refusal(call)) {
            return Err(AskError::Engine { task: judge::STAGE.to_owned(), error });
        }
        return judge_batch::Batching { server, judge: &name, writer, journal, answers, budget, cancel, onlooker }.judge(&calls);
    }
    let recorded = writer.dir().batches(&name).map_err(AskError::Recorded)?;
    let batched = &recorded.answered();
    judge::Judging { engine: judge.engine, journal, answers, batched, budget, cancel, onlooker }.judge(&calls)
}

/// Everything a judge is to be asked about the recorded answers of these tasks.
pub fn judge_calls(tasks: &[Task], asked: &[PlannedRequest], answers: &Answers) -> Vec<Request> {
    let of_task = |requests: &[PlannedRequest]| {
        let task = tasks.iter().find(|t| t.name == requests[0].task);
        task.map(|task| judge::calls(task, requests, answers)).unwrap_or_default()
    };
    asked.chunk_by(|a, b| a.task == b.task).flat_map(of_task).collect()
}

/// A run whose scoring needs the model's tokens keeps the tokenizer, so that it can be scored again without the model.
fn keep_tokenizer(plan: &Plan, writer: &RunWriter, tools: &Tools) -> Result<(), ResultsError> {
    let needed = plan.tasks.iter().any(|t| resources::needs(&t.task).contains(&Need::ModelTokenizer));
    match &tools.tokenizer {
        Some(tokenizer) if needed => writer.write_tokenizer(tokenizer.files()),
        _ => Ok(()),
    }
}

/// Scores a recorded run again: no model, no data set.
///
/// # Errors
/// When a file of the run cannot be read or written.
pub fn rescore(
    dir: &RunDir,
    suite: &Suite,
    tasks: &[Task],
    writer: &RunWriter,
    tools: &Tools,
    sandbox: Chosen<'_>,
) -> Result<Finished, GradeError> {
    rescore_with(dir, suite, tasks, writer, tools, sandbox, None)
}

/// The same with the ratings of another judge than the run's own. Files of the run change only where it had no judge: then this one becomes
/// its own.
///
/// # Errors
/// As [`rescore`].
pub fn rescore_with(
    dir: &RunDir,
    suite: &Suite,
    tasks: &[Task],
    writer: &RunWriter,
    tools: &Tools,
    sandbox: Chosen<'_>,
    judge: Option<Identity>,
) -> Result<Finished, GradeError> {
    let mut spec = dir.spec()?;
    let then = match (judge, &spec.judge) {
        (Some(judge), Some(own)) if own.model != judge.model => {
            spec.judge = Some(judge);
            Then::Nothing
        }
        (Some(judge), None) => {
            spec.judge = Some(judge);
            writer.write_spec(&spec)?;
            Then::ScoreAndLog
        }
        _ => Then::ScoreAndLog,
    };
    let asked = dir.requests()?;
    let recovered = dir.responses()?;
    let torn = recovered.torn.map(|t| t.to_string());
    // As when the run was made: a task that was not part of it has no metric to name.
    let of_run = |task: &&Task| spec.tasks.iter().any(|t| t.task == task.name);
    let tasks: Vec<Task> = tasks.iter().filter(of_run).cloned().collect();
    let answers = Answers::of(recovered.outcomes);
    let graded = grade::grade(&tasks, &asked, &answers, writer, sandbox, &AtomicBool::new(false))?;
    let scoring = Scoring { graded: &graded, suite, tasks: &tasks, spec: &spec, writer, then, tools };
    let mut finished = scoring.score(&asked, &answers)?;
    finished.torn = torn;
    Ok(finished)
}

/// What scoring needs besides requests and answers.
struct Scoring<'s> {
    suite: &'s Suite,
    tasks: &'s [Task],
    spec: &'s RunSpec,
    writer: &'s RunWriter,
    then: Then,
    tools: &'s Tools,
    graded: &'s Graded,
}

impl Scoring<'_> {
    /// Scores every task in the suite's order, explains the columns without a number, writes `samples.jsonl` and `scores.json`.
    fn score(&self, asked: &[PlannedRequest], answers: &Answers) -> Result<Finished, ResultsError> {
        let Scoring { suite, tasks, spec, writer, then, tools, graded } = *self;
        let purpose = if spec.demo { Purpose::Demo } else { Purpose::Measurement };
        let mut scored: BTreeMap<Key, TaskScore> = BTreeMap::new();
        let mut samples: Vec<Sample> = Vec::new();
        for requests in asked.chunk_by(|a, b| a.task == b.task) {
            let name = &requests[0].task;
            let task = tasks.iter().find(|t| t.name == *name);
            let Some((task, task_spec)) = task.zip(spec.tasks.iter().find(|t| t.task == *name)) else { continue };
            let chat_template = spec.chat_template.as_deref();
            let around = score::Circumstances {
                spec: task_spec,
                engine: &spec.engine,
                chat_template,
                purpose,
                defects: spec.defects,
                tools,
                graded,
            };
            if let Some(rule) = &task.file.judge {
                let judge = spec.judge.as_ref();
                let judgements = match judge {
                    Some(judge) => Answers::of(writer.dir().judgements(&judge.model)?.outcomes),
                    None => Answers::default(),
                };
                let judged = judge::score(task, rule, requests, answers, &judgements, judge, around);
                scored.extend(judged.tasks.into_iter().map(|(group, score)| ((task.name.clone(), group), score)));
                samples.extend(judged.samples);
                continue;
            }
            let (score, of_task) = score::score_task(task, requests, answers, around);
            scored.insert((task.name.clone(), None), score);
            samples.extend(of_task);
        }
        let failed = samples.iter().filter(|s| s.failure.is_some()).count() as u64;
        let failure = samples.iter().find_map(|s| s.failure.clone());
        let documents = samples.len() as u64;
        let columns = columns(suite, tasks, scored, &spec.left_out);
        let scores = Scores::new(&spec.protocol, &spec.suite, &spec.engine.model, spec.demo, columns);
        if then == Then::ScoreAndLog {
            writer.write_samples(&samples)?;
        }
        if then != Then::Nothing {
            writer.write_scores(&scores)?;
        }
        Ok(Finished { scores: Some(scores), cancelled: false, failed, failure, documents, torn: None, verdicts: None })
    }
}

/// A task, and the group of it that a column shows.
type Key = (String, Option<String>);

/// One entry for every column of the suite, with a number or the reason why there is none; then tasks of no column.
fn columns(suite: &Suite, tasks: &[Task], mut scored: BTreeMap<Key, TaskScore>, left_out: &BTreeMap<String, String>) -> Vec<TaskScore> {
    let mut all = Vec::new();
    for column in &suite.columns {
        let task = column.task.as_str();
        all.push(scored.remove(&(task.to_owned(), column.group.clone())).unwrap_or_else(|| {
            let metric = tasks.iter().find(|t| t.name == task).map(|t| t.file.headline.clone()).unwrap_or_default();
            let why = left_out.get(task).map_or("not asked in this run", String::as_str);
            TaskScore::unavailable(task, &column.title, metric, why)
        }));
    }
    for mut score in tasks.iter().filter_map(|t| scored.remove(&(t.name.clone(), None))) {
        // A task of the user's own must not hide behind the column whose title it copied.
        if suite.columns.iter().any(|c| c.title == score.title) {
            score.title = format!("{} ({})", score.title, score.task);
        }
        all.push(score);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_against_their_limit() {
        for (limit, failed, requests, expected) in [
            (MaxFailures::Count(0), 0, 100, false),
            (MaxFailures::Count(0), 1, 100, true),
            (MaxFailures::Count(3), 3, 100, false),
            (MaxFailures::Ratio(0.01), 1, 100, false),
            (MaxFailures::Ratio(0.01), 2, 100, true),
        ] {
            assert_eq!(limit.exceeded(failed, requests), expected, "{limit:?} {failed}");
        }
    }
}
