//! Many requests in flight, each retried by the rules, outcomes pushed as they come.
//!
//! A request that fails for good is recorded and the others go on. Whether it is the request or the server that is at fault is not
//! guessed from counts: a plain request that the probe saw answered is asked once more. If no server answers that either, the run stops.

use super::EndpointOptions;
use super::balance::Pool;
use super::capabilities::{Capabilities, Choices, PromptIds, Scoring, SpecialTokens};
use super::http::{Class, Fault, Server};
use super::retry::Again;
use super::score::{self, Pair, Route, Scored};
use super::{probe, refusal, wire};
use crate::engine::llama::encode;
use crate::engine::{
    Bos, ContinuationScore, EngineError, Finish, Generate, Generated, LogLikelihood, Outcome, Output, Request, RequestFailure, RequestKind,
    Response, Sink, Stats,
};
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// How often a run that waits for answers looks whether it was cancelled.
pub(super) const CANCEL_POLL: Duration = Duration::from_millis(50);

/// Everything an attempt needs, shared by all of them.
pub(super) struct Asker {
    pool: Arc<Pool>,
    pub(super) capabilities: Capabilities,
    pub(super) options: EndpointOptions,
    /// Set when a server gave fewer choices than the probe promised: from then on every sample is asked alone.
    one_by_one: AtomicBool,
}

/// One HTTP request to make: one prompt, one sample or several with consecutive seeds.
struct Job {
    samples: Vec<Request>,
}

/// What became of a [`Job`].
pub(super) enum Done {
    /// Outcomes, their cost, and samples that are still to be asked.
    Answered { outcomes: Vec<Outcome>, stats: Stats, rest: Vec<Request> },
    /// Nothing can be answered any more.
    Dead(EngineError),
}

/// Serves all requests; see [`crate::engine::Engine::serve`].
pub(super) async fn run(asker: &Arc<Asker>, requests: &[Request], sink: &mut Sink<'_>) -> Result<Stats, EngineError> {
    let sent = || asker.pool.servers().iter().map(Server::sent).sum::<u64>();
    let before = sent();
    let mut stats = Stats::default();
    let mut queue = VecDeque::from(jobs(requests, &asker.capabilities));
    let mut running = JoinSet::new();
    while !sink.cancelled() {
        while running.len() < asker.options.max_connections.max(1)
            && let Some(job) = queue.pop_front()
        {
            running.spawn(Arc::clone(asker).answer(job));
        }
        let done = match next(&mut running).await? {
            Next::NotYet => continue,
            Next::Nothing => break,
            Next::Done(done) => done,
        };
        let (outcomes, rest) = match done {
            Done::Dead(error) => return Err(error),
            Done::Answered { outcomes, stats: cost, rest } => {
                stats.add(&cost);
                (outcomes, rest)
            }
        };
        rest.into_iter().rev().for_each(|r| queue.push_front(Job { samples: vec![r] }));
        if outcomes.into_iter().any(|o| sink.push(o).is_break()) {
            break;
        }
    }
    // Dropping the set closes the connections of what is still in flight.
    drop(running);
    stats.http_requests = sent() - before;
    Ok(stats)
}

/// What has become of tasks in flight.
pub(super) enum Next<T> {
    /// The first that ended.
    Done(T),
    /// None has ended yet: a moment to look whether the run is cancelled.
    NotYet,
    /// None is in flight.
    Nothing,
}

/// Waits for a task, but no longer than a cancelled run may.
pub(super) async fn next<T: 'static>(running: &mut JoinSet<T>) -> Result<Next<T>, EngineError> {
    match tokio::time::timeout(CANCEL_POLL, running.join_next()).await {
        Err(_) => Ok(Next::NotYet),
        Ok(None) => Ok(Next::Nothing),
        Ok(Some(Ok(done))) => Ok(Next::Done(done)),
        Ok(Some(Err(e))) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(e) => Err(EngineError::new(format!("a network task ended early: {e}"))),
        },
    }
}

/// One job for each request; samples of one prompt whose seeds follow each other become one where the server gives choice `i` the
/// seed `s + i`, so that joining them changes no text.
fn jobs(requests: &[Request], capabilities: &Capabilities) -> Vec<Job> {
    let most = if capabilities.choices == Choices::SeedPlusIndex { capabilities.max_choices as usize } else { 1 };
    let mut prompts: BTreeMap<_, Vec<(u64, usize)>> = BTreeMap::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (at, request) in requests.iter().enumerate() {
        match &request.kind {
            RequestKind::Generate(g) if most > 1 && g.sampling.temperature > 0.0 => {
                let mut same = g.clone();
                (same.sample, same.sampling.seed) = (0, 0);
                prompts.entry(Request::new(RequestKind::Generate(same)).id).or_default().push((wire::wire_seed(g.sampling.seed), at));
            }
            _ => groups.push(vec![at]),
        }
    }
    for mut samples in prompts.into_values() {
        samples.sort_unstable();
        let runs = samples.chunk_by(|(a, _), (b, _)| a + 1 == *b);
        groups.extend(runs.flat_map(|run| run.chunks(most)).map(|part| part.iter().map(|(_, at)| *at).collect()));
    }
    groups.sort_by_key(|group| group.iter().copied().min());
    groups.into_iter().map(|group| Job { samples: group.into_iter().map(|at| requests[at].clone()).collect() }).collect()
}

