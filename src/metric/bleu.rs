//! Corpus BLEU as sacrebleu 1.5.0 computes it by default: `13a` tokens, case kept, `exp` smoothing, no effective order, one reference.
//!
//! Papineni et al. 2002; sacrebleu 1.5.0 `metrics/bleu.py:111-320`. For Japanese the Japanese harness puts nagisa's words in front
//! (swallow-evaluation v202407, `lm-evaluation-harness-jp/lm_eval/tasks/translation.py:189-203`).

use super::{Evidence, Metric, Need, Reference, Resources, Score, aggregate, texts, tokenizer_13a};
use crate::text::python::is_space;
use std::collections::BTreeMap;
use std::ops::AddAssign;

/// Longest n-gram counted.
const ORDER: usize = 4;

/// `my_log(0)`, sacrebleu 1.5.0 `utils.py`: small enough that `exp` gives 0.
const LOG_OF_ZERO: f64 = -9_999_999_999.0;

/// Corpus BLEU, a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bleu {
    /// Texts as they are.
    Plain,
    /// Texts stripped, cut into words by nagisa and joined with spaces.
    Nagisa,
}

/// What BLEU is computed from. Adding two gives the counts of both documents together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tokens of the hypothesis.
    pub sys_len: u64,
    /// Tokens of the reference.
    pub ref_len: u64,
    /// Hypothesis n-grams found in the reference, for n = 1, 2, 3, 4.
    pub correct: [u64; ORDER],
    /// Hypothesis n-grams.
    pub total: [u64; ORDER],
}

/// A corpus score and its parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CorpusScore {
    /// 0 to 100, but for the last bits: a perfect corpus has 100.00000000000004.
    pub score: f64,
    /// Smoothed precisions in percent.
    pub precisions: [f64; ORDER],
    /// Brevity penalty, 0..=1.
    pub brevity: f64,
}

impl Counts {
    /// Counts of one document. An empty hypothesis adds to the reference's length only.
    pub fn of(reference: &str, hypothesis: &str) -> Self {
        let (reference, hypothesis) = (tokenizer_13a::tokenize(reference), tokenizer_13a::tokenize(hypothesis));
        let (reference, hypothesis) = (split(&reference), split(&hypothesis));
        let mut counts = Counts { sys_len: hypothesis.len() as u64, ref_len: reference.len() as u64, ..Counts::default() };
        for n in 1..=ORDER {
            let of_reference = ngrams(&reference, n);
            for (gram, count) in ngrams(&hypothesis, n) {
                counts.correct[n - 1] += count.min(of_reference.get(gram).copied().unwrap_or(0));
                counts.total[n - 1] += count;
            }
        }
        counts
    }

    /// BLEU of the corpus that was counted.
    pub fn bleu(&self) -> CorpusScore {
        let mut precisions = [0.0; ORDER];
        let mut smoothing = 1.0;
        let counted = self.correct.iter().zip(&self.total).take_while(|(_, total)| **total > 0);
        for (precision, (correct, total)) in precisions.iter_mut().zip(counted) {
            *precision = if *correct == 0 {
                smoothing *= 2.0;
                100.0 / (smoothing * *total as f64)
            } else {
                100.0 * *correct as f64 / *total as f64
            };
        }
        let brevity = match (self.sys_len, self.ref_len) {
            (sys, reference) if sys >= reference => 1.0,
            (0, _) => 0.0,
            (sys, reference) => (1.0 - reference as f64 / sys as f64).exp(),
        };
        let logs = precisions.iter().fold(0.0, |sum, p| sum + if *p == 0.0 { LOG_OF_ZERO } else { p.ln() });
        CorpusScore { score: brevity * (logs / ORDER as f64).exp(), precisions, brevity }
    }

    /// The counts of the corpus without one of its documents.
    fn without(mut self, one: &Counts) -> Self {
        self.sys_len -= one.sys_len;
        self.ref_len -= one.ref_len;
        for n in 0..ORDER {
            self.correct[n] -= one.correct[n];
            self.total[n] -= one.total[n];
        }
        self
    }

    /// `[sys_len, ref_len, correct 1..4, total 1..4]`, the form a [`Score`] carries.
    fn stats(&self) -> Vec<f64> {
        [self.sys_len, self.ref_len].iter().chain(&self.correct).chain(&self.total).map(|count| *count as f64).collect()
    }

    /// The reverse of [`Counts::stats`]; a score without them counts nothing.
    fn of_score(score: &Score) -> Self {
        let at = |i: usize| score.stats.get(i).map_or(0, |count| *count as u64);
        let four = |from: usize| std::array::from_fn(|n| at(from + n));
        Counts { sys_len: at(0), ref_len: at(1), correct: four(2), total: four(2 + ORDER) }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.sys_len += other.sys_len;
        self.ref_len += other.ref_len;
        for n in 0..ORDER {
            self.correct[n] += other.correct[n];
            self.total[n] += other.total[n];
        }
    }
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Counts::default(), |mut sum, one| {
            sum += one;
            sum
        })
    }
}

fn split(tokenized: &str) -> Vec<&str> {
    tokenized.split(' ').filter(|t| !t.is_empty()).collect()
}

fn ngrams<'g, 't>(tokens: &'g [&'t str], n: usize) -> BTreeMap<&'g [&'t str], u64> {
    let mut counts = BTreeMap::new();
    for gram in tokens.windows(n) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}

/// The words of a stripped text, separated by spaces: what the harness hands to sacrebleu.
pub fn segmented(segment: &dyn Fn(&str) -> Vec<String>, text: &str) -> String {
    segment(text.trim_matches(is_space)).join(" ")
}

