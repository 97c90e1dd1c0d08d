//! Texts to token ids of requests, and token ids to the text of an answer.

use crate::engine::{Bos, Decode, LogLikelihood};
use crate::text::python::is_space;
use crate::text::stop::cut_at_stop;
use crate::text::tokenizer::{Special, Specials, Tokenizer, TokenizerError};

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

/// Cuts a prompt on its left: the last `n` tokens stay.
pub fn keep_last(prompt: &mut Vec<u32>, n: usize) {
    prompt.drain(..prompt.len().saturating_sub(n));
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

/// Token ids of a context and a continuation, as lm-eval makes them (v0.4.2 `lm_eval/api/model.py:294-329`): blanks at the end of the
/// context belong to the continuation; the continuation is what the whole has beyond the length of the context. `prefix` stands in for an
/// empty context, and the continuation then gets the special tokens. Either part may come out empty, where v0.4.2 fails.
///
/// # Errors
/// [`TokenizerError::Encode`].
pub fn split(
    tokenizer: &Tokenizer,
    context: &str,
    continuation: &str,
    bos: Bos,
    prefix: Option<u32>,
) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
    if context.is_empty() {
        return Ok((prefix.into_iter().collect(), tokenizer.encode(continuation, special(bos))?));
    }
    let mut rest = tokenizer.encode(&format!("{context}{continuation}"), special(bos))?;
    let kept = tokenizer.encode(context.trim_end_matches(is_space), special(bos))?;
    rest.drain(..kept.len().min(rest.len()));
    Ok((kept, rest))
}

/// The same, but where nothing is left of the continuation both are encoded alone, each with its own blanks.
///
/// Either part may come out empty; there is nothing to score then, and the caller must say so.
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
    let (kept, rest) = split(tokenizer, context, continuation, bos, prefix)?;
    if context.is_empty() {
        return Ok((kept, rest, PairEncoding::PrefixToken));
    }
    if rest.is_empty() {
        let alone = (tokenizer.encode(context, special(bos))?, tokenizer.encode(continuation, Special::None)?);
        return Ok((alone.0, alone.1, PairEncoding::Separate));
    }
    Ok((kept, rest, PairEncoding::Pair))
}

/// [`scored_pair`], cut on its left where the protocol cuts it to a model of so many positions. Every engine scores these.
///
/// # Errors
/// Why there is nothing to score; a continuation that fills the model's window by itself has nothing before it.
pub fn fitted_pair(
    tokenizer: &Tokenizer,
    scored: &LogLikelihood,
    continuation: &str,
    max_positions: Option<u32>,
) -> Result<(Vec<u32>, Vec<u32>), String> {
    let (mut context, mut tokens) = scored_pair(tokenizer, scored, continuation)?;
    if let Some(truncation) = scored.rules.truncation {
        let window = truncation.length(max_positions);
        cut_left(&mut context, &mut tokens, window as usize);
        if context.is_empty() {
            return Err(format!("the continuation {continuation:?} is longer than the {window} positions of the model"));
        }
    }
    Ok((context, tokens))
}

/// Token ids of one continuation of a request after its context, as [`pair`] makes them with the tokenizer's end token before an empty
/// context.
///
/// # Errors
/// Why there is nothing to score.
pub fn scored_pair(tokenizer: &Tokenizer, scored: &LogLikelihood, continuation: &str) -> Result<(Vec<u32>, Vec<u32>), String> {
    let prefix = tokenizer.eos_id();
    let (context, tokens, _) = pair(tokenizer, &scored.context, continuation, scored.rules.bos, prefix).map_err(|e| e.to_string())?;
    if tokens.is_empty() {
        return Err(format!("the continuation {continuation:?} has no token: its log-likelihood does not exist"));
    }
    if context.is_empty() {
        return Err("the context has no token, and the tokenizer has none to put before it".into());
    }
    Ok((context, tokens))
}

/// Cuts a pair from the left so that a model of `window` positions can score it: of context and continuation the last `window + 1` tokens
/// stay, the last of which is never an input (lm-eval v0.4.2 `lm_eval/models/huggingface.py`, `_loglikelihood_tokens`). A protocol that
/// does not truncate does not call this.
pub fn cut_left(context: &mut Vec<u32>, continuation: &mut Vec<u32>, window: usize) {
    let excess = (context.len() + continuation.len()).saturating_sub(window + 1);
    let from_context = excess.min(context.len());
    context.drain(..from_context);
    continuation.drain(..excess - from_context);
}

/// Text of new tokens.
pub fn answer(tokenizer: &Tokenizer, prompt: &[u32], new: &[u32], decode: Decode) -> String {
    match decode {
        Decode::Alone => tokenizer.decode(new, Specials::Skip),
        Decode::WithSpecials => tokenizer.decode(new, Specials::Keep),
        Decode::AfterPrompt => {
            // As transformers' text-generation pipeline cuts: by the number of characters of the decoded prompt.
            let cut = tokenizer.decode(prompt, Specials::Skip).chars().count();
            let whole = tokenizer.decode(&[prompt, new].concat(), Specials::Skip);
            whole.chars().skip(cut).collect()
        }
    }
}

/// Stop strings of one generation, looked for while it runs.
///
/// The whole answer need not be decoded at every token: a new match ends in the last token, so the tokens that cover the longest stop
/// string are enough to see it. What they show is then confirmed on the whole answer, which alone decides.
#[derive(Clone, Debug)]
pub struct Stops {
    texts: Vec<String>,
    decode: Decode,
    /// Tokens at the end that cover the longest text, a character cut in two and a blank that a decoder takes off the beginning.
    window: usize,
}