impl Asker {
    pub(super) fn new(pool: Arc<Pool>, capabilities: Capabilities, options: EndpointOptions) -> Self {
        Asker { pool, capabilities, options, one_by_one: AtomicBool::new(false) }
    }

    async fn answer(self: Arc<Self>, job: Job) -> Done {
        let first = &job.samples[0];
        if let Some(error) = refusal(first, &self.capabilities, &self.options.facts) {
            let outcomes = job.samples.iter().map(|r| failed(r, error.message.clone(), 0)).collect();
            return Done::Answered { outcomes, stats: Stats::default(), rest: vec![] };
        }
        let generate = match &first.kind {
            RequestKind::Generate(generate) => generate,
            RequestKind::LogLikelihood(scored) => return self.answer_scored(first, scored).await,
            RequestKind::Chat(chat) => return self.converse(first, chat).await,
        };
        if generate.max_new_tokens == 0 {
            // Servers answer `max_tokens: 0` with an error, one token, or no limit at all.
            let outcomes = job.samples.iter().map(|r| answered(r, nothing())).collect();
            return Done::Answered { outcomes, stats: Stats::default(), rest: vec![] };
        }
        if job.samples.len() > 1 && self.one_by_one.load(Ordering::Relaxed) {
            return Done::Answered { outcomes: vec![], stats: Stats::default(), rest: job.samples };
        }
        let asked = self.ask(generate, u32::try_from(job.samples.len()).unwrap_or(u32::MAX)).await;
        match asked {
            Ok(answer) => self.finish(job.samples, answer),
            Err((fault, _)) if job.samples.len() > 1 && fault.class == Class::Refused => {
                self.one_by_one.store(true, Ordering::Relaxed);
                Done::Answered { outcomes: vec![], stats: Stats::default(), rest: job.samples }
            }
            Err((fault, attempts)) => self.give_up(&job.samples, &fault, attempts).await,
        }
    }

    /// The requests get no answer; or nothing does any more.
    async fn give_up(&self, requests: &[Request], fault: &Fault, attempts: u32) -> Done {
        if let Some(error) = self.dead(fault).await {
            return Done::Dead(error);
        }
        let outcomes = requests.iter().map(|r| failed(r, fault.message.clone(), attempts)).collect();
        Done::Answered { outcomes, stats: Stats::default(), rest: vec![] }
    }

    /// All continuations of one context.
    async fn answer_scored(&self, request: &Request, scored: &LogLikelihood) -> Done {
        let tokenizer = self.options.facts.tokenizer.as_ref().expect("refusal() lets nothing pass without a tokenizer");
        let pairs = match score::pairs(tokenizer, scored, self.options.facts.max_positions) {
            Ok(pairs) => pairs,
            Err(why) => return Done::Answered { outcomes: vec![failed(request, why, 0)], stats: Stats::default(), rest: vec![] },
        };
        let mut stats = Stats::default();
        let asked = match self.capabilities.scoring {
            Scoring::TopLogprobs { .. } => self.score_tops(&pairs, &mut stats).await,
            _ => self.score_pairs(&pairs, &mut stats).await,
        };
        match asked {
            Ok(continuations) => {
                let output = Output::LogLikelihoods { continuations };
                Done::Answered { outcomes: vec![Ok(Response { id: request.id.clone(), output })], stats, rest: vec![] }
            }
            Err((fault, attempts)) => self.give_up(std::slice::from_ref(request), &fault, attempts).await,
        }
    }

    /// A request a continuation, one after the other: how many are in flight is a matter of jobs.
    async fn score_pairs(&self, pairs: &[Pair], stats: &mut Stats) -> Result<Vec<ContinuationScore>, (Fault, u32)> {
        let (scoring, mut sums) = (self.capabilities.scoring, Vec::with_capacity(pairs.len()));
        for pair in pairs {
            let ids = [&pair.context[..], &pair.continuation].concat();
            let from = pair.context.len();
            let body = score::body(scoring, &self.options.model, self.capabilities.kind, json!(ids), from).to_string().into_bytes();
            let tokens: Vec<Scored> = self.attempts(scoring.route(), body, |reply| score::read(scoring, reply, &ids, from)).await?;
            stats.prefill_tokens += ids.len() as u64;
            sums.push(score::sum(&tokens));
        }
        Ok(sums)
    }

