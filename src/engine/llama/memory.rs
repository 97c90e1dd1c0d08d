//! What a model takes on a device, added up before it is loaded: a device that is too small is told at once and in numbers, not after minutes
//! of loading by a failed allocation.

use super::batch::Limits;
use super::config::Config;
use super::device::Numbers;
use super::dist::{layout::Layout, share::Share};
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

/// Adds up what a model takes on every device it is to be loaded to; of several the one that leaves least is told. `None` where the memory is
/// not known.
///
/// # Errors
/// When it cannot be split over so many devices, or does not fit.
pub fn room(config: &Config, numbers: Numbers, limits: Limits, layout: &Layout) -> Result<Option<Room>, EngineError> {
    Share::check(config, layout.ranks())?;
    let needs = Needs::of(config, numbers, limits, layout.ranks());
    let mut least: Option<Room> = None;
    for place in layout.replicas().iter().flatten() {
        let Some(free) = place.free_memory()? else { return Ok(None) };
        // Whoever shares a device shares its memory.
        let room = needs.fit(free / layout.tenants(place) as u64, place.name())?;
        if least.as_ref().is_none_or(|least| room.tokens < least.tokens) {
            least = Some(room);
        }
    }
    Ok(least)
}

impl Room {
    /// No more generations at once than there is room for.
    pub fn limits(&self, limits: Limits) -> Limits {
        Limits { live: limits.live.min((self.tokens as u64 / OWN).max(1) as usize), ..limits }
    }
}

impl Needs {
    /// Of one of so many devices that hold the model together: the largest share of what does not divide.
    fn of(config: &Config, numbers: Numbers, limits: Limits, ranks: usize) -> Self {
        let share = |whole: u64| whole.div_ceil(ranks as u64);
        let (bytes, head) = (numbers.bytes(), config.head_weights());
        let rest = config.weights() - if config.tied { 0 } else { head };
        // A tied head is the embedding, unless it is kept in another type.
        let of_head = if config.tied && numbers.head_bytes() == bytes { 0 } else { numbers.head_bytes() * head };
        Needs {
            weights: share(bytes * rest + of_head),
            activations: activations(config, bytes, limits, ranks as u64) + BESIDE,
            token: share(bytes * config.kv_bytes() / 4) * (2 * config.layers as u64 + 1) / (2 * config.layers as u64),
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
                "--dtype bf16 halves what f32 takes; --tensor-parallel-size splits the model over several GPUs; --device cpu takes the machine's \
                 own memory",
            ));
        };
        let tokens = usize::try_from(left / self.token).unwrap_or(usize::MAX);
        Ok(Room { tokens, told: format!("{device} has {} free: {parts}; room for keys and values of {tokens} tokens", gib(free)) })
    }
}

/// What a step takes for itself on one of so many devices, at most: all of it counted as if it were there at once.
fn activations(config: &Config, bytes: u64, limits: Limits, ranks: u64) -> u64 {
    let (rows, hidden, inner) = (limits.rows as u64, config.hidden_size as u64, config.intermediate_size as u64 / ranks);
    let heads = ((config.heads + 2 * config.kv_heads) * config.head_dim) as u64 / ranks;
    // The stream, its sum and its norm (which is f32 in between), of several devices a part and the sum of all; queries, keys and values as
    // they come and rotated.
    let sums = if ranks > 1 { 2 } else { 0 };
    let stream = rows * (hidden * ((3 + sums) * bytes + 8) + 3 * heads * bytes);
    // Gate and up together, each by itself, and their product.
    let feed = rows * inner * 6 * bytes;
    // Scores and weights in the data type, three times in f32; keys and values gathered and laid out by head.
    let attention = PIECE as u64 * (2 * bytes + 12 + 4 * bytes);
    let logits = super::model::LOGIT_ROWS as u64 * (config.vocab_size as u64).div_ceil(ranks) * (bytes + 4);
    stream + feed + attention + logits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::llama::{LogitType, shapes};
    use candle_core::DType;

    const GIB: u64 = 1 << 30;

    fn needs(name: &str, dtype: DType, logits: LogitType) -> Needs {
        Needs::of(&shapes::config(name).expect("a listed name"), Numbers::Tensors { dtype, logits }, Limits::default(), 1)
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
    #[test]
    fn devices_that_hold_a_model_together_share_what_it_needs() {
        let config = shapes::config("llama-3.1-70b").expect("a listed name");
        let numbers = Numbers::Tensors { dtype: DType::BF16, logits: LogitType::AsWeights };
        let of = |ranks| Needs::of(&config, numbers, Limits::default(), ranks);
        for ranks in [2, 4, 8] {
            assert_eq!((ranks * of(ranks as usize).weights, ranks * of(ranks as usize).token), (of(1).weights, of(1).token));
        }
        // Two GPUs of 80 GB hold what one does not; each is told in numbers.
        let room = of(2).fit(79 * GIB, "cuda:1").unwrap();
        assert!(room.told.starts_with("cuda:1 has 79.0 GiB free: weights 65.7 GiB, ") && room.tokens > 40_000, "{room:?}");
        assert!(of(1).fit(79 * GIB, "cuda:1").is_err());
        let error = of(2).fit(60 * GIB, "cuda:1").unwrap_err();
        assert!(error.message.starts_with("cuda:1 has 60.0 GiB free, and the model needs ") && error.hint.is_some(), "{error}");
    }
}
