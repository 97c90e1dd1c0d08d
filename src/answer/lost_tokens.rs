//! [`crate::task::Defect::LostTokens`]: what is left of an answer whose first tokens the JP harness throws away.
//!
//! `models/huggingface.py:509-532` cuts a batch to the model's room, generates, and `utils.py:124-141` then drops as many tokens as the batch
//! had *before* the cut. What is left depends on how long the batch ran: until both rows ended or both had shown the same stop string.

use crate::text::tokenizer::{Special, Specials, Tokenizer};

/// Token ids of the answers of one batch, each up to its end token or the limit.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'b> {
    /// The answer that is read.
    pub own: &'b [u32],
    /// The other one; `None` where the prompt was alone in its batch.
    pub beside: Option<&'b [u32]>,
    /// Limit of new tokens.
    pub max_new: usize,
    /// What fills up an answer that ended early: the tokenizer's end token.
    pub filler: u32,
}

impl Batch<'_> {
    /// How many new tokens the batch made.
    pub fn new_tokens(&self, stops: &[String], tokenizer: &Tokenizer) -> usize {
        let rows: Vec<Row> =
            [Some(self.own), self.beside].into_iter().flatten().map(|ids| Row::new(ids, self.filler, self.max_new)).collect();
        let all = |at: &dyn Fn(&Row) -> Option<usize>| rows.iter().map(at).try_fold(0, |n, step| Some(n.max(step?)));
        let by_stop = stops.iter().filter_map(|stop| {
            // Upstream's criterion looks at as many tokens as the stop string itself has.
            let window = tokenizer.encode(stop, Special::None).map_or(0, |ids| ids.len());
            all(&|row| row.shows(stop, window, tokenizer))
        });
        by_stop.chain(all(&|row| row.ended)).min().unwrap_or(self.max_new)
    }
}

/// One answer, filled up.
struct Row {
    ids: Vec<u32>,
    /// Step at which it ended by itself.
    ended: Option<usize>,
}

impl Row {
    fn new(ids: &[u32], filler: u32, max_new: usize) -> Self {
        // An answer below the limit has an end token at its end.
        let ended = (ids.len() < max_new).then_some(ids.len());
        let mut ids = ids.to_vec();
        ids.resize(max_new, filler);
        Row { ids, ended }
    }

    /// The first step at whose end the last `window` tokens show a stop string.
    fn shows(&self, stop: &str, window: usize, tokenizer: &Tokenizer) -> Option<usize> {
        (1..=self.ids.len()).find(|n| tokenizer.decode(&self.ids[n.saturating_sub(window)..*n], Specials::Keep).contains(stop))
    }
}

/// Text of an answer in a batch of `new_tokens` new tokens, less the first `lost`; special tokens skipped.
pub fn rest(ids: &[u32], new_tokens: usize, lost: usize, filler: u32, tokenizer: &Tokenizer) -> String {
    let mut ids = ids.to_vec();
    ids.resize(new_tokens, filler);
    tokenizer.decode(ids.get(lost..).unwrap_or_default(), Specials::Skip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo() -> Tokenizer {
        let file = |name| crate::engine::demo::FILES.into_iter().find(|(n, _)| *n == name).expect("a file of the demo model").1;
        Tokenizer::from_bytes(file("tokenizer.json"), Some(file("tokenizer_config.json")), None).expect("valid")
    }

    #[test]
    fn a_batch_runs_until_both_are_done() {
        let tokenizer = demo();
        let end = tokenizer.eos_id().expect("an end token");
        let ids = |text: &str| tokenizer.encode(text, Special::None).expect("encodes");
        let [word, line] = ["東", "\n"].map(|text| ids(text)[0]);
        let stops = ["\n".to_owned()];
        for (own, beside, expected) in [
            (&[word, line, word, word][..], None, 2),
            (&[word, line, word, word], Some(&[word, word, line, word][..]), 3),
            (&[word, line, word, word], Some(&[word, word, word, word]), 4),
            (&[word, end], Some(&[word, word, end]), 3),
            // One showed the stop string, the other ended: neither criterion holds for both.
            (&[word, line, word, word], Some(&[word, end]), 4),
            (&[word, line, end], Some(&[end]), 3),
        ] {
            assert_eq!(Batch { own, beside, max_new: 4, filler: end }.new_tokens(&stops, &tokenizer), expected, "{own:?} {beside:?}");
        }
    }

    #[test]
    fn the_first_tokens_are_lost_end_tokens_too() {
        let tokenizer = demo();
        let end = tokenizer.eos_id().expect("an end token");
        let ids = tokenizer.encode("東京の天気", Special::None).expect("encodes");
        assert_eq!(rest(&ids, ids.len(), 0, end, &tokenizer), "東京の天気");
        assert_eq!(rest(&ids, ids.len(), ids.len() - 1, end, &tokenizer), tokenizer.decode(&ids[ids.len() - 1..], Specials::Skip));
        assert_eq!(rest(&ids[..1], 4, 2, end, &tokenizer), "");
        assert_eq!(rest(&ids[..1], 1, 3, end, &tokenizer), "");
    }
}
