//! Paired resampling of two lists of scores: bootstrap replicates of the difference, and the randomisation test.
//!
//! Efron & Tibshirani 1993, chapter 16; approximate randomisation: Noreen 1989, Riezler & Maxwell 2005. Every replicate has a generator of its
//! own, seeded by its number, so that the result does not depend on the number of threads.

use crate::metric::{Metric, Score};
use rayon::prelude::*;

/// Bootstrap replicates and randomisation trials.
pub const REPLICATES: usize = 10_000;

/// What is compared of the two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// The metric's aggregate, which is the mean of the documents' values.
    Mean,
    /// The metric's aggregate, a function of summed statistics (corpus BLEU).
    Sums,
    /// The mean of the documents' values, because the aggregate is neither (the bootstrap median of ROUGE).
    MeanInstead,
}

impl Statistic {
    /// Finds out by trying which of the three describes the metric on these scores. Some parts of them are tried too: on few distinct values
    /// a median may happen to be the mean.
    pub fn of(metric: &dyn Metric, scores: &[Score]) -> Statistic {
        let agrees = |with: &dyn Fn(&[Score]) -> Option<f64>| {
            [1, 2, 3, 5, 7].into_iter().map(|part| &scores[..scores.len() / part]).filter(|some| !some.is_empty()).all(|some| {
                let (aggregate, other) = (metric.aggregate(some), with(some));
                aggregate.zip(other).is_none_or(|(a, o)| (a - o).abs() <= 1e-12 * a.abs().max(1.0))
            })
        };
        let with_stats = scores.iter().all(|score| !score.stats.is_empty());
        if with_stats && agrees(&|some| metric.aggregate(&[sum(some.iter())])) {
            Statistic::Sums
        } else if agrees(&|some| Some(mean(some))) {
            Statistic::Mean
        } else {
            Statistic::MeanInstead
        }
    }
}

/// Two lists of scores of the same documents in the same order, and what is compared.
#[derive(Clone, Copy)]
pub struct Pairs<'p> {
    /// Gives aggregates.
    pub metric: &'p dyn Metric,
    /// What is compared.
    pub statistic: Statistic,
    /// Scores of the base.
    pub base: &'p [Score],
    /// Scores of the candidate, as many.
    pub cand: &'p [Score],
}

impl Pairs<'_> {
    /// Candidate less base.
    pub fn difference(&self) -> f64 {
        match self.statistic {
            Statistic::Mean | Statistic::MeanInstead => mean(self.cand) - mean(self.base),
            Statistic::Sums => self.of_sums(&sum(self.cand.iter()), &sum(self.base.iter())),
        }
    }

    /// Differences of [`REPLICATES`] resamples of documents, by number of the replicate. Empty without documents.
    pub fn bootstrap(&self, seed: u64) -> Vec<f64> {
        let n = self.base.len();
        if n == 0 {
            return Vec::new();
        }
        let deltas = self.deltas();
        let replicate = |number: usize| {
            let mut random = SplitMix::of(seed, number);
            match self.statistic {
                Statistic::Mean | Statistic::MeanInstead => (0..n).map(|_| deltas[random.below(n)]).sum::<f64>() / n as f64,
                Statistic::Sums => {
                    let drawn: Vec<usize> = (0..n).map(|_| random.below(n)).collect();
                    self.of_sums(&sum(drawn.iter().map(|i| &self.cand[*i])), &sum(drawn.iter().map(|i| &self.base[*i])))
                }
            }
        };
        (0..REPLICATES).into_par_iter().map(replicate).collect()
    }

    /// How often exchanging base and candidate of random documents gives a difference as extreme as the observed one:
    /// `(1 + such trials) / (1 + trials)`.
    pub fn randomisation_p(&self, tail: Tail, seed: u64) -> f64 {
        let observed = self.difference();
        // Sums in another order differ in the last bits; equal differences must count as equal.
        let slack = 1e-12 * observed.abs().max(1e-3);
        let extreme = |difference: &f64| match tail {
            Tail::Both => difference.abs() >= observed.abs() - slack,
            Tail::Lower => *difference <= observed + slack,
        };
        let changed: Vec<f64> = self.deltas().into_iter().filter(|delta| *delta != 0.0).collect();
        let n = self.base.len().max(1) as f64;
        let trial = |number: usize| {
            let mut random = SplitMix::of(!seed, number);
            match self.statistic {
                Statistic::Mean | Statistic::MeanInstead => changed.iter().map(|d| if random.coin() { -d } else { *d }).sum::<f64>() / n,
                Statistic::Sums => {
                    let (mut a, mut b) = (Score::of(0.0), Score::of(0.0));
                    for (base, cand) in self.base.iter().zip(self.cand) {
                        let (to_a, to_b) = if random.coin() { (base, cand) } else { (cand, base) };
                        add(&mut a, to_a);
                        add(&mut b, to_b);
                    }
                    self.of_sums(&a, &b)
                }
            }
        };
        let hits = (0..REPLICATES).into_par_iter().map(trial).filter(extreme).count();
        (1 + hits) as f64 / (1 + REPLICATES) as f64
    }

    /// Candidate less base, document by document.
    pub fn deltas(&self) -> Vec<f64> {
        self.cand.iter().zip(self.base).map(|(cand, base)| cand.value - base.value).collect()
    }

    fn of_sums(&self, cand: &Score, base: &Score) -> f64 {
        let aggregate = |score: &Score| self.metric.aggregate(std::slice::from_ref(score)).unwrap_or(0.0);
        aggregate(cand) - aggregate(base)
    }
}

