//! An independent opinion: the Llama of candle-transformers, which shares no line with ours, on random weights in several shapes.

use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Llama as Other, LlamaConfig};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::Path;
use swallow_eval::engine::Sampling;
use swallow_eval::engine::llama::batch::{Listener, TokenOutput, TokenRequest};
use swallow_eval::engine::llama::{Llama, LoadOptions};

const VOCABULARY: usize = 448;

/// A shape that both can load: the other has no head size of its own.
#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    tied: bool,
    llama3: bool,
}

impl Shape {
    fn hidden(self) -> usize {
        self.heads * self.head_dim
    }

    fn config(self) -> Value {
        let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 32});
        json!({"architectures": ["LlamaForCausalLM"], "hidden_size": self.hidden(), "intermediate_size": 3 * self.hidden() / 2 + 1,
               "num_hidden_layers": 3, "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
               "vocab_size": VOCABULARY, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu",
               "rope_theta": 10000.0, "rope_scaling": if self.llama3 { scaling } else { Value::Null },
               "tie_word_embeddings": self.tied, "eos_token_id": 445})
    }

    /// Weights of which each matters: far from zero, norms not 1.
    fn weights(self) -> Vec<(String, Tensor)> {
        let (hidden, inner) = (self.hidden(), 3 * self.hidden() / 2 + 1);
        let kv = self.kv_heads * self.head_dim;
        let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, hidden])];
        if !self.tied {
            shapes.push(("lm_head.weight".to_owned(), vec![VOCABULARY, hidden]));
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

    fn ours(self, weights: &[(String, Tensor)]) -> Llama {
        let micro = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/micro-llama/tokenizer.json");
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(micro, dir.path().join("tokenizer.json")).unwrap();
        std::fs::write(dir.path().join("config.json"), self.config().to_string()).unwrap();
        candle_core::safetensors::save(&weights.iter().cloned().collect(), dir.path().join("model.safetensors")).unwrap();
        Llama::load(dir.path(), &LoadOptions { model: "random".into(), ..LoadOptions::default() }).unwrap()
    }
}

/// Logits of the last of these tokens, by the other.
struct Oracle {
    model: Other,
    config: candle_transformers::models::llama::Config,
}

impl Oracle {
    fn new(shape: Shape, weights: &[(String, Tensor)]) -> Self {
        let config = serde_json::from_value::<LlamaConfig>(shape.config()).unwrap().into_config(false);
        let weights = VarBuilder::from_tensors(weights.iter().cloned().collect(), DType::F32, &Device::Cpu);
        Oracle { model: Other::load(weights, &config).unwrap(), config }
    }

    fn logits(&self, ids: &[u32]) -> Vec<f32> {
        let mut cache = Cache::new(false, DType::F32, &self.config, &Device::Cpu).unwrap();
        let ids = Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        self.model.forward(&ids, 0, &mut cache).unwrap().i(0).unwrap().to_vec1().unwrap()
    }
}

fn best(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
    best.0 as u32
}

fn shapes() -> impl Strategy<Value = Shape> {
    let heads = prop::sample::select(vec![(1usize, 1usize), (4, 4), (4, 1), (8, 2), (8, 1), (6, 2)]);
    let head_dim = prop::sample::select(vec![8usize, 16, 32, 64, 128]);
    (heads, head_dim, any::<bool>(), any::<bool>()).prop_map(|((heads, kv_heads), head_dim, tied, llama3)| Shape {
        heads,
        kv_heads,
        head_dim,
        tied,
        llama3,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// Logits at the borders of pages, and what greedy decoding makes of a prompt, sharing and pages and all.
    #[test]
    fn another_llama_computes_the_same(shape in shapes(), stride in 1..400usize) {
        let weights = shape.weights();
        let (mut ours, oracle) = (shape.ours(&weights), Oracle::new(shape, &weights));
        let ids: Vec<u32> = (0..70).map(|at| ((at * stride + at * at) % VOCABULARY) as u32).collect();
        for len in [1, 2, 31, 32, 33, 64, 65, 70] {
            let (expected, got) = (oracle.logits(&ids[..len]), ours.logits(&ids[..len], &[len as u32 - 1]).unwrap().remove(0));
            for (expected, got) in expected.iter().zip(&got) {
                prop_assert!((expected - got).abs() < 1e-3 * (1.0 + expected.abs()), "{:?}, {} tokens: {} {}", shape, len, expected, got);
            }
        }
        let requests: Vec<TokenRequest> = [30usize, 32, 40]
            .map(|len| TokenRequest::Generate {
                prompt: ids[..len].to_vec(), max_new: 6, end: Vec::new(), sampling: Sampling::GREEDY, sample: 0,
            })
            .to_vec();
        let mut answers = vec![Vec::new(); requests.len()];
        let mut done = |index: usize, output| {
            if let TokenOutput::Generated { tokens, .. } = output {
                answers[index] = tokens;
            }
            ControlFlow::Continue(())
        };
        ours.run(&requests, &mut Listener { stops: &|_, _| false, done: &mut done, go_on: &|| true }).unwrap();
        for (request, answer) in requests.iter().zip(&answers) {
            let mut sequence = request.prompt().to_vec();
            for token in answer {
                let logits = oracle.logits(&sequence);
                let lead = logits[best(&logits) as usize] - logits[*token as usize];
                prop_assert!(lead < 1e-3, "{:?}: {} leads {} by {}", shape, best(&logits), token, lead);
                sequence.push(*token);
            }
            prop_assert_eq!(answer.len(), 6);
        }
    }
}