impl Bleu {
    /// A text as sacrebleu gets it.
    fn prepared(self, resources: &Resources<'_>, text: &str) -> String {
        match self {
            Bleu::Plain => text.to_owned(),
            Bleu::Nagisa => segmented(resources.segment.expect("the caller loads what `needs` lists"), text),
        }
    }
}

impl Metric for Bleu {
    fn name(&self) -> &'static str {
        match self {
            Bleu::Plain => "bleu",
            Bleu::Nagisa => "bleu_nagisa",
        }
    }

    fn needs(&self) -> &'static [Need] {
        match self {
            Bleu::Plain => &[],
            Bleu::Nagisa => &[Need::Nagisa],
        }
    }

    /// The value is the BLEU, 0..=1, of a corpus of this document alone; the statistics are `[sys_len, ref_len, correct 1..4, total 1..4]`.
    fn score(&self, resources: &Resources<'_>, reference: &Reference, evidence: &[Evidence]) -> Score {
        let (gold, answer) = texts(reference, evidence);
        let counts = Counts::of(&self.prepared(resources, gold), &self.prepared(resources, answer));
        Score { value: counts.bleu().score / 100.0, stats: counts.stats() }
    }

    /// BLEU of the corpus, 0..=1; the order of documents has no effect.
    fn aggregate(&self, scores: &[Score]) -> Option<f64> {
        let counts: Counts = scores.iter().map(Counts::of_score).sum();
        (!scores.is_empty()).then(|| counts.bleu().score / 100.0)
    }

    fn in_full(&self) -> f64 {
        100.0
    }

    /// By the jackknife: the values of single documents say little about the corpus score.
    fn half_width_95(&self, scores: &[Score]) -> Option<f64> {
        let all: Vec<Counts> = scores.iter().map(Counts::of_score).collect();
        let sum: Counts = all.iter().copied().sum();
        let without_one: Vec<f64> = all.iter().map(|one| sum.without(one).bleu().score / 100.0).collect();
        aggregate::jackknife_half_width_95(&without_one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts_of(pairs: &[(&str, &str)]) -> Counts {
        pairs.iter().map(|(reference, hypothesis)| Counts::of(reference, hypothesis)).sum()
    }

    #[test]
    fn corpora_by_sacrebleu() {
        // `sacrebleu.corpus_bleu(hypotheses, [references])` of sacrebleu 1.5.0.
        for (pairs, score, correct, total) in [
            (&[("the cat sat on the mat", "")][..], 0.0, [0; 4], [0; 4]),
            (&[("a b c", "a b c")], 0.0, [3, 2, 1, 0], [3, 2, 1, 0]),
            (&[("a b c d", "x y z w")], 7.986_788_803_078_408, [0; 4], [4, 3, 2, 1]),
            (&[("the cat sat on the mat.", "the cat sat on a mat.")], 48.892_302_243_490_086, [6, 4, 2, 1], [7, 6, 5, 4]),
            (&[("a b c d e", "a b c d e"), ("f g h", "f")], 71.653_131_057_378_96, [6, 4, 3, 2], [6, 4, 3, 2]),
            (&[("the the the the", "the the")], 0.0, [2, 1, 0, 0], [2, 1, 0, 0]),
        ] {
            let counts = counts_of(pairs);
            let bleu = counts.bleu();
            assert_eq!((counts.correct, counts.total), (correct, total), "{pairs:?}");
            assert!((bleu.score - score).abs() <= 1e-12 * score, "{pairs:?}: {} is not {score}", bleu.score);
        }
    }

    #[test]
    fn japanese_is_stripped_and_segmented() {
        let characters = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        let resources = Resources { segment: Some(&characters), ..Resources::default() };
        let reference = Reference::of(["\u{3000}東京です\u{1c}"]);
        let evidence = [Evidence::Text(" 東京でした".into())];
        assert_eq!(Bleu::Nagisa.score(&resources, &reference, &evidence).stats, [5.0, 4.0, 3.0, 2.0, 1.0, 0.0, 5.0, 4.0, 3.0, 2.0]);
        assert_eq!(Bleu::Plain.score(&Resources::default(), &reference, &evidence).stats[..2], [1.0, 1.0]);
        assert_eq!(Bleu::Nagisa.score(&resources, &reference, &[]).stats[..2], [0.0, 4.0]);
    }

    proptest! {
        #[test]
        fn counts_add_up_and_scores_are_within_bounds(
            corpus in prop::collection::vec(("[ab.0\u{3000}, -]{0,12}", "[ab.0\u{3000}, -]{0,12}"), 1..9),
            cut in 0..9usize,
        ) {
            let scores: Vec<Score> = corpus
                .iter()
                .map(|(r, h)| Bleu::Plain.score(&Resources::default(), &Reference::of([r.clone()]), &[Evidence::Text(h.clone())]))
                .collect();
            let (head, tail) = scores.split_at(cut.min(scores.len()));
            let sum = |part: &[Score]| part.iter().map(Counts::of_score).sum::<Counts>();
            let mut both = sum(head);
            both += sum(tail);
            let turned: Vec<Score> = scores.iter().rev().cloned().collect();
            let corpus_score = Bleu::Plain.aggregate(&scores).expect("documents");
            prop_assert_eq!(both, sum(&scores));
            prop_assert_eq!(both.bleu().score / 100.0, corpus_score);
            prop_assert_eq!(Bleu::Plain.aggregate(&turned), Some(corpus_score));
            for value in scores.iter().map(|s| s.value).chain([corpus_score]) {
                prop_assert!((0.0..=1.0 + 1e-12).contains(&value), "{}", value);
            }
            for n in 0..ORDER {
                prop_assert!(both.correct[n] <= both.total[n] && both.total[n] <= both.sys_len);
            }
        }
    }
}
