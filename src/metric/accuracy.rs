//! Multiple choice by log-likelihood.
//!
//! lm-eval v0.4.2 `lm_eval/api/task.py:1202-1262`: the most probable choice is the answer; of equal ones the first (numpy's `argmax`).

use super::{Evidence, Metric, Reference, Resources, Score, aggregate};

/// 1 where the chosen continuation is the right one, else 0.
pub enum Accuracy {
    /// By the sum of the log-probabilities of its tokens.
    Plain,
    /// By that sum divided by the number of the choice's characters (code points, the blank before it not counted).
    PerCharacter,
}

impl Metric for Accuracy {
    fn name(&self) -> &'static str {
        match self {
            Accuracy::Plain => "acc",
            Accuracy::PerCharacter => "acc_norm",
        }
    }

    fn score(&self, _: &Resources<'_>, reference: &Reference, evidence: &[Evidence]) -> Score {
        let hit = match evidence.first() {
            Some(Evidence::LogLikelihoods(choices)) => match self {
                Accuracy::Plain => chosen(choices) == reference.right,
                Accuracy::PerCharacter => chosen(&per_character(choices, &reference.texts)) == reference.right,
            },
            _ => false,
        };
        Score::of(f64::from(u8::from(hit && reference.right.is_some())))
    }

    fn aggregate(&self, scores: &[Score]) -> Option<f64> {
        aggregate::exact_mean(scores.iter().map(|s| s.value))
    }
}

/// Position of the greatest value, of equal ones the first; `None` of none. NaN is greater than anything, as it is to numpy.
pub fn chosen(values: &[f64]) -> Option<usize> {
    let better = |a: f64, b: f64| !b.is_nan() && (a.is_nan() || a > b);
    (0..values.len()).reduce(|best, at| if better(values[at], values[best]) { at } else { best })
}

fn per_character(choices: &[f64], texts: &[String]) -> Vec<f64> {
    choices.iter().zip(texts).map(|(sum, text)| sum / text.chars().count() as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_choices_is_chosen() {
        for (values, expected) in [
            (&[-2.0, -1.0, -1.0][..], Some(1)),
            (&[-1.0, -1.0], Some(0)),
            (&[0.0, -0.0], Some(0)),
            (&[f64::NEG_INFINITY, f64::NEG_INFINITY], Some(0)),
            (&[-1.0, f64::NAN, f64::NAN], Some(1)),
            (&[], None),
        ] {
            assert_eq!(chosen(values), expected, "{values:?}");
        }
    }

    #[test]
    fn length_is_in_characters() {
        let reference = Reference { texts: vec!["いぬ".into(), "a long dog".into()], right: Some(1) };
        let score = |metric: Accuracy, choices: &[f64]| {
            metric.score(&Resources::default(), &reference, &[Evidence::LogLikelihoods(choices.to_vec())]).value
        };
        assert_eq!(score(Accuracy::Plain, &[-3.0, -5.0]), 0.0);
        assert_eq!(score(Accuracy::PerCharacter, &[-3.0, -5.0]), 1.0);
        // -3/2 is less than -14/10, but in bytes (-3/6) it would win.
        assert_eq!(score(Accuracy::PerCharacter, &[-3.0, -14.0]), 1.0);
        assert_eq!(Accuracy::Plain.score(&Resources::default(), &Reference::default(), &[]).value, 0.0);
    }
}
