//! The judge's turn: what it is still to be asked about recorded answers, its answers into its own journal, and the ratings in them as scores.
//! Asking and scoring are apart, as for the model itself: a second judge or a new score costs only calls that were never made.

use super::ask::{AskError, Event};
use super::score::{Circumstances, sign};
use super::verdicts::{Budget, Verdicts, bound, distinct, likely};
use crate::engine::{Engine, Finish, Identity, Note, Outcome, Output, Request, RequestId, RequestKind, Sink, Turn};
use crate::judge::{
    cost,
    prompts::{self, Judged},
    rating::{Rating, rating},
};
use crate::metric::{self, Evidence, Metric, Reference, Resources, Score};
use crate::results::{
    journal::{Answers, Journal},
    requests::PlannedRequest,
    samples::{JudgedTurn, Sample},
    scores::TaskScore,
};
use crate::task::{Task, judged::JudgeRule};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

/// Name under which progress shows a judge.
pub const STAGE: &str = "judge";

/// A conversation of the plan with its answers, where it has them.
struct Conversation<'a> {
    planned: &'a PlannedRequest,
    questions: Vec<&'a str>,
    turns: Option<&'a [Turn]>,
    choice: u32,
}

/// The conversations of a judged task, those of one document together, in protocol order.
fn conversations<'a>(asked: &'a [PlannedRequest], answers: &'a Answers) -> Vec<Vec<Conversation<'a>>> {
    let one = |(choice, planned): (usize, &'a PlannedRequest)| {
        let RequestKind::Chat(chat) = &planned.request.kind else { return None };
        let turns = match answers.responses.get(&planned.request.id).map(|r| &r.output) {
            Some(Output::Dialogue { turns }) => Some(turns.as_slice()),
            _ => None,
        };
        Some(Conversation { planned, questions: chat.users(), turns, choice: u32::try_from(choice).unwrap_or(u32::MAX) })
    };
    asked.chunk_by(|a, b| a.doc_id == b.doc_id).map(|document| document.iter().enumerate().filter_map(one).collect()).collect()
}

impl Conversation<'_> {
    /// What the judge is asked about each turn; nothing where the conversation has no answers.
    fn requests(&self, rule: &JudgeRule) -> Vec<Request> {
        let Some(turns) = self.turns else { return Vec::new() };
        let answers: Vec<&str> = turns.iter().map(|t| t.answer.as_str()).collect();
        let references: Vec<&str> = self.planned.reference.iter().map(String::as_str).collect();
        let judged = Judged {
            category: &self.planned.group,
            questions: &self.questions,
            answers: &answers,
            references: &references,
            choice: self.choice,
        };
        (0..turns.len()).map(|turn| prompts::request(rule, judged, turn)).collect()
    }
}

/// Everything a judge is to be asked about a task's recorded answers, in protocol order.
pub fn calls(task: &Task, asked: &[PlannedRequest], answers: &Answers) -> Vec<Request> {
    let Some(rule) = &task.file.judge else { return Vec::new() };
    conversations(asked, answers).iter().flatten().flat_map(|c| c.requests(rule)).collect()
}

/// Calls before a run has answers: their number, and the tokens of prompts whose answers are as long as they may be.
pub fn expected_calls(asked: &[PlannedRequest]) -> u64 {
    let turns = |planned: &PlannedRequest| match &planned.request.kind {
        RequestKind::Chat(chat) => 1 + chat.follow_ups.len() as u64,
        _ => 0,
    };
    asked.iter().map(turns).sum()
}

/// One judging: who is asked, where the answers go, what stops it.
pub struct Judging<'a> {
    /// Who is asked.
    pub engine: &'a mut dyn Engine,
    /// The judge's journal.
    pub journal: &'a mut Journal,
    /// What the journal holds; grows with it.
    pub answers: &'a mut Answers,
    /// Calls in it that batches answered.
    pub batched: &'a BTreeSet<&'a RequestId>,
    /// Limit on money.
    pub budget: Option<&'a Budget>,
    /// Set from outside (Ctrl-C).
    pub cancel: &'a AtomicBool,
    /// Told of progress.
    pub onlooker: &'a dyn Fn(Event<'_>),
}

