//! Runs token requests through a model: prompts as a prefix tree, prefill chunks and decode rows packed into steps of bounded size.
//!
//! The schedule depends on token counts alone, never on time: the same request set gives the same steps.

mod rows;

use super::kv::{Pool, Sequence};
use super::model::{Model, Reading};
use super::ops::Segment;
use super::plan::{self, Node, Sharing};
use crate::engine::{EngineError, Sampling, Stats};
use rayon::prelude::*;
use rows::{First, Found, Live, ScoredRow, Wanted};
use std::{collections::BTreeMap, ops::ControlFlow, time::Instant};

/// A request in token ids.
#[derive(Clone, Debug)]
pub enum TokenRequest {
    /// Go on from a prompt.
    Generate {
        /// At least one token.
        prompt: Vec<u32>,
        /// At most so many new tokens; at least 1.
        max_new: usize,
        /// Tokens that end it; the end token is part of the output.
        end: Vec<u32>,
        /// How tokens are chosen.
        sampling: Sampling,
        /// Number of this sample.
        sample: u32,
    },
    /// Log-probabilities of a continuation.
    Score {
        /// At least one token.
        context: Vec<u32>,
        /// At least one token.
        continuation: Vec<u32>,
    },
}

/// The answer to a [`TokenRequest`].
#[derive(Clone, Debug, PartialEq)]
pub enum TokenOutput {
    /// New tokens.
    Generated {
        /// The end token included.
        tokens: Vec<u32>,
        /// Why it ended.
        finish: TokenFinish,
        /// Smallest gap between the two best logits.
        gap: f32,
        /// How often the gap was within the noise of the logits.
        near_ties: u32,
    },
    /// Log-probabilities.
    Scored {
        /// One for each token of the continuation.
        logprobs: Vec<f64>,
        /// Tokens that greedy decoding would have chosen at each place.
        greedy: Vec<u32>,
        /// Whether they are the continuation.
        is_greedy: bool,
        /// Smallest gap between the two best logits.
        gap: f32,
        /// How often the gap was within the noise of the logits.
        near_ties: u32,
    },
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFinish {
    /// An end token.
    End,
    /// The caller's stop rule.
    Stop,
    /// The limit.
    Length,
}

/// How much is in flight.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows of one step.
    pub rows: usize,
    /// Generations at once.
    pub live: usize,
    /// Whether prompts share what they have in common.
    pub sharing: Sharing,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { rows: 1024, live: 128, sharing: Sharing::Prefixes }
    }
}

/// What a caller is asked while requests run.
pub struct Listener<'l> {
    /// Whether a generation stops after these new tokens (stop strings).
    pub stops: &'l (dyn Fn(usize, &[u32]) -> bool + Sync),
    /// Takes a finished request; `Break` ends the run.
    pub done: &'l mut dyn FnMut(usize, TokenOutput) -> ControlFlow<()>,
    /// Whether to go on with another step.
    pub go_on: &'l (dyn Fn() -> bool + Sync),
}

/// What a row of logits is wanted for.
#[derive(Clone, Copy, Debug)]
enum Want {
    /// The next token of a generation that has none yet.
    First(usize),
    /// The log-probability of a token of a continuation.
    Target { request: usize, index: usize },
}

/// A part of the tree whose beginning is computed.
struct Ready {
    node: usize,
    sequence: Sequence,
}

/// A continuation that is being scored.
#[derive(Clone)]
struct Scores {
    logprobs: Vec<f64>,
    greedy: Vec<u32>,
    gap: f32,
    near_ties: u32,
    open: usize,
}

/// Runs all requests.
///
/// # Errors
/// Broken weights.
pub fn run(model: &mut Model, requests: &[TokenRequest], limits: Limits, listener: &mut Listener<'_>) -> Result<Stats, EngineError> {
    let sequences: Vec<Vec<u32>> = requests.iter().map(TokenRequest::computed).collect();
    let nodes = plan::nodes(&sequences, limits.sharing);
    let roots = nodes.iter().enumerate().filter(|(_, n)| n.parent.is_none());
    let mut runner = Runner {
        pool: model.pool(),
        wants: wants(requests, &nodes),
        scores: requests.iter().map(Scores::open).collect(),
        scored: Vec::new(),
        stats: Stats::default(),
        ready: roots.map(|(node, _)| Ready { node, sequence: Sequence::default() }).rev().collect(),
        live: Vec::new(),
        requests,
        sequences: &sequences,
        nodes: &nodes,
        limits,
    };
    while !(runner.ready.is_empty() && runner.live.is_empty()) && (listener.go_on)() {
        if runner.step(model, listener)?.is_break() {
            break;
        }
    }
    let Runner { ready, live, mut pool, stats, .. } = runner;
    ready.into_iter().map(|r| r.sequence).chain(live.into_iter().map(|l| l.sequence)).for_each(|s| pool.release(s));
    debug_assert_eq!(pool.used(), 0, "every page is given back");
    Ok(stats)
}

