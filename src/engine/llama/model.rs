//! Llama and Qwen2 as a packed forward pass: rows of many sequences go through every layer together, keys and values live in pages,
//! logits are made only for the rows that are wanted.
//!
//! In reading order: layer weights, loading, one step.

use super::config::{Bias, Config};
use super::kv::Pool;
use super::ops::{
    Heads, Segment,
    cpu::{self, RopeTable},
    linear::Linear,
};
use super::weights::Weights;
use crate::engine::EngineError;
use candle_core::{Device, Result, Tensor};
use rayon::ThreadPool;

/// Rows of logits made at once: 256 rows of a 128k vocabulary are 131 MB in f32.
const LOGIT_ROWS: usize = 256;

struct Layer {
    input_norm: Tensor,
    /// Query, key and value, one after the other.
    qkv: Linear,
    output: Linear,
    post_norm: Tensor,
    /// Gate and up, one after the other.
    gate_up: Linear,
    down: Linear,
}

/// A loaded model.
pub struct Model {
    config: Config,
    heads: Heads,
    /// `None` where the head is the embedding too: at 128k tokens a second copy would be most of a small model.
    embedding: Option<Tensor>,
    layers: Vec<Layer>,
    final_norm: Tensor,
    head: Linear,
    rope: RopeTable,
    /// Threads of its own; rayon's where `None`.
    threads: Option<ThreadPool>,
}

impl Model {
    /// Takes the tensors out of the weight files.
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    pub fn load(config: Config, weights: &Weights<'_>, threads: Option<ThreadPool>) -> std::result::Result<Self, EngineError> {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let embedding = weights.get("model.embed_tokens.weight", &[vocab, hidden])?;
        // A checkpoint may carry a head although its config ties it; transformers ties by the config then.
        let (embedding, head) = match config.tied {
            true => (None, linear(&embedding, None)?),
            false => (Some(embedding), linear(&weights.get("lm_head.weight", &[vocab, hidden])?, None)?),
        };
        let layers = (0..config.layers).map(|i| Layer::load(i, &config, weights)).collect::<std::result::Result<_, _>>()?;
        let heads = Heads { query: config.heads, kv: config.kv_heads, dim: config.head_dim };
        let rope = RopeTable::new(config.rope.inverse_frequencies(config.head_dim));
        let final_norm = weights.get("model.norm.weight", &[hidden])?;
        Ok(Model { heads, embedding, layers, final_norm, head, rope, config, threads })
    }

