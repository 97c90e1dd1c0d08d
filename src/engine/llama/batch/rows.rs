//! What is wanted of a step's rows of logits, and what is made of them.

use super::{TokenRequest, Want};
use crate::engine::llama::kv::Sequence;
use crate::engine::llama::model::{Reading, RowLogits};
use crate::engine::llama::ops::RowRead;
use crate::engine::llama::sample::{Choice, Sampler, is_largest};
use crate::engine::llama::weights::Rounding;

/// A generation with at least one new token.
pub(super) struct Live {
    pub(super) request: usize,
    pub(super) sequence: Sequence,
    pub(super) tokens: Vec<u32>,
    pub(super) sampler: Sampler,
    pub(super) gap: f32,
    pub(super) near_ties: u32,
}

/// A wanted row of a chunk.
pub(super) struct Wanted<'w> {
    pub(super) chunk: usize,
    pub(super) wants: &'w [Want],
}

/// What a wanted row gave.
pub(super) enum Found {
    First(Box<First>),
    Scored(ScoredRow),
}

/// One token of a continuation.
pub(super) struct ScoredRow {
    pub(super) request: usize,
    pub(super) index: usize,
    pub(super) logprob: f64,
    pub(super) greedy: u32,
    pub(super) gap: f32,
    pub(super) near_tie: bool,
}

/// The first new token of a generation, with the chunk whose sequence it goes on from.
pub(super) struct First {
    pub(super) chunk: usize,
    pub(super) live: Live,
}

impl TokenRequest {
    /// What a generation wants of a row.
    pub(super) fn reading(&self) -> Reading {
        match self {
            TokenRequest::Generate { sampling, .. } if !is_largest(sampling) => Reading::Whole,
            _ => Reading::Targets(Vec::new()),
        }
    }
}

impl Wanted<'_> {
    /// What is read off the row: all of it where a generation draws, else every target's log-probability.
    pub(super) fn reading(&self, requests: &[TokenRequest]) -> Reading {
        let draws = |want: &Want| matches!(want, Want::First(request) if requests[*request].reading() == Reading::Whole);
        if self.wants.iter().any(draws) { Reading::Whole } else { Reading::Targets(self.targets(requests)) }
    }

    /// Tokens whose log-probabilities are wanted, in the order of the wants.
    fn targets(&self, requests: &[TokenRequest]) -> Vec<u32> {
        let target = |want: &Want| match *want {
            Want::Target { request, index } => requests[request].target(index),
            Want::First(_) => None,
        };
        self.wants.iter().filter_map(target).collect()
    }

    /// Everything that is wanted of one row; what several want is computed once.
    pub(super) fn read(&self, requests: &[TokenRequest], row: RowLogits<'_>, rounding: Rounding) -> Vec<Found> {
        let scored = self.wants.iter().any(|want| matches!(want, Want::Target { .. }));
        let read = match row {
            RowLogits::Whole(logits) => scored.then(|| RowRead::of(logits, &self.targets(requests))),
            RowLogits::Read(read) => Some(read.clone()),
        };
        let mut logprobs = read.iter().flat_map(|read| &read.logprobs);
        let mut found = Vec::with_capacity(self.wants.len());
        for want in self.wants {
            match (*want, &read) {
                (Want::First(request), _) => {
                    let live = first(request, &requests[request], row, rounding);
                    found.extend(live.map(|live| Found::First(Box::new(First { chunk: self.chunk, live }))));
                }
                (Want::Target { request, index }, Some(RowRead { argmax, largest, gap, .. })) => {
                    let Some(&logprob) = logprobs.next() else { continue };
                    let near_tie = *gap < rounding.noise(*largest);
                    found.push(Found::Scored(ScoredRow { request, index, logprob, greedy: *argmax, gap: *gap, near_tie }));
                }
                (Want::Target { .. }, None) => {}
            }
        }
        found
    }
}

impl Live {
    /// Takes the next token.
    pub(super) fn go_on(&mut self, asked: &TokenRequest, row: RowLogits<'_>, rounding: Rounding) {
        let (Choice { id, gap }, logit) = match row {
            RowLogits::Whole(logits) => {
                let choice = self.sampler.choose(logits, asked.prompt().iter().chain(&self.tokens));
                (choice, logits[choice.id as usize])
            }
            RowLogits::Read(read) => (Choice { id: read.argmax, gap: read.gap }, read.largest),
        };
        self.gap = self.gap.min(gap);
        self.near_ties += u32::from(gap < rounding.noise(logit));
        self.tokens.push(id);
    }
}

/// A generation that begins with the choice from its prompt's last row.
fn first(request: usize, asked: &TokenRequest, row: RowLogits<'_>, rounding: Rounding) -> Option<Live> {
    let TokenRequest::Generate { sampling, sample, .. } = asked else { return None };
    let sampler = Sampler::new(sampling, *sample);
    let (sequence, tokens) = (Sequence::default(), Vec::new());
    let mut live = Live { request, sequence, tokens, sampler, gap: f32::INFINITY, near_ties: 0 };
    live.go_on(asked, row, rounding);
    Some(live)
}
