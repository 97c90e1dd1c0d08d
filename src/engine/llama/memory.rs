//! What a model takes on a device, added up before it is loaded: a device that is too small is told at once and in numbers, not after minutes
//! of loading by a failed allocation.

use super::batch::Limits;
use super::config::Config;
use super::device::{Numbers, Place};
use super::tensors::PIECE;
use crate::engine::EngineError;

/// Tokens of the longest prompt that there must be room for, where the model has so many positions.
const PROMPT: usize = 4096;
/// Tokens that a generation has for itself beside what it shares, for the number of generations at once.
const OWN: u64 = 1024;
/// What the driver, the matrix library and its kernels take beside all that is added up here; a guess.
const BESIDE: u64 = 512 << 20;

/// Bytes, by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Needs {
    weights: u64,
    activations: u64,
    /// Keys and values of one token, and a part of them more: the keys of one layer are there twice while they grow.
    token: u64,
    /// Tokens there must be room for.
    tokens: u64,
}

/// What a device leaves for keys and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Tokens whose keys and values fit at once.
    pub tokens: usize,
    /// The addition, for people.
    pub told: String,
}

/// Adds up what a model takes on the device it is to be loaded to; `None` where its memory is not known.
///
/// # Errors
/// When it does not fit.
pub fn room(config: &Config, numbers: Numbers, limits: Limits, place: &Place) -> Result<Option<Room>, EngineError> {
    let needs = Needs::of(config, numbers, limits);
    place.free_memory()?.map(|free| needs.fit(free, place.name())).transpose()
}

impl Room {
    /// No more generations at once than there is room for.
    pub fn limits(&self, limits: Limits) -> Limits {
        Limits { live: limits.live.min((self.tokens as u64 / OWN).max(1) as usize), ..limits }
    }
}

impl Needs {
    fn of(config: &Config, numbers: Numbers, limits: Limits) -> Self {
        let (bytes, head) = (numbers.bytes(), config.head_weights());
        let rest = config.weights() - if config.tied { 0 } else { head };
        // A tied head is the embedding, unless it is kept in another type.
        let of_head = if config.tied && numbers.head_bytes() == bytes { 0 } else { numbers.head_bytes() * head };
        Needs {
            weights: bytes * rest + of_head,
            activations: activations(config, bytes, limits) + BESIDE,
            token: bytes * config.kv_bytes() / 4 * (2 * config.layers as u64 + 1) / (2 * config.layers as u64),
            tokens: (PROMPT.min(config.max_position_embeddings) + limits.rows) as u64,
        }
    }

    fn keys_and_values(&self) -> u64 {
        self.tokens * self.token
    }

    fn fit(&self, free: u64, device: &str) -> Result<Room, EngineError> {
        const GIB: f64 = (1u64 << 30) as f64;
        let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / GIB);
        let parts = format!(
            "weights {}, activations {}, keys and values {} ({} tokens at the least)",
            gib(self.weights),
            gib(self.activations),
            gib(self.keys_and_values()),
            self.tokens
        );
        let Some(left) = free.checked_sub(self.weights + self.activations).filter(|left| *left >= self.keys_and_values()) else {
            let needed = gib(self.weights + self.activations + self.keys_and_values());
            return Err(EngineError::with_hint(
                format!("{device} has {} free, and the model needs {needed}: {parts}", gib(free)),
                "--dtype bf16 halves what f32 takes; --device cpu takes the machine's own memory; or serve the model on several GPUs with vLLM \
                 and name it with --base-url",
            ));
        };
        let tokens = usize::try_from(left / self.token).unwrap_or(usize::MAX);
        Ok(Room { tokens, told: format!("{device} has {} free: {parts}; room for keys and values of {tokens} tokens", gib(free)) })
    }
}

/// What a step takes for itself, at most: all of it counted as if it were there at once.
fn activations(config: &Config, bytes: u64, limits: Limits) -> u64 {
    let (rows, hidden, inner) = (limits.rows as u64, config.hidden_size as u64, config.intermediate_size as u64);
    let heads = ((config.heads + 2 * config.kv_heads) * config.head_dim) as u64;
    // The stream, its sum and its norm (which is f32 in between); queries, keys and values as they come and rotated.
    let stream = rows * (hidden * (3 * bytes + 8) + 3 * heads * bytes);
    // Gate and up together, each by itself, and their product.
    let feed = rows * inner * 6 * bytes;
    // Scores and weights in the data type, three times in f32; keys and values gathered and laid out by head.
    let attention = PIECE as u64 * (2 * bytes + 12 + 4 * bytes);
    let logits = super::model::LOGIT_ROWS as u64 * config.vocab_size as u64 * (bytes + 4);
    stream + feed + attention + logits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::llama::{LogitType, shapes};
    use candle_core::DType;

    const GIB: u64 = 1 << 30;

    fn needs(name: &str, dtype: DType, logits: LogitType) -> Needs {
        Needs::of(&shapes::config(name).expect("a listed name"), Numbers::Tensors { dtype, logits }, Limits::default())
    }

    #[test]
    fn weights_and_tokens_are_those_of_the_data_type() {
        let bf16 = needs("llama-3.1-8b", DType::BF16, LogitType::AsWeights);
        assert_eq!((bf16.weights / 1_000_000_000, bf16.token, bf16.tokens), (16, (128 + 2) << 10, 4096 + 1024));
        let f32 = needs("llama-3.1-8b", DType::F32, LogitType::AsWeights);
        assert_eq!((f32.weights, f32.token), (2 * bf16.weights, 2 * bf16.token));
        let head = 128_256 * 4096;
        assert_eq!(needs("llama-3.1-8b", DType::BF16, LogitType::F32).weights, bf16.weights + 2 * head, "a head in f32");
        let tied = |logits| needs("llama-3.2-1b", DType::BF16, logits).weights;
        assert_eq!(tied(LogitType::F32), tied(LogitType::AsWeights) + 4 * 128_256 * 2048, "a tied head in f32 is a second table");
    }

    #[test]
    fn what_does_not_fit_is_refused_in_numbers() {
        let small = needs("llama-3.1-8b", DType::BF16, LogitType::AsWeights);
        let room = small.fit(79 * GIB, "cuda:0").unwrap();
        assert!(room.tokens > 450_000 && room.told.starts_with("cuda:0 has 79.0 GiB free: weights 15.0 GiB, "), "{room:?}");
        assert_eq!(room.limits(Limits::default()).live, Limits::default().live);
        let large = needs("llama-3.1-70b", DType::BF16, LogitType::AsWeights);
        let error = large.fit(79 * GIB, "cuda:0").unwrap_err();
        assert!(error.message.starts_with("cuda:0 has 79.0 GiB free, and the model needs 13"), "{error:?}");
        assert!(error.message.contains("weights 131.4 GiB") && error.hint.is_some(), "{error:?}");
        let room = large.fit(139 * GIB, "cuda:0").unwrap();
        let live = room.limits(Limits::default()).live;
        assert!((8..40).contains(&live), "{live} generations at once in the room of {} tokens", room.tokens);
        // To the byte: one less does not fit.
        let least = small.weights + small.activations + small.keys_and_values();
        assert_eq!(small.fit(least, "cuda:1").unwrap().tokens as u64, small.tokens);
        assert!(small.fit(least - 1, "cuda:1").is_err());
    }
}