impl TokenRequest {
    /// Tokens whose keys and values are computed before the first new token: the last token of a continuation is never an input.
    pub(super) fn computed(&self) -> Vec<u32> {
        match self {
            TokenRequest::Generate { prompt, .. } => prompt.clone(),
            TokenRequest::Score { context, continuation } => {
                context.iter().chain(continuation.split_last().map_or(&[][..], |(_, rest)| rest)).copied().collect()
            }
        }
    }
}

/// Rows whose logits are wanted, by node and position: a row that several requests share is made once.
fn wants(requests: &[TokenRequest], nodes: &[Node]) -> Vec<BTreeMap<usize, Vec<Want>>> {
    let mut by_node = vec![BTreeMap::<usize, Vec<Want>>::new(); nodes.len()];
    for (end, node) in nodes.iter().enumerate() {
        for &request in &node.ends {
            for (position, want) in requests[request].wants(request) {
                let mut at = end;
                while position < nodes[at].start {
                    at = nodes[at].parent.expect("a position below a node's start belongs to a parent");
                }
                by_node[at].entry(position).or_default().push(want);
            }
        }
    }
    by_node
}

impl TokenRequest {
    /// New tokens it may come to.
    pub(super) fn most_new_tokens(&self) -> usize {
        match self {
            TokenRequest::Generate { max_new, .. } => *max_new,
            TokenRequest::Score { .. } => 0,
        }
    }

    fn wants(&self, request: usize) -> Vec<(usize, Want)> {
        match self {
            TokenRequest::Generate { prompt, .. } => vec![(prompt.len() - 1, Want::First(request))],
            TokenRequest::Score { context, continuation } => {
                (0..continuation.len()).map(|index| (context.len() + index - 1, Want::Target { request, index })).collect()
            }
        }
    }

    /// A token of a continuation.
    fn target(&self, index: usize) -> Option<u32> {
        match self {
            TokenRequest::Score { continuation, .. } => continuation.get(index).copied(),
            TokenRequest::Generate { .. } => None,
        }
    }

    /// The tokens before the first new or scored one.
    pub fn prompt(&self) -> &[u32] {
        match self {
            TokenRequest::Generate { prompt, .. } => prompt,
            TokenRequest::Score { context, .. } => context,
        }
    }
}

impl Scores {
    fn open(request: &TokenRequest) -> Option<Scores> {
        let TokenRequest::Score { continuation, .. } = request else { return None };
        let n = continuation.len();
        Some(Scores { logprobs: vec![0.0; n], greedy: vec![0; n], gap: f32::INFINITY, near_ties: 0, open: n })
    }

    fn take(&mut self, scored: &ScoredRow) {
        self.logprobs[scored.index] = scored.logprob;
        self.greedy[scored.index] = scored.greedy;
        self.gap = self.gap.min(scored.gap);
        self.near_ties += u32::from(scored.near_tie);
        self.open -= 1;
    }
}

struct Runner<'r> {
    requests: &'r [TokenRequest],
    sequences: &'r [Vec<u32>],
    nodes: &'r [Node],
    limits: Limits,
    pool: Pool,
    wants: Vec<BTreeMap<usize, Vec<Want>>>,
    scores: Vec<Option<Scores>>,
    /// Requests whose last row of the current step was scored.
    scored: Vec<usize>,
    /// A stack: the tree is walked depth first, so that few branches are open at a time.
    ready: Vec<Ready>,
    live: Vec<Live>,
    stats: Stats,
}

/// The part of a node that is in the current step.
struct Chunk {
    node: usize,
    sequence: Sequence,
    /// First row of the step.
    row: usize,
    /// First position.
    start: usize,
}

