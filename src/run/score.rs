//! Everything right of the journal: answers, scores, aggregates. A function of the run directory's content that can be repeated at will.

use super::resources::Tools;
use crate::answer::{self, Answer, lost_tokens};
use crate::engine::{EndTokens, Generate, Generated, Identity, Note, Output, Request, RequestKind};
use crate::metric::{self, Evidence, Metric, Reference, Resources, Score};
use crate::prompt::requests::stops;
use crate::results::{
    journal::Answers,
    requests::PlannedRequest,
    samples::Sample,
    scores::{GroupScore, TaskScore},
    signature::{Coverage, Parts, Purpose, Window, signature},
    spec::{Defects, TaskSpec},
};
use crate::task::{Task, load::PROTOCOL};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// What the score of a task depends on besides its answers.
#[derive(Clone, Copy)]
pub struct Circumstances<'c> {
    /// The task's entry in `run.json`.
    pub spec: &'c TaskSpec,
    /// Who answered.
    pub engine: &'c Identity,
    /// Whether the numbers mean anything.
    pub purpose: Purpose,
    /// What is done about upstream defects.
    pub defects: Defects,
    /// Tokenizer, segmenter.
    pub tools: &'c Tools,
}

/// Scores one task. `asked` are its requests in protocol order, those of one document together.
pub fn score_task(task: &Task, asked: &[PlannedRequest], answers: &Answers, around: Circumstances<'_>) -> (TaskScore, Vec<Sample>) {
    let metrics: Vec<&'static dyn Metric> = task.file.metrics.iter().filter_map(|name| metric::by_name(name)).collect();
    let mut samples = Vec::new();
    let mut scores: BTreeMap<&str, Vec<Score>> = BTreeMap::new();
    let documents: Vec<&[PlannedRequest]> = asked.chunk_by(|a, b| a.doc_id == b.doc_id).collect();
    // Word segmentation takes long enough to be worth every core; the order stays.
    let scored: Vec<(Sample, Vec<Score>)> = around.tools.with(|resources| {
        documents.par_iter().map(|document| score_document(task, document, answers, &metrics, around.tools, resources)).collect()
    });
    for (sample, of_document) in scored {
        for (metric, score) in metrics.iter().zip(of_document) {
            scores.entry(metric.name()).or_default().push(score);
        }
        samples.push(sample);
    }
    let score = aggregate_task(task, &samples, &scores, around);
    (score, samples)
}

/// One document: its sample and its scores, one a metric. A failed request has the score of an empty answer, and is marked.
fn score_document(
    task: &Task,
    document: &[PlannedRequest],
    answers: &Answers,
    metrics: &[&'static dyn Metric],
    tools: &Tools,
    resources: &Resources<'_>,
) -> (Sample, Vec<Score>) {
    let PlannedRequest { doc_id, group, reference, request, .. } = &document[0];
    let reference = Reference { texts: reference.clone() };
    let response = generated(answers, request);
    let decoded = match &request.kind {
        RequestKind::Generate(asked) => decoded(task, asked, document, answers, tools),
        RequestKind::LogLikelihood(_) => None,
    };
    let answer = decoded.map(|text| {
        let Answer::Text(answer) = answer::extract(task, &text);
        answer
    });
    let failure = match &answer {
        Some(_) => None,
        None => Some(
            document.iter().find_map(|asked| answers.failures.get(&asked.request.id)).map_or("not asked yet", |f| &f.message).to_owned(),
        ),
    };
    let evidence: Vec<Evidence> = answer.iter().cloned().map(Evidence::Text).collect();
    let scores: Vec<Score> = metrics.iter().map(|m| m.score(resources, &reference, &evidence)).collect();
    let sample = Sample {
        task: task.name.clone(),
        doc_id: doc_id.clone(),
        group: (!group.is_empty()).then(|| group.clone()),
        request: request.id.clone(),
        prompt_sha256: prompt_sha256(&request.kind),
        response: response.map(|r| r.text.clone()),
        answer,
        reference: reference.texts,
        scores: metrics.iter().zip(&scores).map(|(m, s)| (m.name().to_owned(), s.value)).collect(),
        stats: with_stats(metrics, &scores).collect(),
        failure,
        notes: response.map(|r| r.notes.clone()).unwrap_or_default(),
    };
    (sample, scores)
}

fn with_stats<'s>(metrics: &'s [&'static dyn Metric], scores: &'s [Score]) -> impl Iterator<Item = (String, Vec<f64>)> + 's {
    metrics.iter().zip(scores).filter(|(_, score)| !score.stats.is_empty()).map(|(m, score)| (m.name().to_owned(), score.stats.clone()))
}

