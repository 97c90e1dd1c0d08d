//! Hugging Face's `clean_up_tokenization_spaces`.

/// The replacements of `PreTrainedTokenizerBase.clean_up_tokenization`, in their order
/// (transformers v4.43.4 `tokenization_utils_base.py:4055-4066`).
const REPLACEMENTS: [(&str, &str); 10] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

/// Applies the ten replacements of `clean_up_tokenization`, one after the other, to the whole text.
pub fn clean_up_tokenization(text: &str) -> String {
    REPLACEMENTS.iter().fold(text.to_owned(), |text, (from, to)| if text.contains(from) { text.replace(from, to) } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacements_run_in_order_over_the_whole_text() {
        for (input, expected) in [
            ("It is here .", "It is here."),
            ("do n't", "don't"),
            ("it 's , no ?", "it's, no?"),
            ("a ' b", "a'b"),
            ("日本 。", "日本 。"),
            ("a  .", "a ."),
        ] {
            assert_eq!(clean_up_tokenization(input), expected, "{input:?}");
        }
    }
}
