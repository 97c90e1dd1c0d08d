//! Models of random weights in several shapes.

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use std::path::Path;
use swallow_eval::engine::llama::{Llama, LoadOptions};

/// A shape of three layers; the size of a head is that of the stream by the number of heads, as the oracle has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) tied: bool,
    pub(crate) llama3: bool,
}

impl Shape {
    /// That of the micro model, whose tokenizer these models borrow.
    pub(crate) const VOCABULARY: usize = 448;

    fn hidden(self) -> usize {
        self.heads * self.head_dim
    }

    pub(crate) fn config(self) -> Value {
        let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 32});
        json!({"architectures": ["LlamaForCausalLM"], "hidden_size": self.hidden(), "intermediate_size": 3 * self.hidden() / 2 + 1,
               "num_hidden_layers": 3, "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
               "vocab_size": Self::VOCABULARY, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu",
               "rope_theta": 10000.0, "rope_scaling": if self.llama3 { scaling } else { Value::Null },
               "tie_word_embeddings": self.tied, "eos_token_id": 445})
    }

    /// Weights of which each matters: far from zero, norms not 1.
    pub(crate) fn weights(self) -> Vec<(String, Tensor)> {
        let (hidden, inner) = (self.hidden(), 3 * self.hidden() / 2 + 1);
        let kv = self.kv_heads * self.head_dim;
        let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![Self::VOCABULARY, hidden])];
        if !self.tied {
            shapes.push(("lm_head.weight".to_owned(), vec![Self::VOCABULARY, hidden]));
        }
        for layer in 0..3 {
            for (name, shape) in [
                ("self_attn.q_proj", vec![hidden, hidden]),
                ("self_attn.k_proj", vec![kv, hidden]),
                ("self_attn.v_proj", vec![kv, hidden]),
                ("self_attn.o_proj", vec![hidden, hidden]),
                ("mlp.gate_proj", vec![inner, hidden]),
                ("mlp.up_proj", vec![inner, hidden]),
                ("mlp.down_proj", vec![hidden, inner]),
                ("input_layernorm", vec![hidden]),
                ("post_attention_layernorm", vec![hidden]),
            ] {
                shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
            }
        }
        shapes.push(("model.norm.weight".to_owned(), vec![hidden]));
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut number = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        };
        let mut tensor = |shape: &[usize]| {
            let (middle, spread) = if shape.len() == 1 { (1.0, 0.5) } else { (0.0, 1.5 / (shape[1] as f32).sqrt()) };
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| middle + spread * number()).collect();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        shapes.into_iter().map(|(name, shape)| (name, tensor(&shape))).collect()
    }

    /// Loads such a model from files, as any other.
    pub(crate) fn load(self, weights: &[(String, Tensor)], options: &LoadOptions) -> Llama {
        let micro = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/micro-llama/tokenizer.json");
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(micro, dir.path().join("tokenizer.json")).unwrap();
        std::fs::write(dir.path().join("config.json"), self.config().to_string()).unwrap();
        candle_core::safetensors::save(&weights.iter().cloned().collect(), dir.path().join("model.safetensors")).unwrap();
        Llama::load(dir.path(), options).unwrap()
    }
}
