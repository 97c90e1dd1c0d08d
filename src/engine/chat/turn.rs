//! From new tokens to the answer of a turn, as FastChat makes it: what it leaves is judged, and stands in the prompt of the next turn.
//!
//! `fastchat/llm_judge/gen_model_answer.py:136-172` of swallow-llm/swallow-evaluation, tag v202407. A token that is no stop id of the
//! template and no special token of the tokenizer stays in the text (`<|end_of_text|>` of Llama 3 where `<|eot_id|>` is the end token).

use super::fastchat::Family;
use crate::text::python::is_space;

/// What the original takes for an answer whose generation raised a `RuntimeError`. This program never makes one: a failure of the engine
/// is a failed request.
pub const RAISED: &str = "ERROR";

/// The tokens before the first that is a stop id of the template.
pub fn before_stop_id(family: Family, ids: &[u32]) -> &[u32] {
    let end = ids.iter().position(|id| family.stop_token_ids().contains(id)).unwrap_or(ids.len());
    &ids[..end]
}

/// The answer in a decoded text (special tokens kept): stop string, special tokens, surrounding white space, in this order.
///
/// `special_tokens` are the values of the tokenizer's `special_tokens_map`. A stop string at the very beginning does not cut: the original
/// asks for an index above zero.
pub fn answer<'t>(family: Family, decoded: &str, special_tokens: impl IntoIterator<Item = &'t str>) -> String {
    let cut = family.stop_str().and_then(|stop| decoded.find(stop)).filter(|at| *at > 0).unwrap_or(decoded.len());
    let mut text = decoded[..cut].to_owned();
    for token in special_tokens.into_iter().filter(|t| !t.is_empty()) {
        text = text.replace(token, "");
    }
    text.trim_matches(is_space).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_in_its_order() {
        for (family, decoded, specials, expected) in [
            (Family::Llama3, "\u{3000}答え\n", &["<|eot_id|>"][..], "答え"),
            (Family::Llama3, "文<|end_of_text|>中", &["<|begin_of_text|>", "<|eot_id|>"], "文<|end_of_text|>中"),
            (Family::Llama3, "<|begin_of_text|> 頭", &["<|begin_of_text|>"], "頭"),
            (Family::Qwen7bChat, "文<|endoftext|>中", &[], "文"),
            (Family::Qwen7bChat, "<|endoftext|>先頭", &["<|endoftext|>"], "先頭"),
            (Family::OneShot, "はい\n### Human: x", &[], "はい"),
        ] {
            assert_eq!(answer(family, decoded, specials.iter().copied()), expected, "{decoded}");
        }
    }

    #[test]
    fn the_first_stop_id_cuts() {
        assert_eq!(before_stop_id(Family::Llama3, &[1, 128_009, 2]), [1]);
        assert_eq!(before_stop_id(Family::Llama3, &[128_001, 2]), [128_001, 2]);
        assert_eq!(before_stop_id(Family::Qwen7bChat, &[5, 151_644, 151_645]), [5]);
        assert!(before_stop_id(Family::Swallow, &[]).is_empty());
    }
}
