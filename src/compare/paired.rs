//! The paired comparison of one task: difference, interval, test, minimum detectable effect. Numbers only; what may be compared is decided in
//! the module above.

use super::resample::{Pairs, Statistic, Tail};
use crate::metric::{Metric, Score};
use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, Normal};

/// Seed of every resampling: a comparison of the same two runs always gives the same numbers.
const SEED: u64 = 0x5357_414c_4c4f_5721;

/// Power at which the minimum detectable effect is given.
pub const POWER: f64 = 0.8;

/// What two lists of scores of the same documents say about a difference.
#[derive(Clone, Debug, PartialEq)]
pub struct Paired {
    /// Documents.
    pub n: usize,
    /// What difference and interval are of.
    pub statistic: Statistic,
    /// Candidate less base.
    pub difference: f64,
    /// 95 % interval of the difference: percentiles of the bootstrap.
    pub interval: (f64, f64),
    /// Which test gave the p-values.
    pub test: Test,
    /// Two-sided: the two are equal.
    pub p: f64,
    /// One-sided: the candidate is not worse.
    pub p_worse: f64,
    /// Documents on which the candidate scores higher, and lower.
    pub changed: (usize, usize),
    /// Standard error of the difference.
    pub standard_error: f64,
    /// Bootstrap replicates of the difference, for the interval of a mean over tasks.
    pub replicates: Vec<f64>,
}

/// A test of equality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// Exact McNemar, for scores that are 0 or 1.
    McNemar,
    /// Paired randomisation.
    Randomisation,
}

impl Test {
    /// As a table shows it.
    pub fn name(self) -> &'static str {
        match self {
            Test::McNemar => "McNemar, exact",
            Test::Randomisation => "paired randomisation",
        }
    }
}

/// Compares two lists of scores of the same documents in the same order. `None` without documents.
pub fn compare(metric: &dyn Metric, base: &[Score], cand: &[Score]) -> Option<Paired> {
    let n = base.len().min(cand.len());
    if n == 0 {
        return None;
    }
    let both: Vec<Score> = base.iter().chain(cand).cloned().collect();
    let pairs = Pairs { metric, statistic: Statistic::of(metric, &both), base: &base[..n], cand: &cand[..n] };
    let replicates = pairs.bootstrap(SEED);
    let deltas = pairs.deltas();
    let better = deltas.iter().filter(|d| **d > 0.0).count();
    let worse = deltas.iter().filter(|d| **d < 0.0).count();
    let binary = both.iter().all(|score| score.value == 0.0 || score.value == 1.0);
    let (test, p, p_worse) = if binary && pairs.statistic == Statistic::Mean {
        (Test::McNemar, mcnemar(better, worse, Tail::Both), mcnemar(better, worse, Tail::Lower))
    } else {
        (Test::Randomisation, pairs.randomisation_p(Tail::Both, SEED), pairs.randomisation_p(Tail::Lower, SEED))
    };
    Some(Paired {
        n,
        statistic: pairs.statistic,
        difference: pairs.difference(),
        interval: interval_95(&replicates),
        test,
        p,
        p_worse,
        changed: (better, worse),
        standard_error: match pairs.statistic {
            Statistic::Sums => deviation(&replicates),
            Statistic::Mean | Statistic::MeanInstead => deviation(&deltas) / (n as f64).sqrt(),
        },
        replicates,
    })
}

impl Paired {
    /// The smallest true difference that a two-sided test at `alpha` sees with probability [`POWER`], by the normal approximation from this
    /// pair's own standard error. `None` where no document changed: then nothing is known about the spread of changes.
    pub fn minimum_detectable(&self, alpha: f64) -> Option<f64> {
        (self.standard_error > 0.0).then(|| (quantile(1.0 - alpha / 2.0) + quantile(POWER)) * self.standard_error)
    }
}

/// Exact McNemar: given that `better + worse` documents changed, each side is equally likely for each of them.
///
/// Two-sided: twice the smaller tail, at most 1 (McNemar 1947; the binomial form of scipy's `binomtest` and statsmodels' `mcnemar(exact)`).
/// Lower tail: the probability of at least `worse` changes to the worse.
pub fn mcnemar(better: usize, worse: usize, tail: Tail) -> f64 {
    let changed = (better + worse) as u64;
    if changed == 0 {
        return 1.0;
    }
    let fair = Binomial::new(0.5, changed).expect("one half is a probability");
    match tail {
        Tail::Both => (2.0 * fair.cdf(better.min(worse) as u64)).min(1.0),
        Tail::Lower => fair.cdf(better as u64),
    }
}

/// Holm's step-down adjustment (Holm 1979): p-values for a family, in the order given, each at most 1.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut adjusted = vec![1.0; p.len()];
    let mut least: f64 = 0.0;
    for (rank, at) in order.into_iter().enumerate() {
        least = least.max(p[at] * (p.len() - rank) as f64).min(1.0);
        adjusted[at] = least;
    }
    adjusted
}

