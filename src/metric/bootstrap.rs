//! rouge_score's `BootstrapAggregator`: percentiles of the means of resampled scores.
//!
//! rouge_score 0.1.2 `scoring.py:59-140` on numpy v1.26.4 (`lib/function_base.py`: `percentile`, `_lerp`). Means are summed in the order
//! of the draws, so that every bit agrees. One thread: a sample's indices follow from those before it, and the draws are most of the work.

use super::numpy_random::NumpyRandom;

/// Resamples.
const SAMPLES: usize = 1000;

/// `confidence_interval`.
const CONFIDENCE: f64 = 0.95;

/// Percentiles of the resampled means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentiles {
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// The median: what a harness reports as the score.
    pub mid: f64,
    /// Upper end.
    pub high: f64,
}

/// Percentiles of 1000 means, each of `values.len()` values drawn with replacement by numpy's generator. The order of `values` matters.
/// `None` without values.
pub fn of_mean(values: &[f64], seed: u32) -> Option<Percentiles> {
    if values.is_empty() {
        return None;
    }
    let mut random = NumpyRandom::seeded(seed);
    let n = values.len();
    // A fold from the first value on, as `np.mean(axis=0)` does it: 0.0 + (-0.0) would lose a sign.
    let mut mean = || random.resample(n).map(|i| values[i]).reduce(|sum, value| sum + value).unwrap_or_default() / n as f64;
    let mut means: Vec<f64> = (0..SAMPLES).map(|_| mean()).collect();
    means.sort_by(f64::total_cmp);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let [low, mid, high] = [tail, 0.5, 1.0 - tail].map(|q| percentile(&means, 100.0 * q));
    Some(Percentiles { low, mid, high })
}

/// `np.percentile(sorted, q)`, linear.
fn percentile(sorted: &[f64], q: f64) -> f64 {
    let at = (sorted.len() - 1) as f64 * (q / 100.0);
    let below = at.floor();
    let (a, b) = (sorted[below as usize], sorted[(below as usize + 1).min(sorted.len() - 1)]);
    let part = at - below;
    // Two forms, as numpy has it: each end of the way is met exactly.
    if part >= 0.5 { b - (b - a) * (1.0 - part) } else { a + (b - a) * part }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percentiles_by_rouge_score() {
        // BootstrapAggregator of rouge_score 0.1.2 after `np.random.seed(1234)`.
        for (values, expected) in [
            (&[][..], None),
            (&[0.0], Some((0.0, 0.0, 0.0))),
            (&[0.8861305167388375, 0.87], Some((0.87, 0.8780652583694187, 0.8861305167388375))),
            (&[0.0, 0.0, 0.8497646435045906], Some((0.0, 0.28325488116819686, 0.8497646435045906))),
        ] {
            assert_eq!(of_mean(values, 1234).map(|p| (p.low, p.mid, p.high)), expected, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn within_the_values_and_the_same_under_any_number_of_threads(
            values in prop::collection::vec(0.0..=1.0f64, 1..60),
            seed: u32,
            threads in 1..5usize,
        ) {
            let one = of_mean(&values, seed).expect("values");
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            prop_assert_eq!(pool.install(|| of_mean(&values, seed)), Some(one));
            prop_assert!(one.low <= one.mid && one.mid <= one.high);
            let (least, most) = values.iter().fold((f64::MAX, f64::MIN), |(l, m), v| (l.min(*v), m.max(*v)));
            prop_assert!(least - 1e-12 <= one.low && one.high <= most + 1e-12);
        }
    }
}
