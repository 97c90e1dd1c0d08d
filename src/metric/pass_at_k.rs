//! pass@k: the chance that one of k samples of a problem passes its tests.
//!
//! Chen et al., Evaluating Large Language Models Trained on Code, 2021, equation 1, as bigcode-evaluation-harness 0261c52 computes it
//! (`bigcode_eval/tasks/custom_metrics/code_eval.py:174-189`).

use super::{Evidence, Metric, Reference, Resources, Score, aggregate};

/// pass@k for one k. Reads [`Evidence::Passed`], one a sample.
pub struct PassAtK {
    name: &'static str,
    k: u32,
}

impl PassAtK {
    /// pass@1: the share of samples that pass.
    pub const ONE: PassAtK = PassAtK { name: "pass@1", k: 1 };
    /// pass@10.
    pub const TEN: PassAtK = PassAtK { name: "pass@10", k: 10 };
}

/// The unbiased estimate from `n` samples of which `correct` pass. 0 where there are fewer than k samples: upstream reports no such k.
pub fn estimate(n: u32, correct: u32, k: u32) -> f64 {
    if n < k {
        return 0.0;
    }
    if n - correct.min(n) < k {
        return 1.0;
    }
    1.0 - (n - correct + 1..=n).map(|i| 1.0 - f64::from(k) / f64::from(i)).product::<f64>()
}

impl Metric for PassAtK {
    fn name(&self) -> &'static str {
        self.name
    }

    /// `stats` are the samples and those that passed.
    fn score(&self, _: &Resources<'_>, _: &Reference, evidence: &[Evidence]) -> Score {
        let verdicts = evidence.iter().filter_map(|e| if let Evidence::Passed(passed) = e { Some(*passed) } else { None });
        let (n, correct) = verdicts.fold((0, 0), |(n, correct), passed| (n + 1, correct + u32::from(passed)));
        Score { value: estimate(n, correct, self.k), stats: vec![f64::from(n), f64::from(correct)] }
    }

    /// `None` also where a problem has fewer than k samples.
    fn aggregate(&self, scores: &[Score]) -> Option<f64> {
        if scores.iter().any(|s| s.stats.first().is_none_or(|n| *n < f64::from(self.k))) {
            return None;
        }
        aggregate::numpy_mean(&scores.iter().map(|s| s.value).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_of_the_reference() {
        for (n, correct, k, expected) in [
            (1, 0, 1, 0.0),
            (1, 1, 1, 1.0),
            (10, 3, 1, 0.30000000000000004),
            (10, 9, 1, 0.9),
            (10, 1, 10, 1.0),
            (10, 0, 10, 0.0),
            (20, 3, 10, 0.8947368421052632),
            (5, 5, 10, 0.0),
        ] {
            assert_eq!(estimate(n, correct, k), expected, "n={n} c={correct} k={k}");
        }
    }

    #[test]
    fn verdicts_alone_count() {
        let evidence = [Evidence::Passed(true), Evidence::Text("x".into()), Evidence::Passed(false)];
        let score = PassAtK::ONE.score(&Resources::default(), &Reference::default(), &evidence);
        assert_eq!((score.value, score.stats.as_slice()), (0.5, &[2.0, 1.0][..]));
        assert_eq!(PassAtK::TEN.aggregate(&[score]), None);
        assert_eq!(PassAtK::ONE.aggregate(&[]), None);
    }
}
