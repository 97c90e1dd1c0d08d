//! One document: what was answered, what it scores, its line in `samples.jsonl`.

use super::{Circumstances, Number};
use crate::answer::{self, Answer, lost_tokens, program};
use crate::engine::{Generate, Generated, Output, Request, RequestKind};
use crate::metric::{Evidence, Reference, Resources, Score, accuracy};
use crate::prompt::requests::stops;
use crate::results::{
    journal::Answers,
    requests::PlannedRequest,
    samples::{Program, Sample},
    verdicts::Run,
};
use crate::run::{grade::Graded, resources::Tools};
use crate::task::{Grade, Step, Task};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Sample and scores of a document, one score a number.
pub(super) fn score(
    task: &Task,
    document: &[PlannedRequest],
    answers: &Answers,
    numbers: &[Number<'_>],
    around: Circumstances<'_>,
    resources: &Resources<'_>,
) -> (Sample, Vec<Score>) {
    match task.file.grade {
        Grade::Compare => score_answer(task, document, answers, numbers, around.tools, resources),
        Grade::Execute => score_programs(task, document, answers, numbers, around.graded),
    }
}

/// One document: its sample and its scores, one a number. A failed request has the score of an empty answer, and is marked.
fn score_answer(
    task: &Task,
    document: &[PlannedRequest],
    answers: &Answers,
    numbers: &[Number<'_>],
    tools: &Tools,
    resources: &Resources<'_>,
) -> (Sample, Vec<Score>) {
    let PlannedRequest { doc_id, group, reference, right, request, .. } = &document[0];
    let response = generated(answers, request);
    let answered = answered(task, document, answers, tools);
    let failure = match &answered {
        Some(_) => None,
        None => Some(
            document.iter().find_map(|asked| answers.failures.get(&asked.request.id)).map_or("not asked yet", |f| &f.message).to_owned(),
        ),
    };
    let compared = Reference { texts: reference.iter().map(|text| answer::comparable(task, text)).collect(), right: *right };
    let scores: Vec<Score> = numbers
        .iter()
        .map(|number| {
            let evidence = answered.as_ref().map(|answered| answered.evidence(task, number.steps)).unwrap_or_default();
            number.metric.score(resources, &compared, &evidence)
        })
        .collect();
    let sample = Sample {
        task: task.name.clone(),
        doc_id: doc_id.clone(),
        group: (!group.is_empty()).then(|| group.clone()),
        request: request.id.clone(),
        prompt_sha256: prompt_sha256(&request.kind),
        response: response.map(|r| r.text.clone()),
        answer: answered.as_ref().and_then(|answered| answered.shown(task, reference)),
        readings: answered.as_ref().map(|answered| answered.other_readings(task)).unwrap_or_default(),
        reference: right.and_then(|right| reference.get(right)).map_or_else(|| reference.clone(), |right| vec![right.clone()]),
        programs: Vec::new(),
        scores: values(numbers, &scores),
        stats: stats(numbers, &scores),
        failure,
        notes: response.map(|r| r.notes.clone()).unwrap_or_default(),
        turns: Vec::new(),
        log_likelihoods: answered.map(|answered| answered.log_likelihoods).unwrap_or_default(),
    };
    (sample, scores)
}

/// Every answer to what a document was asked.
struct Answered {
    /// The text the protocol's harness had, where one was asked for.
    text: Option<String>,
    /// Log-likelihoods of every continuation, in the order in which they were asked for.
    log_likelihoods: Vec<f64>,
}

/// `None` where an answer is missing.
fn answered(task: &Task, document: &[PlannedRequest], answers: &Answers, tools: &Tools) -> Option<Answered> {
    let mut all = Answered { text: None, log_likelihoods: Vec::new() };
    for planned in document {
        match (&planned.request.kind, answers.responses.get(&planned.request.id).map(|r| &r.output)) {
            // The answer beside it decides what is left of the first one; it is read there.
            (RequestKind::Generate(_), _) if all.text.is_some() => {}
            (RequestKind::Generate(asked), _) => all.text = Some(decoded(task, asked, document, answers, tools)?),
            (RequestKind::LogLikelihood(_), Some(Output::LogLikelihoods { continuations })) => {
                all.log_likelihoods.extend(continuations.iter().map(|one| one.logprob));
            }
            (RequestKind::LogLikelihood(_) | RequestKind::Chat(_), _) => return None,
        }
    }
    Some(all)
}

impl Answered {
    /// What a metric gets.
    fn evidence(&self, task: &Task, steps: &[Step]) -> Vec<Evidence> {
        let text = self.text.as_ref().map(|text| Evidence::Text(answer::comparable(task, &answer::steps::apply(steps, text))));
        let scored = (!self.log_likelihoods.is_empty()).then(|| Evidence::LogLikelihoods(self.log_likelihoods.clone()));
        text.into_iter().chain(scored).collect()
    }

    /// The answer a reader is shown: the extracted text, or the most probable choice.
    fn shown(&self, task: &Task, choices: &[String]) -> Option<String> {
        match &self.text {
            Some(text) => {
                let Answer::Text(answer) = answer::extract(task, text);
                Some(answer)
            }
            None => choices.get(accuracy::chosen(&self.log_likelihoods)?).cloned(),
        }
    }

    /// What the readings beside the headline's extract.
    fn other_readings(&self, task: &Task) -> BTreeMap<String, String> {
        let read = |(name, steps): (Option<&str>, &[Step])| Some((name?.to_owned(), answer::steps::apply(steps, self.text.as_ref()?)));
        answer::readings(task).into_iter().filter_map(read).collect()
    }
}

/// One document whose samples are programs. Without all of its answers it has the score of wrong ones, and is marked.
fn score_programs(
    task: &Task,
    document: &[PlannedRequest],
    answers: &Answers,
    numbers: &[Number<'_>],
    graded: &Graded,
) -> (Sample, Vec<Score>) {
    let PlannedRequest { doc_id, reference, request, .. } = &document[0];
    let mut programs = Vec::new();
    let mut evidence = Vec::new();
    for asked in document {
        let Some((code, program)) = program(asked, answers) else { continue };
        let Some(verdict) = graded.verdict(&program) else { continue };
        evidence.extend([Evidence::Passed(verdict.passed()), Evidence::Text(code.clone())]);
        let Run { verdict, message, .. } = verdict.run.clone();
        programs.push(Program { request: asked.request.id.clone(), code, verdict, message });
    }
    let missing = document.iter().find(|asked| !programs.iter().any(|p| p.request == asked.request.id));
    let failure = missing.map(|asked| answers.failures.get(&asked.request.id).map_or("not asked yet", |f| &f.message).to_owned());
    evidence.extend((programs.len()..document.len()).map(|_| Evidence::Passed(false)));
    let reference = Reference::of(reference.iter().cloned());
    let scores: Vec<Score> = numbers.iter().map(|number| number.metric.score(&Resources::default(), &reference, &evidence)).collect();
    let notes = document.iter().filter_map(|asked| generated(answers, &asked.request)).flat_map(|g| g.notes.iter().copied());
    let sample = Sample {
        task: task.name.clone(),
        doc_id: doc_id.clone(),
        group: None,
        request: request.id.clone(),
        prompt_sha256: prompt_sha256(&request.kind),
        response: generated(answers, request).map(|r| r.text.clone()),
        answer: programs.first().filter(|p| p.request == request.id).map(|p| p.code.clone()),
        readings: BTreeMap::new(),
        programs,
        reference: reference.texts,
        scores: values(numbers, &scores),
        stats: stats(numbers, &scores),
        failure,
        log_likelihoods: Vec::new(),
        turns: Vec::new(),
        notes: notes.collect::<BTreeSet<_>>().into_iter().collect(),
    };
    (sample, scores)
}

/// Code and whole program of an answer; `None` where there is none.
pub(in crate::run) fn program(asked: &PlannedRequest, answers: &Answers) -> Option<(String, String)> {
    let RequestKind::Generate(generate) = &asked.request.kind else { return None };
    let code = program::candidate(&generate.prompt, &generated(answers, &asked.request)?.text, &generate.stop);
    let program = program::assemble(&code, asked.reference.first().map_or("", String::as_str));
    Some((code, program))
}

fn values(numbers: &[Number<'_>], scores: &[Score]) -> BTreeMap<String, f64> {
    numbers.iter().zip(scores).map(|(number, score)| (number.name.clone(), score.value)).collect()
}

/// Those of the numbers that have any.
fn stats(numbers: &[Number<'_>], scores: &[Score]) -> BTreeMap<String, Vec<f64>> {
    let stats = numbers.iter().zip(scores).map(|(number, score)| (number.name.clone(), score.stats.clone()));
    stats.filter(|(_, stats)| !stats.is_empty()).collect()
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

pub(in crate::run) fn prompt_sha256(kind: &RequestKind) -> String {
    Sha256::digest(kind.text()).iter().map(|b| format!("{b:02x}")).collect()
}
