//! ROUGE of one summary with one reference, on the evaluated model's tokens.
//!
//! rouge_score 0.1.2 `rouge_scorer.py` with a tokenizer of the caller's: nothing is stemmed or lower-cased. The Japanese harness gives it the
//! tokenizer of the model under test, not a word segmenter (swallow-evaluation v202407, `lm-evaluation-harness-jp/lm_eval/evaluator.py:222-226`
//! and `tasks/ja/xlsum_ja.py:170-173`), and reports the median of bootstrap means (`xlsum_ja.py:175-190`).

use super::{Evidence, Metric, Need, Reference, Resources, Score, bootstrap, texts};
use std::collections::BTreeMap;

/// Seed of numpy's global generator, from which rouge_score draws (`lm_eval/evaluator.py:60`).
const SEED: u32 = 1234;

/// What two token sequences share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rouge {
    /// N-grams of that length, as multisets.
    Ngrams(usize),
    /// A longest common subsequence.
    Subsequence,
}

/// Precision, recall and their harmonic mean, each 0..=1; all 0 where nothing is shared.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Overlap {
    /// Share of the prediction found in the reference.
    pub precision: f64,
    /// Share of the reference found in the prediction.
    pub recall: f64,
    /// F1.
    pub f: f64,
}

impl Rouge {
    /// ROUGE-1.
    pub const ONE: Rouge = Rouge::Ngrams(1);
    /// ROUGE-2.
    pub const TWO: Rouge = Rouge::Ngrams(2);
    /// ROUGE-L.
    pub const L: Rouge = Rouge::Subsequence;

    /// Compares two sequences of tokens.
    pub fn overlap<T: Ord>(self, reference: &[T], prediction: &[T]) -> Overlap {
        match self {
            Rouge::Ngrams(n) => {
                let (of_reference, of_prediction) = (ngrams(reference, n), ngrams(prediction, n));
                let hits = of_prediction.iter().map(|(gram, count)| *count.min(of_reference.get(gram).unwrap_or(&0))).sum();
                Overlap::of(hits, of_reference.values().sum(), of_prediction.values().sum())
            }
            Rouge::Subsequence => Overlap::of(longest_common_subsequence(reference, prediction), reference.len(), prediction.len()),
        }
    }
}

impl Overlap {
    fn of(hits: usize, in_reference: usize, in_prediction: usize) -> Self {
        let share = |of: usize| hits as f64 / of.max(1) as f64;
        let (precision, recall) = (share(in_prediction), share(in_reference));
        let f = if hits > 0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 };
        Overlap { precision, recall, f }
    }
}

fn ngrams<T: Ord>(tokens: &[T], n: usize) -> BTreeMap<&[T], usize> {
    let mut counts = BTreeMap::new();
    for gram in tokens.windows(n) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}

/// One row of the table at a time: `lengths[j]` is for `a` so far and the first `j` of `b`.
fn longest_common_subsequence<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let mut lengths = vec![0; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = lengths[j + 1];
            lengths[j + 1] = if x == y { diagonal + 1 } else { above.max(lengths[j]) };
            diagonal = above;
        }
    }
    lengths[b.len()]
}

impl Metric for Rouge {
    fn name(&self) -> &'static str {
        match self {
            Rouge::Ngrams(1) => "rouge1",
            Rouge::Ngrams(_) => "rouge2",
            Rouge::Subsequence => "rougeL",
        }
    }

    fn needs(&self) -> &'static [Need] {
        &[Need::ModelTokenizer]
    }

    /// The F of answer and first reference text.
    fn score(&self, resources: &Resources<'_>, reference: &Reference, evidence: &[Evidence]) -> Score {
        let tokens = resources.tokens.expect("the caller loads what `needs` lists");
        let (gold, answer) = texts(reference, evidence);
        Score::of(self.overlap(&tokens(gold), &tokens(answer)).f)
    }

    fn in_full(&self) -> f64 {
        100.0
    }

    fn about_interval(&self) -> Option<&'static str> {
        Some("the score is the median of bootstrap means, ±95 % is that of the mean itself")
    }

    /// The bootstrap median of the mean. Intervals shown beside it are those of the mean.
    fn aggregate(&self, scores: &[Score]) -> Option<f64> {
        let values: Vec<f64> = scores.iter().map(|s| s.value).collect();
        Some(bootstrap::of_mean(&values, SEED)?.mid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_by_rouge_score() {
        // RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=str.split) of rouge_score 0.1.2: F of each.
        for (reference, prediction, expected) in [
            ("", "", [0.0, 0.0, 0.0]),
            ("a", "", [0.0, 0.0, 0.0]),
            ("a", "a", [1.0, 0.0, 1.0]),
            ("a b", "b a", [1.0, 0.0, 0.5]),
            ("a a a", "a a", [0.8, 0.6666666666666666, 0.8]),
            ("a b c d", "a c d", [0.8571428571428571, 0.4, 0.8571428571428571]),
        ] {
            let (r, p): (Vec<&str>, Vec<&str>) = (reference.split(' ').collect(), prediction.split(' ').collect());
            let words = |list: &[&'static str]| list.iter().copied().filter(|w| !w.is_empty()).collect::<Vec<_>>();
            let got = [Rouge::ONE, Rouge::TWO, Rouge::L].map(|kind| kind.overlap(&words(&r), &words(&p)).f);
            assert_eq!(got, expected, "{reference:?} {prediction:?}");
        }
    }

    #[test]
    fn a_score_is_over_the_models_tokens() {
        let bytes = |text: &str| text.bytes().map(u32::from).collect::<Vec<u32>>();
        let resources = Resources { tokens: Some(&bytes), ..Resources::default() };
        let reference = Reference::of(["abc"]);
        assert_eq!(Rouge::TWO.score(&resources, &reference, &[Evidence::Text("abd".into())]).value, 0.5);
        assert_eq!(Rouge::TWO.score(&resources, &reference, &[]).value, 0.0);
        assert_eq!(Rouge::TWO.aggregate(&[]), None);
    }
}
