//! Share of problems that got any code at all, right or wrong.
//!
//! swallow-evaluation v202407, `bigcode-evaluation-harness/bigcode_eval/custom_utils.py`: a sample is empty for a quote style when nothing
//! but white space and double quotes follows the last such quote; a problem has no answer when all its samples are empty for `'''`, or all
//! for `"""`.

use super::{Evidence, Metric, Reference, Resources, Score};

/// 1 for a problem with an answer, else 0. Reads [`Evidence::Text`], the whole code of each sample, prompt included.
pub struct AnswerRatio;

/// Whether a problem has an answer among these samples.
pub fn answered<'s>(samples: impl Iterator<Item = &'s str> + Clone) -> bool {
    !["'''", "\"\"\""].into_iter().any(|quote| samples.clone().all(|code| empty_after(code, quote)))
}

fn empty_after(code: &str, quote: &str) -> bool {
    let rest = code.rsplit_once(quote).map_or(code, |(_, rest)| rest);
    rest.chars().all(|c| c.is_whitespace() || c == '"')
}

impl Metric for AnswerRatio {
    fn name(&self) -> &'static str {
        "answer_ratio"
    }

    fn score(&self, _: &Resources<'_>, _: &Reference, evidence: &[Evidence]) -> Score {
        let samples = evidence.iter().filter_map(|e| if let Evidence::Text(code) = e { Some(code.as_str()) } else { None });
        Score::of(f64::from(u8::from(answered(samples))))
    }

    /// Upstream's order of operations: 1 less the share without an answer.
    fn aggregate(&self, scores: &[Score]) -> Option<f64> {
        let without = scores.iter().filter(|s| s.value == 0.0).count();
        (!scores.is_empty()).then(|| 1.0 - without as f64 / scores.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_an_answer_when_some_sample_goes_on_after_its_docstring() {
        let doc = "def f():\n    \"\"\"Say.\"\"\"\n";
        for (tails, expected) in [
            (&["    return 1\n"][..], true),
            (&["", "  \n\t"], false),
            (&["", "    # only a comment"], true),
            (&["\"\"\"", "\"\" \""], false),
            // Without the quote the whole text counts, and so does what follows the other quote.
            (&["    '''", "\u{3000}\n"], true),
            (&["    '''", "    '''\u{3000}\n"], false),
        ] {
            let samples: Vec<String> = tails.iter().map(|tail| format!("{doc}{tail}")).collect();
            assert_eq!(answered(samples.iter().map(String::as_str)), expected, "{tails:?}");
        }
        let single = ["def f():\n    '''Say.'''\n", "def f():\n    '''Say.'''\n    "];
        assert!(!answered(single.into_iter()), "single quotes are a style of their own");
    }

    #[test]
    fn the_share_without_an_answer_is_taken_from_one() {
        let scores: Vec<Score> = [1.0, 0.0, 0.0, 0.0, 0.0].map(Score::of).to_vec();
        assert_eq!(AnswerRatio.aggregate(&scores), Some(0.19999999999999996));
        assert_eq!(AnswerRatio.aggregate(&[]), None);
    }
}