    /// Continuations of one token: those of equal contexts are one request.
    async fn score_tops(&self, pairs: &[Pair], stats: &mut Stats) -> Result<Vec<ContinuationScore>, (Fault, u32)> {
        let tokenizer = self.options.facts.tokenizer.as_ref().expect("refusal() lets nothing pass without a tokenizer");
        let mut sums = Vec::with_capacity(pairs.len());
        for same in pairs.chunk_by(|a, b| a.context == b.context) {
            let context = &same[0].context;
            let (scoring, kind) = (self.capabilities.scoring, self.capabilities.kind);
            let body = score::body(scoring, &self.options.model, kind, json!(context), 1).to_string().into_bytes();
            let of = |reply: &[u8]| {
                let top = score::Top::read(reply, context)?;
                let one = |p: &Pair| top.token(p.continuation[0], tokenizer).map(|t| score::sum(&[t]));
                Ok(same.iter().map(one).collect::<Result<Vec<_>, _>>())
            };
            // A token beyond those named is not there at the next attempt either.
            let beyond = |message| (Fault { class: Class::Refused, message, again: Again::No, filtered: false }, 1);
            sums.extend(self.attempts(Route::Completions, body, of).await?.map_err(beyond)?);
            stats.prefill_tokens += context.len() as u64;
        }
        Ok(sums)
    }

    /// The prompt in token ids, where a text would not do: a server puts its BOS before texts, and only ids can be cut on the left.
    fn prompt_ids(&self, generate: &Generate) -> Option<Vec<u32>> {
        let facts = &self.options.facts;
        let tokenizer = facts.tokenizer.as_ref().filter(|_| self.capabilities.prompt_ids == PromptIds::AsGiven)?;
        let mut ids = encode::prompt(tokenizer, &generate.prompt, generate.rules.bos).ok()?;
        let whole = ids.len();
        if let Some(truncation) = generate.rules.truncation {
            let room = truncation.length(facts.max_positions).saturating_sub(generate.max_new_tokens);
            encode::keep_last(&mut ids, room as usize);
        }
        let bare = generate.rules.bos == Bos::Never && self.capabilities.special_tokens != SpecialTokens::None;
        (bare || ids.len() < whole).then_some(ids)
    }

    /// Asks for `n` samples until there is an answer, the answer is final, or the attempts are used up; then says how many there were.
    pub(super) async fn ask(&self, generate: &Generate, n: u32) -> Result<wire::Answer, (Fault, u32)> {
        // One body for every server and every attempt: neither balancing nor concurrency changes what is asked.
        let mut body = wire::body(&self.options.model, generate, n, &self.capabilities);
        if let Some(ids) = self.prompt_ids(generate) {
            body["prompt"] = json!(ids);
        }
        self.attempts(Route::Completions, body.to_string().into_bytes(), wire::parse).await
    }