impl Judging<'_> {
    /// Asks what the journal does not answer yet, and no call twice.
    ///
    /// # Errors
    /// [`AskError`]; the journal holds everything that came before.
    pub fn judge(&mut self, calls: &[Request]) -> Result<Verdicts, AskError> {
        let mut verdicts = Verdicts::default();
        let distinct = distinct(calls, self.answers, self.batched, &mut verdicts);
        let pending: Vec<Request> = distinct.iter().filter(|c| !self.answers.responses.contains_key(&c.id)).map(|c| (*c).clone()).collect();
        let known = (distinct.len() - pending.len()) as u64;
        (self.onlooker)(Event::Task { task: STAGE, total: distinct.len() as u64, known });
        if let Some(error) = pending.iter().find_map(|call| self.engine.refusal(call)) {
            return Err(AskError::Engine { task: STAGE.to_owned(), error });
        }
        // So many at once that a budget is overdrawn by little: what is in flight is paid for.
        const PORTION: usize = 64;
        for portion in pending.chunks(if self.budget.is_some() { PORTION } else { pending.len().max(1) }) {
            if self.budget.is_some_and(|b| (verdicts.dollars(&b.price) + likely(portion, b)) > b.dollars) {
                verdicts.over_budget = true;
                break;
            }
            self.serve(portion, &mut verdicts)?;
            if verdicts.cancelled {
                break;
            }
        }
        (self.onlooker)(Event::Done);
        self.journal.sync()?;
        Ok(verdicts)
    }

    fn serve(&mut self, pending: &[Request], verdicts: &mut Verdicts) -> Result<(), AskError> {
        let by_id: BTreeMap<&RequestId, &Request> = pending.iter().map(|r| (&r.id, r)).collect();
        let mut broken = None;
        let mut push = |outcome: Outcome| {
            if let Err(error) = self.journal.append(&outcome) {
                broken = Some(error);
                return ControlFlow::Break(());
            }
            (self.onlooker)(if outcome.is_ok() { Event::Answered } else { Event::Failed });
            if let Ok(response) = &outcome {
                verdicts.answered += 1;
                // A judge that counts nothing is taken at its most, so that a budget holds.
                let most = || by_id.get(&response.id).filter(|_| self.budget.is_some()).and_then(|r| bound(r));
                verdicts.spent.add(cost::spent(response).or_else(most).unwrap_or_default());
            }
            self.answers.add(outcome);
            ControlFlow::Continue(())
        };
        let mut sink = Sink::new(&mut push, self.cancel);
        let served = self.engine.serve(pending, &mut sink);
        verdicts.cancelled |= sink.cancelled();
        if let Some(error) = broken {
            return Err(error.into());
        }
        match served {
            Ok(stats) => verdicts.stats.add(&stats),
            Err(_) if verdicts.cancelled => {}
            Err(error) => return Err(AskError::Engine { task: STAGE.to_owned(), error }),
        }
        Ok(())
    }
}

/// One judged turn, and what is to be told of it.
struct Verdict {
    turn: JudgedTurn,
    told: Option<Told>,
}

/// Why a turn has no rating.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    NotJudged,
    Failed(String),
    Filtered,
    Silent,
    NoRating,
    Unreadable,
}

fn verdict(question: &str, answer: &str, call: &Request, judgements: &Answers) -> Verdict {
    let said = match judgements.responses.get(&call.id).map(|r| &r.output) {
        Some(Output::Dialogue { turns }) => turns.first(),
        _ => None,
    };
    let read = said.map(|turn| rating(&turn.answer));
    let told = match (said, read) {
        (None, _) => Some(judgements.failures.get(&call.id).map_or(Told::NotJudged, |f| Told::Failed(f.message.clone()))),
        (Some(_), Some(Rating::Given(_))) => None,
        (Some(turn), _) if turn.raw.finish == Finish::ContentFilter => Some(Told::Filtered),
        (Some(turn), _) if turn.answer.is_empty() => Some(Told::Silent),
        (Some(_), Some(Rating::Unreadable)) => Some(Told::Unreadable),
        (Some(_), _) => Some(Told::NoRating),
    };
    let turn = JudgedTurn {
        question: question.to_owned(),
        answer: answer.to_owned(),
        judgement: said.map(|turn| turn.answer.clone()),
        rating: read.and_then(Rating::value),
    };
    Verdict { turn, told }
}

/// Scores of a judged task: one a group, then the one over all. With the samples, one a conversation.
pub struct JudgedScores {
    /// Group and its score; the last, without a group, is over all documents (upstream's `overall`).
    pub tasks: Vec<(Option<String>, TaskScore)>,
    /// One a conversation.
    pub samples: Vec<Sample>,
}

