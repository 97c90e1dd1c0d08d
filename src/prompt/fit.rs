//! What the JP harness does to a prompt that is too long for the model. Both rules count tokens of the evaluated model, without special
//! tokens; where its tokenizer is not at hand, every prompt is taken to fit.

use crate::engine::{Cleanup, ModelFacts, Truncation};
use crate::task::{Fit, RequestRule, document::Document};
use crate::text::{
    cleanup::clean_up_tokenization,
    tokenizer::{Special, Specials, Tokenizer, TokenizerError},
};

/// Why a prompt cannot be fitted.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// The text cannot be taken apart again. Upstream dies of a ValueError here.
    #[error(
        "the prompt of document {document} is too long for the model, and its texts cannot be cut: between two {begin:?} there must be one {end:?}, not {found}"
    )]
    Marker {
        /// Document id.
        document: String,
        /// What every text begins with.
        begin: String,
        /// What follows every text.
        end: String,
        /// How often it was found.
        found: usize,
    },
    /// The tokenizer does not take a text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Prompt and answer together, in tokens.
pub fn length(rule: &RequestRule, facts: &ModelFacts) -> usize {
    rule.truncation.map_or(usize::MAX, |t: Truncation| t.length(facts.max_positions) as usize)
}

/// What a prompt may have so that the answer fits too.
pub fn prompt_length(rule: &RequestRule, facts: &ModelFacts) -> usize {
    length(rule, facts).saturating_sub(rule.max_new_tokens as usize)
}

/// Tokens of a text, without special tokens.
///
/// # Errors
/// [`TokenizerError::Encode`].
pub fn count(tokenizer: &Tokenizer, text: &str) -> Result<usize, TokenizerError> {
    Ok(tokenizer.encode(text, Special::None)?.len())
}

/// Whether a prompt leaves room for the answer.
///
/// # Errors
/// [`TokenizerError::Encode`].
pub fn fits(prompt: &str, rule: &RequestRule, facts: &ModelFacts) -> Result<bool, TokenizerError> {
    match &facts.tokenizer {
        Some(tokenizer) => Ok(count(tokenizer, prompt)? <= prompt_length(rule, facts)),
        None => Ok(true),
    }
}

/// [`Fit::CutSentences`]: the prompt as upstream's `preprocess_ctx` leaves it. A text that is short enough stays whole, so the result may
/// still be too long; the engine then cuts on the left.
///
/// # Errors
/// [`FitError`].
pub fn cut_sentences(prompt: String, document: &Document, fit: &Fit, rule: &RequestRule, facts: &ModelFacts) -> Result<String, FitError> {
    let (Fit::CutSentences { begin, end, sentence_end, reserve }, Some(tokenizer)) = (fit, &facts.tokenizer) else { return Ok(prompt) };
    let budget = length(rule, facts).saturating_sub(count(tokenizer, &document.gold)? + reserve);
    if count(tokenizer, &prompt)? <= budget {
        return Ok(prompt);
    }
    let mut pieces = prompt.split(begin.as_str());
    let mut fitted = pieces.next().unwrap_or_default().to_owned();
    let pieces: Vec<&str> = pieces.collect();
    for piece in &pieces {
        let parts: Vec<&str> = piece.split(end.as_str()).collect();
        let [body, rest] = parts[..] else {
            let (document, begin, end) = (document.id.clone(), begin.clone(), end.clone());
            return Err(FitError::Marker { document, begin, end, found: parts.len() - 1 });
        };
        fitted += &whole_sentences(&format!("{begin}{body}"), sentence_end, budget / pieces.len(), rule.cleanup, tokenizer)?;
        fitted += end;
        fitted += rest;
    }
    Ok(fitted)
}

/// The first sentences of a text that have at most `limit` tokens together; of a longer first sentence, its first `limit` tokens.
fn whole_sentences(text: &str, end: &str, limit: usize, cleanup: Cleanup, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
    let mut taken: Option<usize> = None;
    let sentence_ends = text.match_indices(end).map(|(at, _)| at).chain([text.len()]);
    for until in sentence_ends {
        if count(tokenizer, &text[..until])? <= limit {
            taken = Some(until);
            continue;
        }
        let Some(until) = taken else {
            let ids = tokenizer.encode(&text[..until], Special::None)?;
            let cut = tokenizer.decode(&ids[..limit.min(ids.len())], Specials::Skip);
            let cut = if cleanup == Cleanup::On { clean_up_tokenization(&cut) } else { cut };
            return Ok(cut + "\n");
        };
        return Ok(format!("{}{end}\n", &text[..until]));
    }
    Ok(text.to_owned())
}