/// Which differences speak against equality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Any.
    Both,
    /// A candidate that is worse.
    Lower,
}

fn mean(scores: &[Score]) -> f64 {
    scores.iter().map(|score| score.value).sum::<f64>() / scores.len().max(1) as f64
}

/// One score that stands for all of them, where a metric depends on sums alone.
fn sum<'s>(scores: impl Iterator<Item = &'s Score>) -> Score {
    let mut total = Score::of(0.0);
    scores.for_each(|score| add(&mut total, score));
    total
}

fn add(total: &mut Score, score: &Score) {
    total.value += score.value;
    if total.stats.len() < score.stats.len() {
        total.stats.resize(score.stats.len(), 0.0);
    }
    total.stats.iter_mut().zip(&score.stats).for_each(|(total, stat)| *total += stat);
}

/// SplitMix64 (Steele, Lea & Flood 2014): a stream from any seed, which is what a replicate of its own needs.
struct SplitMix(u64);

impl SplitMix {
    fn of(seed: u64, number: usize) -> Self {
        let mut mixed = SplitMix(seed ^ (number as u64).wrapping_mul(0xd134_2543_de82_ef95));
        SplitMix(mixed.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0..n. The high half of a product is uniform to within n / 2^64.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::by_name;

    fn scores(values: impl IntoIterator<Item = f64>) -> Vec<Score> {
        values.into_iter().map(Score::of).collect()
    }

    #[test]
    fn the_statistic_is_found_by_trying() {
        let metric = |name| by_name(name).expect("a metric");
        let values = scores((0..40).map(|i| f64::from(i * i % 97) / 97.0));
        assert_eq!(Statistic::of(metric("exact_match"), &values), Statistic::Mean);
        assert_eq!(Statistic::of(metric("rouge2"), &values), Statistic::MeanInstead);
        let with_stats: Vec<Score> = (0..40)
            .map(|i| Score { stats: vec![9.0, 10.0, f64::from(i % 9), 4.0, 3.0, 2.0, 9.0, 8.0, 7.0, 6.0], ..Score::of(0.1) })
            .collect();
        assert_eq!(Statistic::of(metric("bleu"), &with_stats), Statistic::Sums);
    }

    #[test]
    fn threads_change_nothing_and_seeds_do() {
        let metric = by_name("exact_match").expect("a metric");
        let (base, cand) = (scores((0..300).map(|i| f64::from(i % 3 / 2))), scores((0..300).map(|i| f64::from(i % 5 / 4))));
        let pairs = Pairs { metric, statistic: Statistic::Mean, base: &base, cand: &cand };
        let all = |seed| (pairs.bootstrap(seed), pairs.randomisation_p(Tail::Both, seed));
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool").install(|| all(1));
        let four = rayon::ThreadPoolBuilder::new().num_threads(4).build().expect("a pool").install(|| all(1));
        assert_eq!(one, four);
        assert_ne!(one.0, all(2).0);
    }

    #[test]
    fn equal_lists_differ_by_nothing() {
        let metric = by_name("exact_match").expect("a metric");
        let base = scores((0..50).map(|i| f64::from(i % 2)));
        let pairs = Pairs { metric, statistic: Statistic::Mean, base: &base, cand: &base };
        assert_eq!((pairs.difference(), pairs.randomisation_p(Tail::Lower, 0)), (0.0, 1.0));
        assert!(pairs.bootstrap(0).iter().all(|d| *d == 0.0));
    }
}