/// Scores one judged task from its recorded answers and a judge's.
pub fn score(
    task: &Task,
    rule: &JudgeRule,
    asked: &[PlannedRequest],
    answers: &Answers,
    judgements: &Answers,
    judge: Option<&Identity>,
    around: Circumstances<'_>,
) -> JudgedScores {
    let mut documents: Vec<Scored> = Vec::new();
    for document in conversations(asked, answers) {
        let mut scored = Scored { group: document.first().map(|c| c.planned.group.clone()).unwrap_or_default(), ..Scored::default() };
        for conversation in &document {
            scored.add(task, rule, conversation, answers, judgements);
        }
        documents.push(scored);
    }
    let groups: Vec<&str> = documents.iter().map(|d| d.group.as_str()).fold(Vec::new(), |mut seen, group| {
        if !seen.contains(&group) {
            seen.push(group);
        }
        seen
    });
    let total = documents.len() as u64;
    let score_of = |group: Option<&str>| {
        let members: Vec<&Scored> = documents.iter().filter(|d| group.is_none_or(|g| d.group == g)).collect();
        task_score(task, group, &members, total, judge, around)
    };
    let tasks = groups.iter().map(|g| (Some((*g).to_owned()), score_of(Some(g)))).chain([(None, score_of(None))]).collect();
    JudgedScores { tasks, samples: documents.into_iter().flat_map(|d| d.samples).collect() }
}

/// One document with all its conversations.
#[derive(Default)]
struct Scored {
    group: String,
    evidence: Vec<Evidence>,
    told: Vec<Told>,
    samples: Vec<Sample>,
}

impl Scored {
    fn add(&mut self, task: &Task, rule: &JudgeRule, conversation: &Conversation<'_>, answers: &Answers, judgements: &Answers) {
        let planned = conversation.planned;
        let calls = conversation.requests(rule);
        let turns = conversation.turns.unwrap_or_default();
        let verdicts: Vec<Verdict> =
            (turns.iter().zip(&calls)).zip(&conversation.questions).map(|((t, call), q)| verdict(q, &t.answer, call, judgements)).collect();
        for at in 0..conversation.questions.len() {
            let rating = verdicts.get(at).and_then(|v| v.turn.rating);
            self.evidence.push(Evidence::Rating { turn: u32::try_from(at).unwrap_or(u32::MAX), rating });
        }
        let unanswered = conversation.turns.is_none();
        let own_failure =
            unanswered.then(|| answers.failures.get(&planned.request.id).map_or("not asked yet".to_owned(), |f| f.message.clone()));
        let judge_failure = verdicts.iter().find_map(|v| match &v.told {
            Some(Told::Failed(message)) => Some(format!("the judge: {message}")),
            Some(Told::NotJudged) => Some("not judged yet".to_owned()),
            _ => None,
        });
        self.told.extend(verdicts.iter().filter_map(|v| v.told.clone()));
        let rated: Vec<f64> = verdicts.iter().filter_map(|v| v.turn.rating).collect();
        let mean = (!rated.is_empty()).then(|| rated.iter().sum::<f64>() / rated.len() as f64 / 10.0);
        self.samples.push(Sample {
            task: task.name.clone(),
            doc_id: format!("{}/{}", planned.doc_id, conversation.choice),
            group: Some(planned.group.clone()),
            request: planned.request.id.clone(),
            prompt_sha256: super::score::prompt_sha256(&planned.request.kind),
            response: turns.last().map(|t| t.raw.text.clone()),
            answer: turns.last().map(|t| t.answer.clone()),
            readings: BTreeMap::new(),
            programs: Vec::new(),
            reference: planned.reference.clone(),
            scores: mean.map(|m| (task.file.headline.clone(), m)).into_iter().collect(),
            stats: BTreeMap::new(),
            failure: own_failure.or(judge_failure),
            notes: turns.iter().flat_map(|t| t.raw.notes.clone()).collect::<BTreeSet<Note>>().into_iter().collect(),
            log_likelihoods: Vec::new(),
            turns: verdicts.into_iter().map(|v| v.turn).collect(),
        });
    }

    fn failed(&self) -> bool {
        self.samples.iter().any(|s| s.failure.is_some())
    }
}

fn task_score(
    task: &Task,
    group: Option<&str>,
    members: &[&Scored],
    total: u64,
    judge: Option<&Identity>,
    around: Circumstances<'_>,
) -> TaskScore {
    let scores = |metric: &dyn Metric| -> Vec<Score> {
        members.iter().map(|d| metric.score(&Resources::default(), &Reference::default(), &d.evidence)).collect()
    };
    let headline = metric::by_name(&task.file.headline).expect("checked when the task was loaded");
    let of_headline = scores(headline);
    let others = task.file.metrics.iter().filter(|m| **m != task.file.headline).filter_map(|name| {
        let metric = metric::by_name(name)?;
        Some((name.clone(), metric.aggregate(&scores(metric))?))
    });
    let n = members.len() as u64;
    // How many documents a group has is known only when all were asked; otherwise all that are missing might be its own.
    let missing = around.spec.documents_in_full.saturating_sub(total);
    let departures: Vec<String> = around.spec.overrides.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let value = headline.aggregate(&of_headline);
    TaskScore {
        task: task.name.clone(),
        title: group.unwrap_or(&task.file.title).to_owned(),
        metric: task.file.headline.clone(),
        filter: None,
        n,
        documents_in_full: Some(n + missing),
        failed: members.iter().filter(|d| d.failed()).count() as u64,
        half_width_95: headline.half_width_95(&of_headline),
        // The original prints none.
        stderr: None,
        others: others.collect(),
        groups: Vec::new(),
        signature: value.map(|_| signed(sign(task, n, n + missing, &departures, around), judge, around)).unwrap_or_default(),
        departures,
        warnings: warnings(members),
        unavailable: value.is_none().then(|| "a choice has no rating at all, so there is no mean over the choices".to_owned()),
        value,
    }
}

