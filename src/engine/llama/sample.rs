//! The next token from one row of logits: repetition penalty, then greedy, or temperature, top-k, top-p and a seeded draw.

use super::ops::cpu;
use crate::engine::Sampling;
use rand_mt::Mt64;

/// A token and how close the decision was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The token.
    pub id: u32,
    /// Largest less second-largest logit, after the penalty.
    pub gap: f32,
}

/// One request's sampler: its settings and its own random stream, which no other request can disturb.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: Mt64,
}

impl Sampler {
    /// A sampler for sample number `sample` of a request.
    pub fn new(sampling: &Sampling, sample: u32) -> Self {
        Sampler { sampling: sampling.clone(), random: Mt64::new_with_key([sampling.seed, u64::from(sample)]) }
    }

    /// Chooses the next token. `seen` are prompt and answer so far.
    pub fn choose<'s>(&mut self, logits: &[f32], seen: impl Iterator<Item = &'s u32>) -> Choice {
        let penalised = penalise(logits, seen, self.sampling.repetition_penalty);
        let logits = penalised.as_deref().unwrap_or(logits);
        let greedy = cpu::choose(logits);
        if self.sampling.temperature == 0.0 {
            return Choice { id: greedy.argmax, gap: greedy.gap };
        }
        let support = distribution(logits, &self.sampling);
        // 53 random bits in [0, 1).
        let draw = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut sum = 0.0;
        let drawn = support.iter().find(|(_, p)| {
            sum += p;
            draw < sum
        });
        let id = drawn.or(support.last()).map_or(greedy.argmax, |(id, _)| *id);
        Choice { id, gap: greedy.gap }
    }
}

/// transformers' `RepetitionPenaltyLogitsProcessor`: every token seen once has its logit divided (positive) or multiplied (negative).
fn penalise<'s>(logits: &[f32], seen: impl Iterator<Item = &'s u32>, penalty: f64) -> Option<Vec<f32>> {
    if penalty == 1.0 {
        return None;
    }
    let penalty = penalty as f32;
    let mut penalised = logits.to_vec();
    for &id in seen {
        if let (Some(to), Some(&from)) = (penalised.get_mut(id as usize), logits.get(id as usize)) {
            *to = if from < 0.0 { from * penalty } else { from / penalty };
        }
    }
    Some(penalised)
}

/// Tokens that may be drawn with their probabilities, most probable first (the lower id first among equals): temperature, then top-k (which
/// keeps ties with the k-th, as transformers does), then top-p (which keeps the token that crosses p).
pub fn distribution(logits: &[f32], sampling: &Sampling) -> Vec<(u32, f64)> {
    let mut order: Vec<(u32, f64)> = logits.iter().enumerate().map(|(id, l)| (id as u32, f64::from(*l) / sampling.temperature)).collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let k = sampling.top_k as usize;
    if k > 0 && k < order.len() {
        let kth = order[k - 1].1;
        order.retain(|(_, l)| *l >= kth);
    }
    let largest = order.first().map_or(0.0, |o| o.1);
    order.iter_mut().for_each(|(_, l)| *l = (*l - largest).exp());
    normalise(&mut order);
    if sampling.top_p < 1.0 {
        let mut before = 0.0;
        let keep = order.iter().take_while(|(_, p)| {
            let keep = before < sampling.top_p;
            before += p;
            keep
        });
        let keep = keep.count().max(1);
        order.truncate(keep);
        normalise(&mut order);
    }
    order
}

fn normalise(weights: &mut [(u32, f64)]) {
    let sum: f64 = weights.iter().map(|(_, w)| w).sum();
    weights.iter_mut().for_each(|(_, w)| *w /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f64, top_k: u32, top_p: f64) -> Sampling {
        Sampling { temperature, top_k, top_p, ..Sampling::GREEDY }
    }

    fn ids(logits: &[f32], sampling: &Sampling) -> Vec<u32> {
        distribution(logits, sampling).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn support_of_top_k_and_top_p() {
        let logits = [0.0, 2.0, 1.0, 2.0, -1.0];
        assert_eq!(ids(&logits, &sampling(1.0, 0, 1.0)), [1, 3, 2, 0, 4]);
        assert_eq!(ids(&logits, &sampling(1.0, 3, 1.0)), [1, 3, 2]);
        assert_eq!(ids(&logits, &sampling(1.0, 1, 1.0)), [1, 3], "a tie with the k-th stays");
        // Probabilities are about .38 .38 .14 .05 .02: the second token crosses 0.5 and stays.
        assert_eq!(ids(&logits, &sampling(1.0, 0, 0.5)), [1, 3]);
        assert_eq!(ids(&logits, &sampling(1.0, 0, 1e-9)), [1]);
    }

    #[test]
    fn penalty_acts_on_greedy_and_by_sign() {
        let mut sampler = Sampler::new(&Sampling { repetition_penalty: 2.0, ..Sampling::GREEDY }, 0);
        assert_eq!(sampler.choose(&[3.0, 2.0, -1.0], [0, 0].iter()).id, 1);
        assert_eq!(sampler.choose(&[-1.0, -1.5, -9.0], [0].iter()).id, 1);
        assert_eq!(Sampler::new(&Sampling::GREEDY, 0).choose(&[3.0, 2.0], [0].iter()).id, 0);
    }

    #[test]
    fn draws_follow_the_distribution_and_the_seed() {
        let logits = [0.0f32, 1.0, 2.0];
        let settings = Sampling { seed: 7, ..sampling(1.0, 0, 1.0) };
        let draws = |sample: u32| -> Vec<u32> {
            let mut sampler = Sampler::new(&settings, sample);
            (0..4000).map(|_| sampler.choose(&logits, [].iter()).id).collect()
        };
        let first = draws(0);
        assert_eq!(first, draws(0));
        assert_ne!(first, draws(1));
        for (id, p) in distribution(&logits, &settings) {
            let share = first.iter().filter(|d| **d == id).count() as f64 / 4000.0;
            assert!((share - p).abs() < 0.03, "{id}: {share} {p}");
        }
    }
}
