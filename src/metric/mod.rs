//! Formulas: from evidence and references to scores, from scores to aggregates. No I/O and no errors: odd input has a defined score.

pub mod aggregate;
pub mod char_f1;
pub mod exact_match;

use serde::{Deserialize, Serialize};

/// What a right answer looks like. Only this room and `task` hold one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// Accepted texts; the first is *the* gold where a protocol uses one only.
    pub texts: Vec<String>,
}

/// What is known of a model's answer once everything that can be executed or judged has been.
#[derive(Clone, Debug, PartialEq)]
pub enum Evidence {
    /// The extracted text.
    Text(String),
}

/// The score of one document by one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The document's own value, 0..=1 unless the metric says otherwise.
    pub value: f64,
    /// Additive statistics from which corpus metrics are computed; empty where the mean of `value` is the aggregate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stats: Vec<f64>,
}

impl Score {
    /// A score without further statistics.
    pub fn of(value: f64) -> Self {
        Score { value, stats: Vec::new() }
    }
}

/// One way of scoring.
pub trait Metric: Sync {
    /// Name in task files and result files.
    fn name(&self) -> &'static str;

    /// Scores one document.
    fn score(&self, reference: &Reference, evidence: &[Evidence]) -> Score;

    /// One number from the scores of all documents, in protocol order; `None` without documents.
    fn aggregate(&self, scores: &[Score]) -> Option<f64>;
}

/// Every metric, by name.
pub const METRICS: [&dyn Metric; 2] = [&exact_match::ExactMatch, &char_f1::CharF1];

/// The metric of that name.
pub fn by_name(name: &str) -> Option<&'static dyn Metric> {
    METRICS.into_iter().find(|m| m.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for m in METRICS {
            assert_eq!(METRICS.iter().filter(|o| o.name() == m.name()).count(), 1, "{}", m.name());
            assert!(by_name(m.name()).is_some());
        }
        assert!(by_name("no such metric").is_none());
    }
}