fn generated<'a>(answers: &'a Answers, request: &Request) -> Option<&'a Generated> {
    match answers.responses.get(&request.id).map(|r| &r.output) {
        Some(Output::Generated(generated)) => Some(generated),
        _ => None,
    }
}

/// The text the protocol's harness had; `None` where an answer that it depends on is not there.
fn decoded(task: &Task, asked: &Generate, document: &[PlannedRequest], answers: &Answers, tools: &Tools) -> Option<String> {
    let own = generated(answers, &document[0].request)?;
    if document[0].lost_tokens == 0 {
        return Some(answer::decoded(asked, own));
    }
    let tokenizer = tools.tokenizer.as_deref()?;
    let filler = tokenizer.eos_id()?;
    let ids = own.token_ids.as_deref()?;
    let beside = match document.get(1) {
        Some(beside) => Some(generated(answers, &beside.request)?.token_ids.as_deref()?),
        None => None,
    };
    let stops = stops(&task.file.request, tokenizer.special_token("eos_token"));
    let batch = lost_tokens::Batch { own: ids, beside, max_new: asked.max_new_tokens as usize, filler };
    let text = lost_tokens::rest(ids, batch.new_tokens(&stops, tokenizer), document[0].lost_tokens as usize, filler, tokenizer);
    Some(answer::cleaned_and_cut(&text, asked.rules.cleanup, &stops))
}

fn prompt_sha256(kind: &RequestKind) -> String {
    Sha256::digest(kind.text()).iter().map(|b| format!("{b:02x}")).collect()
}

fn aggregate_task(task: &Task, samples: &[Sample], scores: &BTreeMap<&str, Vec<Score>>, around: Circumstances<'_>) -> TaskScore {
    let headline = metric::by_name(&task.file.headline).expect("checked when the task was loaded");
    let values = |metric: &str| scores.get(metric).map(Vec::as_slice).unwrap_or_default();
    let of_headline = values(headline.name());
    let others = task.file.metrics.iter().filter(|m| **m != task.file.headline).filter_map(|name| {
        let metric = metric::by_name(name)?;
        Some((name.clone(), metric.aggregate(values(name))?))
    });
    let departures: Vec<String> = around.spec.overrides.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let n = samples.len() as u64;
    TaskScore {
        task: task.name.clone(),
        title: task.file.title.clone(),
        metric: task.file.headline.clone(),
        value: headline.aggregate(of_headline),
        n,
        documents_in_full: Some(around.spec.documents_in_full),
        failed: samples.iter().filter(|s| s.failure.is_some()).count() as u64,
        half_width_95: headline.half_width_95(of_headline),
        others: others.collect(),
        groups: groups(headline, samples, of_headline),
        signature: sign(task, n, &departures, around),
        departures,
        warnings: end_tokens(task, around.engine).into_iter().chain(warnings(samples)).collect(),
        unavailable: None,
    }
}

fn sign(task: &Task, n: u64, departures: &[String], around: Circumstances<'_>) -> String {
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
        coverage: if n < around.spec.documents_in_full { Coverage::Partial } else { Coverage::Full },
        off_protocol: departures,
        purpose: around.purpose,
    })
}

fn window(task: &Task, engine: &Identity) -> Window {
    let counts = task.file.arrange.counts_tokens() || task.file.request.truncation.is_some();
    if counts && engine.tokenizer_sha256.is_none() { Window::Assumed } else { Window::Known }
}

/// Aggregates along every prefix of the documents' group paths.
fn groups(metric: &dyn Metric, samples: &[Sample], scores: &[Score]) -> Vec<GroupScore> {
    let mut members: BTreeMap<&str, Vec<Score>> = BTreeMap::new();
    for (sample, score) in samples.iter().zip(scores) {
        let Some(path) = sample.group.as_deref() else { continue };
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            members.entry(&path[..end]).or_default().push(score.clone());
        }
    }
    members
        .into_iter()
        .map(|(path, scores)| GroupScore {
            path: path.to_owned(),
            metric: metric.name().to_owned(),
            value: metric.aggregate(&scores),
            n: scores.len() as u64,
        })
        .collect()
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
