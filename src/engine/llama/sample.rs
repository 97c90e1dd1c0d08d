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

/// Whether the next token is the largest logit as it is, so that nothing else of a row is needed.
pub fn is_largest(sampling: &Sampling) -> bool {
    sampling.temperature == 0.0 && sampling.repetition_penalty == 1.0
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

/// Tokens that may be drawn with their probabilities: temperature, then top-k (which keeps ties with the k-th, as transformers does), then
/// top-p (which keeps the token that crosses p). Most probable first (the lower id first among equals) where top-k or top-p cuts; by id
/// where nothing does, because sorting a vocabulary of 128k for every token would cost more than a small model.
pub fn distribution(logits: &[f32], sampling: &Sampling) -> Vec<(u32, f64)> {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)) / sampling.temperature;
    let weight = |logit: f32| (f64::from(logit) / sampling.temperature - largest).exp();
    let mut kept: Vec<(u32, f64)> = logits.iter().enumerate().map(|(id, l)| (id as u32, weight(*l))).collect();
    let k = sampling.top_k as usize;
    if k > 0 && k < kept.len() {
        let (_, kth, _) = kept.select_nth_unstable_by(k - 1, most_probable_first);
        let kth = logits[kth.0 as usize];
        kept.retain(|(id, _)| logits[*id as usize] >= kth);
        kept.sort_unstable_by(most_probable_first);
    }
    normalise(&mut kept);
    if sampling.top_p < 1.0 {
        keep_mass(&mut kept, sampling.top_p);
        normalise(&mut kept);
    }
    kept
}

/// By probability, then by id: an order in which no two tokens are equal.
fn most_probable_first(a: &(u32, f64), b: &(u32, f64)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Keeps the most probable tokens up to the one that crosses `mass`, in order. Only as many as needed are sorted.
fn keep_mass(weights: &mut Vec<(u32, f64)>, mass: f64) {
    let mut candidates = 64;
    loop {
        let whole = candidates >= weights.len();
        if !whole {
            weights.select_nth_unstable_by(candidates, most_probable_first);
        }
        let end = candidates.min(weights.len());
        let head = &mut weights[..end];
        head.sort_unstable_by(most_probable_first);
        let keep = until_mass(head, mass).max(1);
        if whole || keep < end {
            return weights.truncate(keep);
        }
        candidates *= 8;
    }
}

/// How many tokens from the first on reach the mass, the one that crosses it included.
fn until_mass(weights: &[(u32, f64)], mass: f64) -> usize {
    let mut before = 0.0;
    let below = weights.iter().take_while(|(_, p)| {
        let below = before < mass;
        before += p;
        below
    });
    below.count()
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
        assert_eq!(ids(&logits, &sampling(1.0, 0, 1.0)), [0, 1, 2, 3, 4]);
        assert_eq!(ids(&logits, &sampling(1.0, 3, 1.0)), [1, 3, 2]);
        assert_eq!(ids(&logits, &sampling(1.0, 1, 1.0)), [1, 3], "a tie with the k-th stays");
        // Probabilities are about .38 .38 .14 .05 .02: the second token crosses 0.5 and stays.
        assert_eq!(ids(&logits, &sampling(1.0, 0, 0.5)), [1, 3]);
        assert_eq!(ids(&logits, &sampling(1.0, 0, 1e-9)), [1]);
    }

    #[test]
    fn top_p_sorts_no_more_than_it_needs_and_keeps_the_same() {
        // Flat enough that the mass lies beyond the first candidates.
        let logits: Vec<f32> = (0..3000).map(|i| ((i * 7919 % 3001) as f32 / 1500.0).sin()).collect();
        for (temperature, top_k, top_p) in [(1.0, 0, 0.9), (0.2, 0, 0.95), (1.0, 2000, 0.8), (1.0, 0, 0.001), (1.0, 0, 0.999_999)] {
            let mut sorted = distribution(&logits, &sampling(temperature, top_k, 1.0));
            sorted.sort_by(most_probable_first);
            let mut mass = 0.0;
            let mut expected = Vec::new();
            for (id, p) in sorted {
                if mass < top_p {
                    expected.push(id);
                }
                mass += p;
            }
            assert_eq!(ids(&logits, &sampling(temperature, top_k, top_p)), expected, "{top_k} {top_p}");
        }
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