impl Stops {
    /// Looks for any of `texts`; empty ones never match.
    pub fn new(texts: impl IntoIterator<Item = String>, decode: Decode) -> Self {
        const CUT_CHARACTER_AND_BLANK: usize = 5;
        let texts: Vec<String> = texts.into_iter().filter(|t| !t.is_empty()).collect();
        let window = texts.iter().map(String::len).max().unwrap_or(0) + CUT_CHARACTER_AND_BLANK;
        Stops { texts, decode, window }
    }

    /// Whether a stop string stands in the answer so far, given that none stood there one token earlier.
    pub fn reached(&self, tokenizer: &Tokenizer, prompt: &[u32], new: &[u32]) -> bool {
        if self.texts.is_empty() || !self.may_be_reached(tokenizer, new) {
            return false;
        }
        cut_at_stop(&answer(tokenizer, prompt, new, self.decode), &self.texts).1
    }

    /// The answer before the earliest stop string, and whether there is one.
    pub fn cut(&self, tokenizer: &Tokenizer, prompt: &[u32], new: &[u32]) -> (String, bool) {
        let text = answer(tokenizer, prompt, new, self.decode);
        let (kept, stopped) = cut_at_stop(&text, &self.texts);
        (kept.to_owned(), stopped)
    }

    /// Whether the last tokens show a stop string, or cannot show that there is none.
    fn may_be_reached(&self, tokenizer: &Tokenizer, new: &[u32]) -> bool {
        if new.len() <= self.window {
            return true;
        }
        let tail = tokenizer.decode(&new[new.len() - self.window..], Specials::Skip);
        // A window that begins inside a character, or holds tokens without text, proves nothing.
        tail.contains(char::REPLACEMENT_CHARACTER) || tail.len() < self.window || cut_at_stop(&tail, &self.texts).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{TokenRules, Truncation};
    use proptest::prelude::*;

    #[test]
    fn cut_left_keeps_one_token_more_than_the_window() {
        for (context, continuation, window, expected) in [
            (vec![1, 2, 3], vec![4], 10, (vec![1, 2, 3], vec![4])),
            (vec![1, 2, 3], vec![4], 3, (vec![1, 2, 3], vec![4])),
            (vec![1, 2, 3], vec![4], 2, (vec![2, 3], vec![4])),
            (vec![1], vec![2, 3, 4], 2, (vec![], vec![2, 3, 4])),
            (vec![1], vec![2, 3, 4], 1, (vec![], vec![3, 4])),
        ] {
            let mut cut = (context, continuation);
            cut_left(&mut cut.0, &mut cut.1, window);
            assert_eq!(cut, expected, "window {window}");
        }
    }

    #[test]
    fn a_pair_is_cut_to_the_model_where_the_protocol_cuts() {
        let rules = |truncation| TokenRules { truncation, bos: Bos::Never, ..TokenRules::default() };
        let asked =
            |truncation| LogLikelihood { context: "東京の天気は".repeat(20), continuations: vec![], rules: rules(truncation) };
        let no_limit = Truncation { max_length: u32::MAX };
        let tokenizer = demo();
        let (whole, tokens) = fitted_pair(&tokenizer, &asked(None), "晴れ", Some(9)).expect("a pair");
        assert_eq!(fitted_pair(&tokenizer, &asked(Some(no_limit)), "晴れ", None), Ok((whole.clone(), tokens.clone())));
        let (cut, same) = fitted_pair(&tokenizer, &asked(Some(no_limit)), "晴れ", Some(9)).expect("a pair");
        assert_eq!((cut.len() + same.len(), &same), (10, &tokens));
        assert!(whole.ends_with(&cut));
        let error = fitted_pair(&tokenizer, &asked(Some(no_limit)), &"晴れ".repeat(9), Some(4)).expect_err("nothing before it");
        assert!(error.contains("4 positions"), "{error}");
    }

    fn demo() -> Tokenizer {
        let file = |name| crate::engine::demo::FILES.into_iter().find(|(n, _)| *n == name).expect("a file of the demo model").1;
        Tokenizer::from_bytes(file("tokenizer.json"), Some(file("tokenizer_config.json")), None).expect("valid")
    }

    proptest! {
        /// Whatever tokens a model emits, special ones and halves of characters included: the window finds what the whole text has, at the
        /// same token.
        #[test]
        fn stops_are_seen_at_the_token_that_completes_them(ids in proptest::collection::vec(0..2000u32, 1..80), at in 0..60usize, len in 1..4usize) {
            let tokenizer = demo();
            let ids: Vec<u32> = ids.into_iter().map(|id| id % tokenizer.vocabulary() as u32).collect();
            let prompt = tokenizer.encode("質問：", Special::Add).expect("encodes");
            let whole = answer(&tokenizer, &prompt, &ids, Decode::AfterPrompt);
            let stop: String = whole.chars().skip(at % whole.chars().count().max(1)).take(len).collect();
            let stops = Stops::new([stop.clone()], Decode::AfterPrompt);
            for n in 1..=ids.len() {
                let expected = !stop.is_empty() && answer(&tokenizer, &prompt, &ids[..n], Decode::AfterPrompt).contains(&stop);
                prop_assert_eq!(stops.reached(&tokenizer, &prompt, &ids[..n]), expected, "{:?} after {} tokens", stop, n);
                if expected {
                    break;
                }
            }
        }
    }
}
