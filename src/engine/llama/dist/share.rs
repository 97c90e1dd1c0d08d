//! Which part of a model one device holds when several hold it together (Megatron-LM's split, <https://arxiv.org/abs/1909.08053>): query, key
//! and value by heads, gate and up by their outputs, the projections back into the stream by their inputs, embedding and head by vocabulary.

use crate::engine::EngineError;
use crate::engine::llama::config::Config;
use std::{borrow::Cow, ops::Range};

/// One part of as many as there are devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which one, from 0.
    pub rank: usize,
    /// How many there are.
    pub of: usize,
}

/// What of a tensor is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// All of it.
    Whole,
    /// A range of the first dimension.
    Rows(Range<usize>),
    /// A range of the second dimension of a matrix.
    Columns(Range<usize>),
}

impl Share {
    /// A model on one device.
    pub const WHOLE: Share = Share { rank: 0, of: 1 };

    /// All shares, in the order of their ranks.
    pub fn all(of: usize) -> impl Iterator<Item = Share> {
        (0..of).map(move |rank| Share { rank, of })
    }

    /// Its part of so many things in a row; where they do not divide, parts differ by one.
    pub fn range(self, total: usize) -> Range<usize> {
        total * self.rank / self.of..total * (self.rank + 1) / self.of
    }

    /// Its rows of a tensor.
    pub fn rows(self, shape: &[usize]) -> Cut {
        if self == Share::WHOLE { Cut::Whole } else { Cut::Rows(self.range(shape[0])) }
    }

    /// Its columns of a matrix.
    pub fn columns(self, shape: &[usize]) -> Cut {
        if self == Share::WHOLE { Cut::Whole } else { Cut::Columns(self.range(shape[1])) }
    }

    /// Whether it adds what must be added once, such as the bias of a product whose parts are summed.
    pub fn is_first(self) -> bool {
        self.rank == 0
    }

    /// Refuses a model whose heads or feed-forward layer do not divide. The vocabulary need not: its parts are only put side by side.
    ///
    /// # Errors
    /// With the sizes, and the numbers of devices that divide them.
    pub fn check(config: &Config, of: usize) -> Result<(), EngineError> {
        let sizes = [("num_key_value_heads", config.kv_heads), ("intermediate_size", config.intermediate_size)];
        let bad: Vec<String> = sizes.iter().filter(|(_, size)| size % of != 0).map(|(name, size)| format!("{name} {size}")).collect();
        if bad.is_empty() {
            return Ok(());
        }
        let possible: Vec<String> =
            (1..=config.kv_heads).filter(|of| sizes.iter().all(|(_, size)| size % of == 0)).map(|of| of.to_string()).collect();
        Err(EngineError::with_hint(
            format!("the model cannot be split over {of} devices: {} cannot be divided by {of}", bad.join(" and ")),
            format!(
                "--tensor-parallel-size may be {} for this model; --data-parallel-size gives every device a whole model",
                possible.join(", ")
            ),
        ))
    }
}

impl Cut {
    /// The shape of what is taken.
    pub fn shape(&self, shape: &[usize]) -> Vec<usize> {
        let mut shape = shape.to_vec();
        match self {
            Cut::Whole => {}
            Cut::Rows(range) => shape[0] = range.len(),
            Cut::Columns(range) => shape[1] = range.len(),
        }
        shape
    }

    /// Takes it out of a tensor that lies row by row, `size` items to a number: rows are not copied.
    pub fn of<'t, T: Copy>(&self, items: &'t [T], shape: &[usize], size: usize) -> Cow<'t, [T]> {
        let row = size * shape[1..].iter().product::<usize>();
        match self {
            Cut::Whole => Cow::Borrowed(items),
            Cut::Rows(range) => Cow::Borrowed(&items[range.start * row..range.end * row]),
            Cut::Columns(range) => {
                let mut taken = Vec::with_capacity(shape[0] * range.len() * size);
                items.chunks_exact(row).for_each(|row| taken.extend_from_slice(&row[range.start * size..range.end * size]));
                Cow::Owned(taken)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::llama::shapes;

    #[test]
    fn shares_cover_everything_once() {
        for (total, of) in [(8, 2), (912, 7), (3, 5), (128_256, 8)] {
            let parts: Vec<usize> = Share::all(of).flat_map(|share| share.range(total)).collect();
            assert_eq!(parts, (0..total).collect::<Vec<_>>(), "{total} over {of}");
        }
        assert_eq!(Share::WHOLE.range(5), 0..5);
    }

    #[test]
    fn what_does_not_divide_is_told_with_what_would() {
        let config = shapes::config("llama-3.1-70b").expect("a listed name");
        for of in [1, 2, 4, 8] {
            assert!(Share::check(&config, of).is_ok(), "{of}");
        }
        let error = Share::check(&config, 16).unwrap_err();
        assert_eq!(error.message, "the model cannot be split over 16 devices: num_key_value_heads 8 cannot be divided by 16");
        assert!(error.hint.unwrap().starts_with("--tensor-parallel-size may be 1, 2, 4, 8 for this model"));
        let error = Share::check(&config, 3).unwrap_err();
        assert!(error.message.contains("num_key_value_heads 8 and intermediate_size 28672 cannot be divided by 3"), "{error}");
    }

    #[test]
    fn cuts_are_those_of_the_matrix() {
        // [3][4], two items to a number.
        let items: Vec<u8> = (0..24).collect();
        let shape = [3, 4];
        for (cut, expected) in [(Cut::Whole, &items[..]), (Cut::Rows(1..3), &items[8..])] {
            let Cow::Borrowed(taken) = cut.of(&items, &shape, 2) else { panic!("{cut:?} copies") };
            assert_eq!(taken, expected);
        }
        assert_eq!(*Cut::Columns(1..3).of(&items, &shape, 2), [2, 3, 4, 5, 10, 11, 12, 13, 18, 19, 20, 21]);
        assert_eq!((Cut::Rows(1..3).shape(&shape), Cut::Columns(1..2).shape(&shape)), (vec![2, 4], vec![3, 1]));
        // A vector has rows of one number.
        assert_eq!(*Cut::Rows(1..2).of(&items[..6], &[3], 2), [2, 3]);
    }
}