impl Runner<'_> {
    /// One packed step: a row for every live generation, then as much of the tree as fits.
    fn step(&mut self, model: &mut Model, listener: &mut Listener<'_>) -> Result<ControlFlow<()>, EngineError> {
        let started = Instant::now();
        let (mut ids, mut segments) = (Vec::new(), Vec::new());
        for live in &mut self.live {
            let position = live.sequence.len();
            self.pool.reserve(&mut live.sequence, 1);
            segments.push(Segment { row: ids.len(), rows: 1, position, pages: live.sequence.pages().to_vec() });
            ids.extend(live.tokens.last());
        }
        let decoding = ids.len();
        let chunks = self.take_chunks(&mut ids, &mut segments);
        let firsts = self.compute(model, &ids, &segments, decoding, &chunks)?;
        let (prefilled, seconds) = (ids.len() - decoding, started.elapsed().as_secs_f64());
        self.stats.decode_tokens += decoding as u64;
        self.stats.prefill_tokens += prefilled as u64;
        *(if prefilled > 0 { &mut self.stats.prefill_seconds } else { &mut self.stats.decode_seconds }) += seconds;
        for First { chunk, mut live } in firsts {
            live.sequence = self.pool.fork(&chunks[chunk].sequence);
            self.live.push(live);
        }
        self.advance(chunks);
        Ok(self.settle(listener))
    }

    /// Takes parts of the tree off the stack while rows are left and generations may begin.
    fn take_chunks(&mut self, ids: &mut Vec<u32>, segments: &mut Vec<Segment>) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        let mut generations = self.live.len();
        while ids.len() < self.limits.rows.max(1) && (generations < self.limits.live || ids.is_empty()) {
            let Some(Ready { node, mut sequence }) = self.ready.pop() else { break };
            let Node { owner, end, sequences, .. } = self.nodes[node];
            let (start, row) = (sequence.len(), ids.len());
            let rows = (end - start).min(self.limits.rows.max(1) - row);
            self.pool.reserve(&mut sequence, rows);
            segments.push(Segment { row, rows, position: start, pages: sequence.pages().to_vec() });
            ids.extend_from_slice(&self.sequences[owner][start..start + rows]);
            generations += self.nodes[node].ends.len();
            self.stats.shared_tokens += (rows * (sequences - 1)) as u64;
            chunks.push(Chunk { node, sequence, row, start });
        }
        chunks
    }

    /// The forward pass: gives every live generation its next token and every score its value; returns generations that begin.
    fn compute(
        &mut self,
        model: &mut Model,
        ids: &[u32],
        segments: &[Segment],
        decoding: usize,
        chunks: &[Chunk],
    ) -> Result<Vec<First>, EngineError> {
        let mut rows: Vec<u32> = (0..decoding as u32).collect();
        let mut readings: Vec<Reading> = self.live.iter().map(|live| self.requests[live.request].reading()).collect();
        let mut wanted: Vec<Wanted<'_>> = Vec::new();
        for (chunk, Chunk { node, sequence, row, start }) in chunks.iter().enumerate() {
            for (position, wants) in self.wants[*node].range(*start..sequence.len()) {
                rows.push((row + position - start) as u32);
                let row = Wanted { chunk, wants };
                readings.push(row.reading(self.requests));
                wanted.push(row);
            }
        }
        self.stats.logit_rows += rows.len() as u64;
        let (requests, live) = (self.requests, &mut self.live);
        let rounding = model.logits();
        let mut found = Vec::new();
        model.step((ids, segments), (&rows, &readings), &mut self.pool, &mut |first, made| {
            let (of_live, of_chunks) = made.split_at(decoding.saturating_sub(first).min(made.len()));
            let going_on = live[first.min(decoding)..].par_iter_mut().zip(of_live);
            going_on.for_each(|(live, row)| live.go_on(&requests[live.request], *row, rounding));
            let wanted = &wanted[first.saturating_sub(decoding)..];
            found.par_extend(wanted.par_iter().zip(of_chunks).flat_map_iter(|(wanted, row)| wanted.read(requests, *row, rounding)));
        })?;
        let mut firsts = Vec::new();
        for found in found {
            match found {
                Found::First(first) => firsts.push(*first),
                Found::Scored(row) => {
                    if let Some(open) = &mut self.scores[row.request] {
                        open.take(&row);
                        self.scored.extend((open.open == 0).then_some(row.request));
                    }
                }
            }
        }
        Ok(firsts)
    }

    /// Puts unfinished nodes back and opens the children of finished ones.
    fn advance(&mut self, chunks: Vec<Chunk>) {
        for Chunk { node, sequence, .. } in chunks.into_iter().rev() {
            if sequence.len() < self.nodes[node].end {
                self.ready.push(Ready { node, sequence });
                continue;
            }
            for &child in self.nodes[node].children.iter().rev() {
                let sequence = self.pool.fork(&sequence);
                self.ready.push(Ready { node: child, sequence });
            }
            self.pool.release(sequence);
        }
    }

    /// Hands over what is done and gives its pages back at once.
    fn settle(&mut self, listener: &mut Listener<'_>) -> ControlFlow<()> {
        for request in std::mem::take(&mut self.scored) {
            if let Some(Scores { logprobs, greedy, gap, near_ties, .. }) = self.scores[request].take() {
                self.stats.near_ties += u64::from(near_ties);
                let is_greedy = matches!(&self.requests[request], TokenRequest::Score { continuation, .. } if *continuation == greedy);
                (listener.done)(request, TokenOutput::Scored { logprobs, greedy, is_greedy, gap, near_ties })?;
            }
        }
        let mut index = 0;
        while index < self.live.len() {
            match self.finish_of(&self.live[index], listener) {
                None => index += 1,
                Some(finish) => {
                    let Live { request, sequence, tokens, gap, near_ties, .. } = self.live.remove(index);
                    self.stats.near_ties += u64::from(near_ties);
                    self.pool.release(sequence);
                    (listener.done)(request, TokenOutput::Generated { tokens, finish, gap, near_ties })?;
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn finish_of(&self, live: &Live, listener: &mut Listener<'_>) -> Option<TokenFinish> {
        let TokenRequest::Generate { max_new, end, .. } = &self.requests[live.request] else { return None };
        if live.tokens.last().is_some_and(|t| end.contains(t)) {
            Some(TokenFinish::End)
        } else if (listener.stops)(live.request, &live.tokens) {
            Some(TokenFinish::Stop)
        } else {
            (live.tokens.len() >= *max_new).then_some(TokenFinish::Length)
        }
    }
}
