//! Everything right of the journal: answers, scores, aggregates. A function of the run directory's content that can be repeated at will.

mod document;

pub(super) use document::{program, prompt_sha256};

use super::{
    grade::{self, Graded},
    resources::Tools,
};
use crate::answer;
use crate::engine::{EndTokens, Identity, Note};
use crate::metric::{self, Metric, Score, aggregate, parts};
use crate::results::{
    journal::Answers,
    requests::PlannedRequest,
    samples::Sample,
    scores::{GroupScore, TaskScore},
    signature::{Coverage, Parts, Purpose, Window, signature},
    spec::{Defects, TaskSpec},
};
use crate::sandbox;
use crate::task::{Step, Task, Whole, load::PROTOCOL};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What the score of a task depends on besides its answers.
#[derive(Clone, Copy)]
pub struct Circumstances<'c> {
    /// The task's entry in `run.json`.
    pub spec: &'c TaskSpec,
    /// Who answered.
    pub engine: &'c Identity,
    /// How conversations were written, where any were held.
    pub chat_template: Option<&'c str>,
    /// Whether the numbers mean anything.
    pub purpose: Purpose,
    /// What is done about upstream defects.
    pub defects: Defects,
    /// Tokenizer, segmenter.
    pub tools: &'c Tools,
    /// Verdicts on programs.
    pub graded: &'c Graded,
}

/// One number of a task: a metric over one reading of the answer.
pub(in crate::run) struct Number<'t> {
    /// The metric's name, and behind a comma the reading's where it is not the headline's.
    name: String,
    metric: &'static dyn Metric,
    steps: &'t [Step],
}

fn numbers(task: &Task) -> Vec<Number<'_>> {
    let metrics: Vec<&'static dyn Metric> = task.file.metrics.iter().filter_map(|name| metric::by_name(name)).collect();
    let of_reading = |(reading, steps): (Option<&str>, _)| {
        let reading = reading.map(|reading| format!(",{reading}")).unwrap_or_default();
        metrics.iter().map(move |metric| Number { name: format!("{}{reading}", metric.name()), metric: *metric, steps }).collect::<Vec<_>>()
    };
    answer::readings(task).into_iter().flat_map(of_reading).collect()
}

/// Scores one task. `asked` are its requests in protocol order, those of one document together.
pub fn score_task(task: &Task, asked: &[PlannedRequest], answers: &Answers, around: Circumstances<'_>) -> (TaskScore, Vec<Sample>) {
    let numbers = numbers(task);
    let mut samples = Vec::new();
    let mut scores: BTreeMap<&str, Vec<Score>> = BTreeMap::new();
    let documents: Vec<&[PlannedRequest]> = asked.chunk_by(|a, b| a.doc_id == b.doc_id).collect();
    // Word segmentation takes long enough to be worth every core; the order stays.
    let scored: Vec<(Sample, Vec<Score>)> = around.tools.with(|resources| {
        documents.par_iter().map(|document| document::score(task, document, answers, &numbers, around, resources)).collect()
    });
    for (sample, of_document) in scored {
        for (number, score) in numbers.iter().zip(of_document) {
            scores.entry(&number.name).or_default().push(score);
        }
        samples.push(sample);
    }
    let score = aggregate_task(task, &numbers, &samples, &scores, around);
    (score, samples)
}