/// The signature with how the conversation was written and who judged, before the version.
fn signed(signature: String, judge: Option<&Identity>, around: Circumstances<'_>) -> String {
    let (before, version) = signature.rsplit_once('|').unwrap_or((&signature, ""));
    let plain = |text: &str| text.replace(['|', '\n', '\r'], "_");
    let template = around.chat_template.map_or(String::new(), |t| format!("|chat:{}", plain(t)));
    let judge = judge.map_or(String::new(), |j| format!("|judge:{}", plain(&j.model)));
    format!("{before}{template}{judge}|{version}")
}

/// What a reader of the number should know of missing ratings, one sentence a kind.
fn warnings(members: &[&Scored]) -> Vec<String> {
    let all: Vec<&Told> = members.iter().flat_map(|d| &d.told).collect();
    let turns: usize = members.iter().map(|d| d.evidence.len()).sum();
    let mut warnings = Vec::new();
    for (kind, what) in [
        (Told::Filtered, "were not judged: a content filter stepped in (no rating, left out of the mean as upstream's $ERROR$)"),
        (Told::Silent, "got an empty judgement (no rating, left out of the mean)"),
        (Told::NoRating, "got a judgement without a rating (left out of the mean)"),
        (Told::Unreadable, "got a rating whose digits are no number, on which upstream stops (left out of the mean)"),
        (Told::NotJudged, "have not been judged yet"),
    ] {
        let count = all.iter().filter(|t| ***t == kind).count();
        if count > 0 {
            warnings.push(format!("{count} of {turns} answers {what}"));
        }
    }
    let failed: Vec<&str> = all.iter().filter_map(|t| if let Told::Failed(why) = t { Some(why.as_str()) } else { None }).collect();
    if let Some(first) = failed.first() {
        warnings.push(format!("{} of {turns} answers could not be judged; the first reason: {first}", failed.len()));
    }
    let unanswered: Vec<&Sample> = members.iter().flat_map(|d| &d.samples).filter(|s| s.answer.is_none()).collect();
    if let Some(first) = unanswered.first() {
        let why = first.failure.as_deref().unwrap_or_default();
        warnings.push(format!("{} conversations have no answer; the first reason: {why}", unanswered.len()));
    }
    warnings
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::engine::{Chat, Generated, Response, Sampling, Template};

    pub(in crate::run) fn call(text: &str) -> Request {
        Request::new(RequestKind::Chat(Chat {
            prompt: text.into(),
            follow_ups: vec![],
            sample: 0,
            max_new_tokens: 1,
            template: Template::Messages { system: String::new() },
            sampling: Sampling::GREEDY,
        }))
    }

    pub(in crate::run) fn said(calls: &[Request], texts: &[&str]) -> Answers {
        let turn = |text: &str, finish| {
            let raw = Generated { text: text.into(), token_ids: None, finish, prompt_tokens: None, new_tokens: None, notes: vec![] };
            Turn { answer: text.into(), raw }
        };
        let finish = |text: &str| if text == "filtered" { Finish::ContentFilter } else { Finish::EndToken };
        let respond = |(call, text): (&Request, &&str)| {
            let shown = if *text == "filtered" { "" } else { text };
            Ok(Response { id: call.id.clone(), output: Output::Dialogue { turns: vec![turn(shown, finish(text))] } })
        };
        Answers::of(calls.iter().zip(texts).map(respond))
    }

    #[test]
    fn why_there_is_no_rating_is_told() {
        let texts = ["[[7]]", "filtered", "", "よい答えです", "[[０８]]"];
        let calls: Vec<Request> = texts.iter().map(|t| call(t)).collect();
        let judgements = said(&calls, &texts);
        let told: Vec<Option<Told>> = calls.iter().map(|c| verdict("q", "a", c, &judgements).told).collect();
        assert_eq!(told, [None, Some(Told::Filtered), Some(Told::Silent), Some(Told::NoRating), Some(Told::Unreadable)]);
        assert_eq!(verdict("q", "a", &call("other"), &judgements).told, Some(Told::NotJudged));
    }
}
