//! sacrebleu's tokenizer `13a` (mteval-v13a's rules): the words BLEU counts.
//!
//! sacrebleu 1.5.0 `tokenizers/tokenizer_13a.py`, `tokenizers/tokenizer_re.py`. White space is Python's, U+001C to U+001F included. The crate
//! `sacrebleu-rs` 0.1.0 ports sacrebleu 2.6.0 with Rust's white space, and differs.

use crate::text::python::is_space;
use regex::Regex;
use std::sync::LazyLock;

/// Replaced one after the other.
const ENTITIES: [(&str, &str); 7] =
    [("<skipped>", ""), ("-\n", ""), ("\n", " "), ("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")];

static RULES: LazyLock<[(Regex, &str); 4]> = LazyLock::new(|| {
    let rule = |pattern, replacement| (Regex::new(pattern).expect("a constant pattern"), replacement);
    [
        // ASCII punctuation and symbols but ' , - .
        rule(r"([{-~\[-` -&(-+:-@/])", " $1 "),
        // A period or comma not after a digit, then one not before a digit.
        rule(r"([^0-9])([.,])", "$1 $2 "),
        rule(r"([.,])([^0-9])", " $1 $2"),
        // A dash after a digit.
        rule(r"([0-9])(-)", "$1 $2 "),
    ]
});

/// The tokens of a segment, separated by one space. White space at the end of `text` goes first, as `corpus_bleu` does it.
pub fn tokenize(text: &str) -> String {
    let text = ENTITIES.iter().fold(text.trim_end_matches(is_space).to_owned(), |text, (from, to)| text.replace(from, to));
    let text = RULES.iter().fold(format!(" {text} "), |text, (rule, to)| rule.replace_all(&text, *to).into_owned());
    text.split(is_space).filter(|t| !t.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_by_sacrebleu() {
        for (text, expected) in [
            ("", ""),
            ("...", ". . ."),
            ("3-4, 1,234.5", "3 - 4 , 1,234.5"),
            ("1.", "1 ."),
            ("U.S.A.", "U . S . A ."),
            ("don't", "don't"),
            ("&amp;lt;", "<"),
            ("&quot;x&quot;", "\" x \""),
            ("a-\nb\nc", "ab c"),
            ("\u{1c}a\u{1d}", "a"),
            ("東京\u{3000}です。", "東京 です。"),
        ] {
            assert_eq!(tokenize(text), expected, "{text:?}");
        }
    }
}
