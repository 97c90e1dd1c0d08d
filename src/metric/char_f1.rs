//! llm-jp-eval's `char_f1`, which is not an F1 over characters but `fuzzywuzzy.fuzz.token_sort_ratio(pred, gold) / 100`.
//!
//! llm-jp-eval v1.3.0 `utils.py:187-191` with fuzzywuzzy 0.18.0 (`fuzz.py:token_sort_ratio`, `utils.py:full_process`,
//! `string_processing.py`) on python-Levenshtein 0.21.1 (`ratio` = normalised Indel similarity).

use super::{Evidence, Metric, Reference, Resources, Score, aggregate};
use crate::text::python::is_word;
use rapidfuzz::distance::indel;

/// Similarity of the sorted tokens of answer and first reference text, rounded to two decimals.
pub struct CharF1;

impl Metric for CharF1 {
    fn name(&self) -> &'static str {
        "char_f1"
    }

    fn score(&self, _: &Resources<'_>, reference: &Reference, evidence: &[Evidence]) -> Score {
        Score::of(match (evidence.first(), reference.texts.first()) {
            (Some(Evidence::Text(answer)), Some(gold)) => char_f1(answer, gold),
            _ => 0.0,
        })
    }

    fn aggregate(&self, scores: &[Score]) -> Option<f64> {
        aggregate::exact_mean(scores.iter().map(|s| s.value))
    }
}

/// `token_sort_ratio / 100`: one of 0.00, 0.01, ..., 1.00.
///
/// Equal token strings give 1, also when both are empty; one empty side gives 0.
pub fn char_f1(answer: &str, gold: &str) -> f64 {
    let (a, g) = (sorted_tokens(answer), sorted_tokens(gold));
    if a == g {
        return 1.0;
    }
    if a.is_empty() || g.is_empty() {
        return 0.0;
    }
    let ratio = indel::normalized_similarity(a.chars(), g.chars());
    (100.0 * ratio).round_ties_even() / 100.0
}

/// fuzzywuzzy's `full_process(force_ascii=True)` and token sort: U+0080..U+00FF vanish, other non-word characters become blanks, lower
/// case, tokens in code-point order.
fn sorted_tokens(text: &str) -> String {
    let kept: String = text.chars().filter(|c| !('\u{80}'..='\u{ff}').contains(c)).map(|c| if is_word(c) { c } else { ' ' }).collect();
    let lower = kept.to_lowercase();
    let mut tokens: Vec<&str> = lower.split(' ').filter(|t| !t.is_empty()).collect();
    tokens.sort_unstable();
    tokens.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ugly_cases() {
        for (answer, gold, expected) in [
            ("", "", 1.0),
            ("。", "○", 1.0),
            ("。", "東京", 0.0),
            ("はい", "YES", 0.0),
            ("yes", "YES", 1.0),
            ("B,A", "A,B", 1.0),
            ("Café", "caf", 1.0),
            ("A·B", "ab", 1.0),
            ("長嶋茂雄。", "長嶋茂雄", 1.0),
            ("答え:小満芒種", "小満芒種", 0.73),
            ("熱中症_学生支部", "熱中症", 0.55),
            ("NO,サム・ライミ", "NO", 0.36),
        ] {
            assert_eq!(char_f1(answer, gold), expected, "{answer:?} {gold:?}");
        }
    }
}
