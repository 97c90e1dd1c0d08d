//! The closed list of named clean-up steps of task files.

use super::number::last_number;
use crate::task::Step;
use unicode_normalization::UnicodeNormalization;

/// Applies the steps in order.
pub fn apply(steps: &[Step], text: &str) -> String {
    steps.iter().fold(text.to_owned(), |text, step| one(*step, text))
}

fn one(step: Step, text: String) -> String {
    match step {
        // llm-jp-eval v1.3.0 utils.py:146: `text.split("\n\n")[0]`; nothing is stripped.
        Step::BeforeBlankLine => text.split_once("\n\n").map(|(before, _)| before.to_owned()).unwrap_or(text),
        // utils.py:146,149: `unicodedata.normalize("NFKC", ...)`.
        Step::Nfkc => text.nfkc().collect(),
        Step::LastNumber => last_number(&text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_in_order() {
        use Step::{BeforeBlankLine, Nfkc};
        for (steps, text, expected) in [
            (&[BeforeBlankLine, Nfkc][..], "２\n\n### 入力:", "2"),
            (&[BeforeBlankLine], "\n\nYES", ""),
            (&[BeforeBlankLine], "a\r\n\r\nb", "a\r\n\r\nb"),
            (&[BeforeBlankLine], "a\n \nb", "a\n \nb"),
            (&[BeforeBlankLine], "a\n\n\nb", "a"),
            (&[Nfkc], "①Ａｱ゛㍻℃\u{3000}", "1Aア \u{3099}平成°C "),
            (&[Nfkc], " A\n", " A\n"),
            (&[], "　", "　"),
        ] {
            assert_eq!(apply(steps, text), expected, "{text:?}");
        }
    }
}
