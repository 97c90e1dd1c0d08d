//! Exact match of a text with one of its golds.
//!
//! `sklearn.metrics.accuracy_score` over the two lists of strings (llm-jp-eval v1.3.0 `utils.py:175-176`): equality of code points, no
//! stripping, case-sensitive. What a harness folds before it compares is the task's `compare` steps; where it accepts several golds (lm-eval
//! v0.4.2 `lm_eval/api/task.py:1285-1300`), one of them is enough.

use super::{Evidence, Metric, Reference, Resources, Score, aggregate};

/// 1 when the answer equals one of the reference texts, else 0.
pub struct ExactMatch;

impl Metric for ExactMatch {
    fn name(&self) -> &'static str {
        "exact_match"
    }

    fn score(&self, _: &Resources<'_>, reference: &Reference, evidence: &[Evidence]) -> Score {
        let hit = match evidence.first() {
            Some(Evidence::Text(answer)) => reference.texts.contains(answer),
            Some(Evidence::LogLikelihoods(_) | Evidence::Passed(_) | Evidence::Rating { .. }) | None => false,
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
            let reference = Reference::of([gold]);
            assert_eq!(
                ExactMatch.score(&Resources::default(), &reference, &[Evidence::Text(answer.into())]).value,
                expected,
                "{answer:?} {gold:?}"
            );
        }
        let second = Reference::of(["a", "b"]);
        assert_eq!(ExactMatch.score(&Resources::default(), &second, &[Evidence::Text("b".into())]).value, 1.0);
        assert_eq!(ExactMatch.score(&Resources::default(), &Reference::default(), &[]).value, 0.0);
    }
}