    /// A model of this shape with random weights: as fast as a real one, and good for nothing else.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn random(config: Config, threads: Option<ThreadPool>) -> std::result::Result<Self, EngineError> {
        Model::load(config, &Weights::random(&Device::Cpu), threads)
    }

    /// Shape and constants.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A pool for this model's keys and values.
    pub fn pool(&self) -> Pool {
        Pool::new(self.config.layers, self.config.kv_heads, self.config.head_dim)
    }

    /// One step: `ids` are the packed rows, `segments` say whose they are; the pages of every segment must be reserved. Calls `row` with
    /// each wanted row's index into `wanted` and its logits (`vocab_size` values).
    ///
    /// # Errors
    /// From the tensor library (out of memory), and where a logit is not a number.
    pub fn step(
        &mut self,
        ids: &[u32],
        segments: &[Segment],
        wanted: &[u32],
        pool: &mut Pool,
        row: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let reach = segments.iter().map(|s| s.position + s.rows).max().unwrap_or(0);
        self.rope.reach(reach);
        let x = self.in_pool(|| {
            let ids = Tensor::new(ids, &Device::Cpu)?;
            let mut x = match &self.embedding {
                Some(embedding) => embedding.index_select(&ids, 0)?,
                None => self.head.embed(&ids)?,
            };
            for (index, layer) in self.layers.iter().enumerate() {
                x = self.layer(index, layer, x, segments, pool)?;
            }
            Ok(x)
        })?;
        for (piece, rows) in wanted.chunks(LOGIT_ROWS).enumerate() {
            let logits = self.in_pool(|| {
                let rows = x.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?;
                self.head.forward(&self.norm(&rows, &self.final_norm)?)?.flatten_all()?.to_vec1::<f32>()
            })?;
            if logits.iter().any(|l| l.is_nan()) {
                candle_core::bail!("a logit is not a number: the weights are broken, or too large for the data type");
            }
            for (i, logits) in logits.chunks_exact(self.config.vocab_size).enumerate() {
                row(piece * LOGIT_ROWS + i, logits);
            }
        }
        Ok(())
    }

    fn in_pool<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match &self.threads {
            Some(threads) => threads.install(work),
            None => work(),
        }
    }

    fn layer(&self, index: usize, layer: &Layer, x: Tensor, segments: &[Segment], pool: &mut Pool) -> Result<Tensor> {
        let rows = x.dim(0)?;
        let normed = self.norm(&x, &layer.input_norm)?;
        let qkv = layer.qkv.forward(&normed)?.flatten_all()?.to_vec1::<f32>()?;
        let queries = cpu::rotate_and_write(&qkv, segments, self.heads, &self.rope, pool, index);
        let attended = cpu::paged_attention(&queries, segments, self.heads, pool, index);
        let attended = Tensor::from_vec(attended, (rows, self.heads.query * self.heads.dim), &Device::Cpu)?;
        let x = (x + layer.output.forward(&attended)?)?;
        let gate_up = layer.gate_up.forward(&self.norm(&x, &layer.post_norm)?)?.flatten_all()?.to_vec1::<f32>()?;
        let width = self.config.intermediate_size;
        let activated = Tensor::from_vec(cpu::silu_mul(&gate_up, width), (rows, width), &Device::Cpu)?;
        x + layer.down.forward(&activated)?
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        candle_nn::ops::rms_norm(&x.contiguous()?, weight, self.config.rms_norm_eps as f32)
    }
}

impl Layer {
    fn load(index: usize, config: &Config, weights: &Weights<'_>) -> std::result::Result<Self, EngineError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let get = |name: &str, shape: &[usize]| weights.get(&format!("model.layers.{index}.{name}"), shape);
        let stack = |parts: &[Tensor]| Tensor::cat(parts, 0).map_err(|e| EngineError::new(format!("layer {index}: {e}")));
        let qkv = ["q", "k", "v"].into_iter().zip([q, kv, kv]);
        let qkv_weights: Vec<Tensor> =
            qkv.clone().map(|(n, w)| get(&format!("self_attn.{n}_proj.weight"), &[w, hidden])).collect::<std::result::Result<_, _>>()?;
        let qkv_bias = match config.bias {
            Bias::None => None,
            Bias::Qkv | Bias::All => {
                let parts: Vec<Tensor> =
                    qkv.map(|(n, w)| get(&format!("self_attn.{n}_proj.bias"), &[w])).collect::<std::result::Result<_, _>>()?;
                Some(stack(&parts)?)
            }
        };
        let output_bias = if config.bias == Bias::All { Some(get("self_attn.o_proj.bias", &[hidden])?) } else { None };
        let gate_up = stack(&[get("mlp.gate_proj.weight", &[inner, hidden])?, get("mlp.up_proj.weight", &[inner, hidden])?])?;
        Ok(Layer {
            input_norm: get("input_layernorm.weight", &[hidden])?,
            qkv: linear(&stack(&qkv_weights)?, qkv_bias)?,
            output: linear(&get("self_attn.o_proj.weight", &[hidden, q])?, output_bias)?,
            post_norm: get("post_attention_layernorm.weight", &[hidden])?,
            gate_up: linear(&gate_up, None)?,
            down: linear(&get("mlp.down_proj.weight", &[hidden, inner])?, None)?,
        })
    }
}

fn linear(weight: &Tensor, bias: Option<Tensor>) -> std::result::Result<Linear, EngineError> {
    Linear::new(weight, bias).map_err(|e| EngineError::new(format!("failed to lay out weights: {e}")))
}
