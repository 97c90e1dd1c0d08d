//! The closed list of named clean-up steps of task files.

use super::number::last_number;
use crate::task::{Pattern, Step, Take};
use crate::text::python::{strip, without_punctuation};
use unicode_normalization::UnicodeNormalization;

/// Applies the steps in order.
pub fn apply(steps: &[Step], text: &str) -> String {
    steps.iter().fold(text.to_owned(), |text, step| one(step, text))
}

/// What stands for an answer that a pattern does not find (lm-eval v0.4.2 `lm_eval/filters/extraction.py:13`).
const INVALID: &str = "[invalid]";

fn one(step: &Step, text: String) -> String {
    match step {
        // llm-jp-eval v1.3.0 utils.py:146: `text.split("\n\n")[0]`; nothing is stripped.
        Step::BeforeBlankLine => text.split_once("\n\n").map(|(before, _)| before.to_owned()).unwrap_or(text),
        // utils.py:146,149: `unicodedata.normalize("NFKC", ...)`.
        Step::Nfkc => text.nfkc().collect(),
        Step::LastNumber => last_number(&text),
        // lm-eval v0.4.2 lm_eval/filters/transformation.py, `remove_whitespace`.
        Step::WithoutLeadingBlank => text.strip_prefix(' ').map(str::to_owned).unwrap_or(text),
        Step::Find { pattern, take } => find(pattern, *take, &text),
        Step::Remove { pattern } => pattern.replace_all(&text, "").into_owned(),
        Step::WithoutFinalPeriod => without_final_period(text),
        Step::WithoutPunctuation => without_punctuation(&text),
        Step::NumpyLower => {
            // An array of numpy has a fixed width, and what lowering makes longer (only U+0130 does) is cut to it.
            let lowered: String = text.to_lowercase().chars().take(text.chars().count()).collect();
            lowered.trim_end_matches('\0').to_owned()
        }
        Step::NumpyText => text.trim_end_matches('\0').to_owned(),
    }
}

/// lm-eval v0.4.2 `lm_eval/filters/extraction.py:20-42`.
fn find(pattern: &Pattern, take: Take, text: &str) -> String {
    let mut matches = pattern.captures_iter(text);
    let found = match take {
        Take::First => matches.next(),
        Take::Last => matches.last(),
    };
    let Some(groups) = found else { return INVALID.to_owned() };
    let filled = groups.iter().skip(1).flatten().map(|group| group.as_str()).find(|group| !group.is_empty());
    strip(filled.unwrap_or_default()).to_owned()
}

/// Python's `re.sub(r"\.$", "", text)`: `$` also stands before a line feed that ends the text.
fn without_final_period(mut text: String) -> String {
    let end = text.len() - usize::from(text.ends_with('\n'));
    if text[..end].ends_with('.') {
        text.remove(end - 1);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_in_order() {
        use Step::{BeforeBlankLine, Nfkc, NumpyLower, NumpyText, WithoutFinalPeriod, WithoutLeadingBlank, WithoutPunctuation};
        for (steps, text, expected) in [
            (&[BeforeBlankLine, Nfkc][..], "２\n\n### 入力:", "2"),
            (&[BeforeBlankLine], "\n\nYES", ""),
            (&[BeforeBlankLine], "a\r\n\r\nb", "a\r\n\r\nb"),
            (&[BeforeBlankLine], "a\n \nb", "a\n \nb"),
            (&[BeforeBlankLine], "a\n\n\nb", "a"),
            (&[Nfkc], "①Ａｱ゛㍻℃\u{3000}", "1Aア \u{3099}平成°C "),
            (&[Nfkc], " A\n", " A\n"),
            (&[], "　", "　"),
            (&[WithoutLeadingBlank], "  a ", " a "),
            (&[WithoutLeadingBlank], "\na", "\na"),
            (&[WithoutFinalPeriod], "5.\n", "5\n"),
            (&[WithoutFinalPeriod], "5..", "5."),
            (&[WithoutFinalPeriod], "5.\n\n", "5.\n\n"),
            (&[WithoutFinalPeriod], ".", ""),
            (&[NumpyLower], "\u{130}B", "i\u{307}"),
            (&[NumpyLower], "\u{130}B\0\0", "i\u{307}b"),
            (&[NumpyText], "a\0b\0", "a\0b"),
            (&[WithoutPunctuation], "!a_b’c~", "ab’c"),
        ] {
            assert_eq!(apply(steps, text), expected, "{text:?}");
        }
    }
}
