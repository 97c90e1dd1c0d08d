//! What a judging came to, and what it may and did cost.

use crate::engine::{Request, RequestId, RequestKind, Stats};
use crate::judge::cost::{self, Price, Tokens};
use crate::results::journal::Answers;
use std::collections::BTreeSet;

/// A limit on what judging may cost.
#[derive(Clone, Debug)]
pub struct Budget {
    /// US dollars, for this run and judge together with what its journal already shows.
    pub dollars: f64,
    /// What the judge takes.
    pub price: Price,
}

/// What judging came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdicts {
    /// Calls made now.
    pub answered: u64,
    /// What they cost in time.
    pub stats: Stats,
    /// Tokens of every judgement in the journal.
    pub spent: Tokens,
    /// Those of them that batches gave.
    pub batched: Tokens,
    /// Batches that go on at their server.
    pub waiting: Vec<String>,
    /// What a reader should know of batches; a sentence each.
    pub notes: Vec<String>,
    /// Whether the user stopped it.
    pub cancelled: bool,
    /// Whether the budget stopped it.
    pub over_budget: bool,
}

impl Verdicts {
    /// What every judgement in the journal cost, in US dollars; a batch costs the full price where it has none of its own.
    pub fn dollars(&self, price: &Price) -> f64 {
        let alone = Tokens { input: self.spent.input - self.batched.input, output: self.spent.output - self.batched.output };
        alone.dollars(price) + self.batched.dollars(&price.of_batches().unwrap_or_else(|| price.clone()))
    }

    /// Money that a budget has left; without end where there is none.
    pub(super) fn dollars_left(&self, budget: Option<&Budget>) -> f64 {
        budget.map_or(f64::INFINITY, |b| b.dollars - self.dollars(&b.price))
    }

    /// Counts what a call took, which a batch answered or not.
    pub(super) fn count(&mut self, tokens: Tokens, by_batch: bool) {
        self.spent.add(tokens);
        if by_batch {
            self.batched.add(tokens);
        }
    }
}

/// The distinct calls, and what those that are answered took. `batched` are calls that batches answered.
pub(super) fn distinct<'c>(
    calls: &'c [Request],
    answers: &Answers,
    batched: &BTreeSet<&RequestId>,
    verdicts: &mut Verdicts,
) -> Vec<&'c Request> {
    let mut seen = BTreeSet::new();
    let distinct: Vec<&Request> = calls.iter().filter(|c| seen.insert(&c.id)).collect();
    for call in &distinct {
        let took = answers.responses.get(&call.id).and_then(cost::spent);
        verdicts.count(took.unwrap_or_default(), batched.contains(&call.id));
    }
    distinct
}

/// Tokens of a call, at most.
pub(super) fn bound(request: &Request) -> Option<Tokens> {
    let RequestKind::Chat(chat) = &request.kind else { return None };
    Some(cost::bound(chat))
}

/// What a portion costs at most.
pub(super) fn likely(portion: &[Request], budget: &Budget) -> f64 {
    portion.iter().filter_map(bound).map(|t| t.dollars(&budget.price)).sum()
}

/// Tokens of calls, at most.
pub fn at_most(calls: &[Request]) -> Tokens {
    calls.iter().filter_map(bound).fold(Tokens::default(), |mut sum, tokens| {
        sum.add(tokens);
        sum
    })
}
