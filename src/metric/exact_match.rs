//! Exact match of one text with one gold.
//!
//! `sklearn.metrics.accuracy_score` over the two lists of strings (llm-jp-eval v1.3.0 `utils.py:175-176`): equality of code points, no
//! stripping, case-sensitive.

use super::{Evidence, Metric, Reference, Resources, Score, aggregate};

/// 1 when the answer equals the first reference text, else 0.
pub struct ExactMatch;

impl Metric for ExactMatch {
    fn name(&self) -> &'static str {
        "exact_match"
    }

    fn score(&self, _: &Resources<'_>, reference: &Reference, evidence: &[Evidence]) -> Score {
        let hit = match (evidence.first(), reference.texts.first()) {
            (Some(Evidence::Text(answer)), Some(gold)) => answer == gold,
            _ => false,
        };
        Score::of(f64::from(u8::from(hit)))
    }

    fn aggregate(&self, scores: &[Score]) -> Option<f64> {
        aggregate::exact_mean(scores.iter().map(|s| s.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_stripped_or_folded() {
        for (answer, gold, expected) in [("2", "2", 1.0), ("2\n", "2", 0.0), (" 2", "2", 0.0), ("b", "B", 0.0), ("", "", 1.0)] {
            let reference = Reference { texts: vec![gold.into()] };
            assert_eq!(
                ExactMatch.score(&Resources::default(), &reference, &[Evidence::Text(answer.into())]).value,
                expected,
                "{answer:?} {gold:?}"
            );
        }
        assert_eq!(ExactMatch.score(&Resources::default(), &Reference::default(), &[]).value, 0.0);
    }
}