    /// Asks until there is an answer, the answer is final, or the attempts are used up; then says how many there were.
    async fn attempts<T>(&self, route: Route, body: Vec<u8>, read: impl Fn(&[u8]) -> Result<T, String>) -> Result<T, (Fault, u32)> {
        let mut pauses = self.options.backoff.pauses();
        let (mut attempts, mut avoid) = (0, None);
        loop {
            let lease = self.pool.acquire(avoid).await;
            let (server, index) = (lease.server(), lease.index);
            attempts += 1;
            let result = send(server, route, body.clone(), self.options.timeout, &read).await;
            lease.report(result.as_ref().err());
            let fault = match result {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            if fault.again == Again::No || attempts > self.options.max_retries {
                return Err((fault, attempts));
            }
            avoid = Some(index);
            let pause = pauses.next().unwrap_or_default();
            match fault.again {
                Again::After(wished) => tokio::time::sleep(wished).await,
                // Another server can take it at once.
                _ if fault.class == Class::Unreachable && self.pool.has_other(index) => {}
                _ => tokio::time::sleep(pause).await,
            }
        }
    }

    /// Pairs choices with samples; samples without a choice are to be asked alone.
    fn finish(&self, samples: Vec<Request>, answer: wire::Answer) -> Done {
        let usage = answer.usage;
        let mut stats = Stats {
            shared_tokens: u64::from(usage.cached()),
            prefill_tokens: u64::from(usage.prompt_tokens.unwrap_or(0).saturating_sub(usage.cached())),
            decode_tokens: u64::from(usage.completion_tokens.unwrap_or(0)),
            ..Stats::default()
        };
        // Counts of several choices cannot be told apart (and llama-server counts only the first).
        let alone = samples.len() == 1;
        let usage = wire::Usage { completion_tokens: usage.completion_tokens.filter(|_| alone), ..usage };
        let mut outcomes = Vec::with_capacity(samples.len());
        let mut samples = samples.into_iter();
        // In this order: a choice that is not there takes no sample with it.
        for (choice, request) in answer.choices.into_iter().zip(samples.by_ref()) {
            let RequestKind::Generate(generate) = &request.kind else { unreachable!("a job holds generations") };
            outcomes.push(answered(&request, wire::generated(choice, &usage, generate, &self.capabilities)));
        }
        let rest: Vec<Request> = samples.collect();
        if !rest.is_empty() {
            self.one_by_one.store(true, Ordering::Relaxed);
            stats.shared_tokens = 0;
        }
        Done::Answered { outcomes, stats, rest }
    }

    /// Whether no server answers a plain request either, asked as often as any other: where requests fail now and then, so may this one. What
    /// a server read and refused says nothing against the server.
    pub(super) async fn dead(&self, fault: &Fault) -> Option<EngineError> {
        if matches!(fault.class, Class::Refused | Class::Busy) {
            return None;
        }
        let body = probe::plain(&self.options.model, &self.capabilities).to_string().into_bytes();
        let mut pauses = self.options.backoff.pauses();
        let mut last = None;
        for attempt in 0..=self.options.max_retries {
            if attempt > 0 {
                tokio::time::sleep(pauses.next().unwrap_or_default()).await;
            }
            let mut hope = false;
            for server in self.pool.servers() {
                match post(server, body.clone(), probe::limit(&self.options)).await {
                    Ok(_) => return None,
                    Err(f) if f.class == Class::Busy => return None,
                    Err(f) => {
                        hope |= f.again != Again::No;
                        last = Some(f);
                    }
                }
            }
            if !hope {
                break;
            }
        }
        last.map(|f| EngineError { message: format!("no server answers any more: {}", f.message), ..probe::engine_error(&f) })
    }
}

/// One attempt at a completion.
pub(super) async fn post(server: &Server, body: Vec<u8>, limit: Duration) -> Result<wire::Answer, Fault> {
    send(server, Route::Completions, body, limit, &wire::parse).await
}

/// One attempt. An answer that cannot be read is the server's fault.
async fn send<T>(
    server: &Server,
    route: Route,
    body: Vec<u8>,
    limit: Duration,
    read: &impl Fn(&[u8]) -> Result<T, String>,
) -> Result<T, Fault> {
    let url = if route == Route::Generate { server.base.root("generate") } else { server.base.api("completions") };
    let reply = server.post(url, body, limit).await?;
    read(&reply.body).map_err(|what| server.garbage(&what))
}

pub(super) fn failed(request: &Request, message: String, attempts: u32) -> Outcome {
    Err(RequestFailure { id: request.id.clone(), message, attempts })
}

fn answered(request: &Request, generated: Generated) -> Outcome {
    Ok(Response { id: request.id.clone(), output: Output::Generated(generated) })
}

/// The answer of no tokens.
fn nothing() -> Generated {
    Generated { text: String::new(), token_ids: None, finish: Finish::Length, prompt_tokens: None, new_tokens: Some(0), notes: vec![] }
}

#[cfg(test)]
mod tests {
    use super::super::ServerKind;
    use super::*;
    use crate::engine::Sampling;

    fn sample(prompt: &str, sample: u32, seed: u64, temperature: f64) -> Request {
        let plain = wire::tests::request(&[], &[]);
        let sampling = Sampling { temperature, seed, ..Sampling::GREEDY };
        Request::new(RequestKind::Generate(Generate { prompt: prompt.into(), sample, sampling, ..plain }))
    }

    #[test]
    fn only_consecutive_seeds_of_one_prompt_are_joined() {
        let requests = [
            sample("a", 0, 7, 1.0),
            sample("b", 0, 8, 1.0),
            sample("a", 1, 8, 1.0),
            sample("a", 2, 9, 1.0),
            sample("a", 3, 20, 1.0),
            sample("c", 0, 1, 0.0),
            sample("c", 1, 2, 0.0),
        ];
        let mut capabilities = wire::tests::capabilities(ServerKind::Vllm);
        let shape = |capabilities: &Capabilities| {
            let at = |r: &Request| requests.iter().position(|q| q.id == r.id).unwrap();
            jobs(&requests, capabilities).iter().map(|j| j.samples.iter().map(at).collect()).collect::<Vec<Vec<usize>>>()
        };
        assert_eq!(shape(&capabilities), [vec![0, 2, 3], vec![1], vec![4], vec![5], vec![6]]);
        capabilities.max_choices = 2;
        assert_eq!(shape(&capabilities), [vec![0, 2], vec![1], vec![3], vec![4], vec![5], vec![6]]);
        capabilities.choices = Choices::Unseeded;
        assert_eq!(shape(&capabilities), [[0], [1], [2], [3], [4], [5], [6]]);
    }
}
