//! Which prompts the JP harness answers together: pairs of neighbours, in order of length (`lm_eval/utils.py`, `Reorderer` and `chunks`).
//! It matters only where the longer one is cut ([`crate::task::Defect::LostTokens`]).

/// The batch a prompt is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Position of a document with the other prompt of the batch; `None` for the last prompt of an odd number.
    pub partner: Option<usize>,
    /// Tokens of the longer prompt: to as many the shorter one is padded.
    pub padded: usize,
}

/// The batch of every prompt. Equal prompts are answered once; the others stand in order of tokens, then of code points.
pub fn batches(prompts: &[&str], tokens: &[usize]) -> Vec<Batch> {
    let key = |at: usize| (tokens[at], prompts[at]);
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|at| key(*at));
    let mut distinct = order.clone();
    distinct.dedup_by_key(|at| key(*at));
    let mut batches = vec![Batch { partner: None, padded: 0 }; prompts.len()];
    let mut of_equal = order.chunk_by(|a, b| key(*a) == key(*b));
    for pair in distinct.chunks(2) {
        let padded = tokens[pair[pair.len() - 1]];
        for (at, _) in pair.iter().enumerate() {
            let partner = (pair.len() == 2).then(|| pair[1 - at]);
            for equal in of_equal.next().unwrap_or_default() {
                batches[*equal] = Batch { partner, padded };
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_by_tokens_then_text_equal_prompts_once() {
        let prompts = ["long", "b", "a", "b", "longest"];
        let batches = batches(&prompts, &[4, 1, 1, 1, 7]);
        let expected = [(Some(4), 7), (Some(2), 1), (Some(1), 1), (Some(2), 1), (Some(0), 7)];
        assert_eq!(batches, expected.map(|(partner, padded)| Batch { partner, padded }));
    }

    #[test]
    fn the_last_of_an_odd_number_is_alone() {
        assert_eq!(batches(&["x"], &[9]), [Batch { partner: None, padded: 9 }]);
        assert_eq!(batches(&["x", "y", "z"], &[3, 2, 1])[0], Batch { partner: None, padded: 3 });
        assert!(batches(&[], &[]).is_empty());
    }
}
