//! Texts to token ids of requests, and token ids to the text of an answer.

use crate::engine::{Bos, Decode};
use crate::text::tokenizer::{Special, Specials, Tokenizer, TokenizerError};

/// Tokens of the prompt's end that are decoded together with new tokens: a decoder treats only the beginning of its input in a special way.
const CONTEXT: usize = 8;

/// Token ids of a prompt.
///
/// # Errors
/// [`TokenizerError::Encode`].
pub fn prompt(tokenizer: &Tokenizer, text: &str, bos: Bos) -> Result<Vec<u32>, TokenizerError> {
    tokenizer.encode(text, special(bos))
}

fn special(bos: Bos) -> Special {
    match bos {
        Bos::Tokenizer => Special::Add,
        Bos::Never => Special::None,
    }
}

/// How a pair of context and continuation became ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairEncoding {
    /// The continuation is what `encode(context + continuation)` has beyond `encode(context)`.
    Pair,
    /// That left nothing, because a merge swallowed it: both were encoded alone.
    Separate,
    /// The context is empty: one token stands in for it.
    PrefixToken,
}

/// Token ids of a context and a continuation. Blanks at the end of the context belong to the continuation. `prefix` stands in for an empty
/// context.
///
/// # Errors
/// [`TokenizerError::Encode`].
pub fn pair(
    tokenizer: &Tokenizer,
    context: &str,
    continuation: &str,
    bos: Bos,
    prefix: Option<u32>,
) -> Result<(Vec<u32>, Vec<u32>, PairEncoding), TokenizerError> {
    if context.is_empty() {
        let continuation = tokenizer.encode(continuation, Special::None)?;
        return Ok((prefix.into_iter().collect(), continuation, PairEncoding::PrefixToken));
    }
    let kept = context.trim_end();
    let continuation = format!("{}{continuation}", &context[kept.len()..]);
    let whole = tokenizer.encode(&format!("{kept}{continuation}"), special(bos))?;
    let context = tokenizer.encode(kept, special(bos))?;
    if whole.len() > context.len() {
        let rest = whole[context.len()..].to_vec();
        return Ok((whole[..context.len()].to_vec(), rest, PairEncoding::Pair));
    }
    Ok((context, tokenizer.encode(&continuation, Special::None)?, PairEncoding::Separate))
}

/// Text of new tokens, special tokens skipped.
pub fn answer(tokenizer: &Tokenizer, prompt: &[u32], new: &[u32], decode: Decode) -> String {
    match decode {
        Decode::Alone => tokenizer.decode(new, Specials::Skip),
        Decode::AfterPrompt => {
            let context = &prompt[prompt.len().saturating_sub(CONTEXT)..];
            // As transformers' text-generation pipeline cuts: by the number of characters of the decoded prompt.
            let cut = tokenizer.decode(context, Specials::Skip).chars().count();
            let whole = tokenizer.decode(&[context, new].concat(), Specials::Skip);
            whole.chars().skip(cut).collect()
        }
    }
}