/// The 2.5 % and 97.5 % percentiles, linear between order statistics; (0, 0) of nothing.
pub fn interval_95(replicates: &[f64]) -> (f64, f64) {
    let mut sorted = replicates.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |q: f64| {
        let place = q * (sorted.len().saturating_sub(1)) as f64;
        let (low, high) = (sorted.get(place.floor() as usize), sorted.get(place.ceil() as usize));
        low.zip(high).map_or(0.0, |(low, high)| low + (high - low) * place.fract())
    };
    (at(0.025), at(0.975))
}

/// Two-sided p of a difference from nothing, by the normal approximation. 1 where the standard error is 0.
pub fn normal_p(difference: f64, standard_error: f64, tail: Tail) -> f64 {
    if standard_error <= 0.0 {
        return 1.0;
    }
    let z = difference / standard_error;
    match tail {
        Tail::Both => (2.0 * standard_normal().cdf(-z.abs())).min(1.0),
        Tail::Lower => standard_normal().cdf(z),
    }
}

/// Quantile of the standard normal distribution.
pub fn quantile(p: f64) -> f64 {
    standard_normal().inverse_cdf(p)
}

fn standard_normal() -> Normal {
    Normal::new(0.0, 1.0).expect("the deviation is positive")
}

/// Sample standard deviation (n - 1); 0 of fewer than two values.
fn deviation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    if values.len() < 2 {
        return 0.0;
    }
    let mean = values.iter().sum::<f64>() / n;
    (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::by_name;

    #[test]
    fn mcnemar_by_scipy() {
        // scipy 1.16 `binomtest(min(b, c), b + c, 0.5).pvalue` and `binomtest(worse, b + c, 0.5, alternative="greater").pvalue`.
        for (better, worse, both, lower) in [
            (0, 0, 1.0, 1.0),
            (0, 1, 1.0, 0.5),
            (5, 5, 1.0, 0.623046875),
            (1, 9, 0.021484375, 0.0107421875),
            (9, 1, 0.021484375, 0.9990234375),
            (0, 10, 0.001953125, 0.0009765625),
        ] {
            assert!((mcnemar(better, worse, Tail::Both) - both).abs() < 1e-12, "{better} {worse}");
            assert!((mcnemar(better, worse, Tail::Lower) - lower).abs() < 1e-12, "{better} {worse}");
        }
    }

    #[test]
    fn holm_by_statsmodels() {
        // statsmodels 0.14 `multipletests(p, method="holm")[1]`.
        for (p, expected) in [
            (&[][..], &[][..]),
            (&[0.04], &[0.04]),
            (&[0.01, 0.04, 0.03, 0.005], &[0.03, 0.06, 0.06, 0.02]),
            (&[0.5, 0.9, 0.6], &[1.0, 1.0, 1.0]),
        ] {
            let adjusted = holm(p);
            assert!(adjusted.iter().zip(expected).all(|(a, e)| (a - e).abs() < 1e-12), "{p:?}: {adjusted:?}");
        }
    }

    #[test]
    fn a_drop_is_seen_and_noise_is_not() {
        let metric = by_name("exact_match").expect("a metric");
        let list = |wrong: &dyn Fn(u32) -> bool| (0..1000).map(|i| Score::of(f64::from(u8::from(!wrong(i))))).collect::<Vec<_>>();
        let base = list(&|i| i % 4 == 0);
        let noise = compare(metric, &base, &list(&|i| (i + 4 * u32::from(i % 100 == 0)) % 4 == 0)).expect("documents");
        assert_eq!((noise.test, noise.p, noise.difference), (Test::McNemar, 1.0, 0.0));
        assert_eq!(noise.minimum_detectable(0.05), None);
        let worse = compare(metric, &base, &list(&|i| i % 4 == 0 || i % 33 == 1)).expect("documents");
        assert!(worse.p_worse < 1e-6 && worse.difference < -0.02 && worse.interval.1 < 0.0, "{:?}", worse.interval);
        assert!(worse.minimum_detectable(0.05).expect("changes") < 0.02);
        assert_eq!(compare(metric, &[], &[]), None);
    }

    #[test]
    fn values_between_get_the_randomisation_test() {
        let metric = by_name("char_f1").expect("a metric");
        let list = |less: f64| (0..200).map(|i| Score::of(f64::from(i % 11) / 11.0 * (1.0 - less))).collect::<Vec<_>>();
        let worse = compare(metric, &list(0.0), &list(0.2)).expect("documents");
        assert_eq!((worse.test, worse.p), (Test::Randomisation, 1.0 / 10_001.0));
        assert!(worse.interval.0 < worse.difference && worse.difference < worse.interval.1);
    }
}
