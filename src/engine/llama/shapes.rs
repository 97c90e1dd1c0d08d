//! Shapes of published models, by name: for measuring with random weights where the real ones are not at hand. Values are those of each
//! model's config.json.

use super::config::{Bias, Config, Llama3Scaling, Rope, Scaling};

/// What [`config`] knows.
pub const NAMES: [&str; 4] = ["llama-135m", "llama-3.2-1b", "llama-3.1-8b", "llama-3.1-70b"];

/// The shape of a model; `None` for a name that is not in [`NAMES`].
pub fn config(name: &str) -> Option<Config> {
    // Hidden size, feed-forward size, layers, query heads, key heads, head size, vocabulary, tied, factor of the long wavelengths.
    let (hidden_size, intermediate_size, layers, heads, kv_heads, head_dim, vocab_size, tied, factor) = match name {
        "llama-135m" => (576, 1536, 30, 9, 3, 64, 49_152, true, None),
        "llama-3.2-1b" => (2048, 8192, 16, 32, 8, 64, 128_256, true, Some(32.0)),
        "llama-3.1-8b" => (4096, 14_336, 32, 32, 8, 128, 128_256, false, Some(8.0)),
        "llama-3.1-70b" => (8192, 28_672, 80, 64, 8, 128, 128_256, false, Some(8.0)),
        _ => return None,
    };
    let llama3 = |factor| Llama3Scaling { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: 8192.0 };
    let rope = match factor {
        Some(factor) => Rope { theta: 500_000.0, scaling: Some(Scaling::Llama3(llama3(factor))) },
        None => Rope { theta: 10_000.0, scaling: None },
    };
    let max_position_embeddings = if rope.scaling.is_some() { 131_072 } else { 8192 };
    Some(Config {
        hidden_size,
        intermediate_size,
        layers,
        heads,
        kv_heads,
        head_dim,
        vocab_size,
        max_position_embeddings,
        rms_norm_eps: 1e-5,
        rope,
        tied,
        bias: Bias::None,
        dtype: None,
        end_ids: Vec::new(),
        repetition_penalty: None,
        top_k: None,
        top_p: None,
    })
}

impl Config {
    /// Weights of all layers that a token is multiplied with, embedding and head apart.
    pub fn layer_weights(&self) -> u64 {
        let (hidden, inner) = (self.hidden_size as u64, self.intermediate_size as u64);
        let (query, kv) = ((self.heads * self.head_dim) as u64, (self.kv_heads * self.head_dim) as u64);
        self.layers as u64 * hidden * (2 * query + 2 * kv + 3 * inner)
    }

    /// Those of one layer that come after its queries, keys and values.
    pub fn weights_after_attention(&self) -> u64 {
        (self.hidden_size * (self.heads * self.head_dim + 3 * self.intermediate_size)) as u64
    }

    /// Weights of the output head.
    pub fn head_weights(&self) -> u64 {
        (self.vocab_size * self.hidden_size) as u64
    }

    /// All weights, a tied embedding once.
    pub fn weights(&self) -> u64 {
        let tables = if self.tied { 1 } else { 2 };
        self.layer_weights() + tables * self.head_weights()
    }

    /// All weights as the CPU's kernels hold them: in f32.
    pub fn weight_bytes(&self) -> u64 {
        4 * self.weights()
    }

    /// Keys and values of one token, in f32.
    pub fn kv_bytes(&self) -> u64 {
        (4 * 2 * self.layers * self.kv_heads * self.head_dim) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_the_size_it_says() {
        for (name, billions) in NAMES.into_iter().zip([0.1345, 1.236, 8.03, 70.55]) {
            let config = config(name).expect("a listed name");
            let weights = config.weight_bytes() as f64 / 4e9;
            assert!((weights / billions - 1.0).abs() < 0.005, "{name}: {weights}");
        }
        assert!(config("llama-13b").is_none());
        assert_eq!(config("llama-3.1-8b").expect("listed").kv_bytes(), 2 * 128 * 1024, "128 KiB a token in bf16");
    }
}