fn aggregate_task(
    task: &Task,
    numbers: &[Number<'_>],
    samples: &[Sample],
    scores: &BTreeMap<&str, Vec<Score>>,
    around: Circumstances<'_>,
) -> TaskScore {
    let headline = metric::by_name(&task.file.headline).expect("checked when the task was loaded");
    let values = |name: &str| scores.get(name).map(Vec::as_slice).unwrap_or_default();
    let of_headline = values(headline.name());
    let paths: Vec<Option<&str>> = samples.iter().map(|sample| sample.group.as_deref()).collect();
    let whole = |metric: &dyn Metric, scores: &[Score]| match task.file.whole {
        Whole::OfParts => parts::pooled(metric, &paths, scores).1.map(|whole| (Some(whole.value), whole.stderr)),
        Whole::OfDocuments => None,
    };
    let (value, stderr) = whole(headline, of_headline).unwrap_or_else(|| (headline.aggregate(of_headline), headline.stderr(of_headline)));
    let others = numbers.iter().filter(|number| number.name != task.file.headline).filter_map(|number| {
        let scores = values(&number.name);
        Some((number.name.clone(), whole(number.metric, scores).map_or_else(|| number.metric.aggregate(scores), |(value, _)| value)?))
    });
    let departures: Vec<String> = around.spec.overrides.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let n = samples.len() as u64;
    TaskScore {
        task: task.name.clone(),
        title: task.file.title.clone(),
        metric: task.file.headline.clone(),
        filter: task.file.filter.clone(),
        value,
        n,
        documents_in_full: Some(around.spec.documents_in_full),
        failed: samples.iter().filter(|s| s.failure.is_some()).count() as u64,
        half_width_95: match task.file.whole {
            Whole::OfParts => stderr.map(aggregate::half_width_of),
            Whole::OfDocuments => headline.half_width_95(of_headline),
        },
        stderr,
        others: others.collect(),
        groups: groups(task, headline, &paths, of_headline),
        signature: sign(task, n, around.spec.documents_in_full, &departures, around),
        departures,
        warnings: headline
            .about_interval()
            .map(str::to_owned)
            .into_iter()
            .chain(end_tokens(task, around.engine))
            .chain(warnings(samples))
            .collect(),
        unavailable: None,
    }
}

pub(super) fn sign(task: &Task, n: u64, in_full: u64, departures: &[String], around: Circumstances<'_>) -> String {
    signature(&Parts {
        protocol: PROTOCOL,
        task: &task.name,
        shots: around.spec.shots,
        metric: &task.file.headline,
        n,
        task_sha256: &around.spec.task_sha256,
        data_sha256: &around.spec.data_sha256,
        engine: around.engine,
        protocol_dtype: &task.file.dtype,
        defects: (!task.file.request.defects.is_empty()).then_some(around.defects),
        window: window(task, around.engine),
        coverage: if n < in_full { Coverage::Partial } else { Coverage::Full },
        off_protocol: departures,
        sandbox: grade::executes(task).then(|| around.graded.sandbox().map(sandbox::Identity::short)).flatten(),
        purpose: around.purpose,
    })
}

fn window(task: &Task, engine: &Identity) -> Window {
    let counts = task.file.arrange.counts_tokens() || task.file.request.truncation.is_some();
    if counts && engine.tokenizer_sha256.is_none() { Window::Assumed } else { Window::Known }
}

/// The numbers of every prefix of the documents' group paths.
fn groups(task: &Task, metric: &dyn Metric, paths: &[Option<&str>], scores: &[Score]) -> Vec<GroupScore> {
    if task.file.whole == Whole::OfParts {
        let group = |(path, part): (String, aggregate::Part)| GroupScore {
            path,
            metric: metric.name().to_owned(),
            value: Some(part.value),
            stderr: part.stderr,
            n: part.n,
        };
        return parts::pooled(metric, paths, scores).0.into_iter().map(group).collect();
    }
    let mut members: BTreeMap<&str, Vec<Score>> = BTreeMap::new();
    for (path, score) in paths.iter().zip(scores) {
        let Some(path) = path else { continue };
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            members.entry(&path[..end]).or_default().push(score.clone());
        }
    }
    let group = |(path, scores): (&str, Vec<Score>)| GroupScore {
        path: path.to_owned(),
        metric: metric.name().to_owned(),
        value: metric.aggregate(&scores),
        stderr: None,
        n: scores.len() as u64,
    };
    members.into_iter().map(group).collect()
}

/// No field of `/v1/completions` says which tokens end an answer, so a number from a server carries this difference, seen or not.
fn end_tokens(task: &Task, engine: &Identity) -> Option<String> {
    let differs = engine.engine == "endpoint" && task.file.request.end == EndTokens::Tokenizer;
    differs.then(|| "the server ends answers at end tokens of its own choice, the protocol at the tokenizer's eos_token alone".to_owned())
}

/// What a reader of the number should know, one sentence a kind.
fn warnings(samples: &[Sample]) -> Vec<String> {
    let mut warnings = Vec::new();
    for (note, what) in [
        (Note::BeyondContext, "reached positions beyond max_position_embeddings (computed as transformers does)"),
        (Note::NearTie, "had a near tie: another device or batch may answer otherwise"),
        (Note::CutByServer, "were cut by the server before the protocol's limit"),
    ] {
        let count = samples.iter().filter(|s| s.notes.contains(&note)).count();
        if count > 0 {
            warnings.push(format!("{count} of {} answers {what}", samples.len()));
        }
    }
    let failures: BTreeSet<&str> = samples.iter().filter_map(|s| s.failure.as_deref()).collect();
    if let Some(first) = failures.first() {
        let count = samples.iter().filter(|s| s.failure.is_some()).count();
        warnings.push(format!("{count} of {} documents have no answer and count as wrong; the first reason: {first}", samples.len()));
    }
    warnings
}
