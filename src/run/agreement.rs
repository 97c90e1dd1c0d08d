//! How far two judges agree on the same answers.

use crate::engine::{Output, Request, RequestId};
use crate::judge::rating::rating;
use crate::results::journal::Answers;

/// Figures over the turns that both judges rated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Turns that both rated.
    pub both: u64,
    /// Turns with equal ratings.
    pub equal: u64,
    /// Turns whose ratings differ by at most 1.
    pub within_one: u64,
    /// Mean of (second less first).
    pub bias: f64,
    /// Pearson's correlation; `None` where one of them always gives the same rating.
    pub correlation: Option<f64>,
}

/// Compares two judges turn by turn; `None` where no turn was rated by both.
pub fn agreement(calls: &[Request], first: &Answers, second: &Answers) -> Option<Agreement> {
    let rated = |answers: &Answers, id: &RequestId| match &answers.responses.get(id)?.output {
        Output::Dialogue { turns } => rating(&turns.first()?.answer).value(),
        _ => None,
    };
    let pairs: Vec<(f64, f64)> = calls.iter().filter_map(|c| Some((rated(first, &c.id)?, rated(second, &c.id)?))).collect();
    let n = pairs.len() as f64;
    if pairs.is_empty() {
        return None;
    }
    let mean = |pick: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(pick).sum::<f64>() / n;
    let (a, b) = (mean(&|p| p.0), mean(&|p| p.1));
    let spread = mean(&|p| (p.0 - a).powi(2)) * mean(&|p| (p.1 - b).powi(2));
    let count = |limit: f64| pairs.iter().filter(|(a, b)| (a - b).abs() <= limit).count() as u64;
    let correlation = (spread > 0.0).then(|| mean(&|p| (p.0 - a) * (p.1 - b)) / spread.sqrt());
    Some(Agreement { both: pairs.len() as u64, equal: count(0.0), within_one: count(1.0), bias: b - a, correlation })
}

#[cfg(test)]
mod tests {
    use super::super::judge::tests::{call, said};
    use super::*;

    #[test]
    fn agreement_counts_only_what_both_rated() {
        let calls: Vec<Request> = (0..4).map(|i| call(&i.to_string())).collect();
        let first = said(&calls, &["[[8]]", "[[2]]", "[[5]]", "none"]);
        let second = said(&calls, &["[[8]]", "[[4]]", "[[6]]", "[[1]]"]);
        let found = agreement(&calls, &first, &second).expect("three pairs");
        assert_eq!((found.both, found.equal, found.within_one, found.bias), (3, 1, 2, 1.0));
        assert!(found.correlation.is_some_and(|c| c > 0.9));
        assert_eq!(agreement(&calls, &first, &Answers::default()), None);
    }
}
