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
use super::weights::{Rounding, Weights};
use crate::engine::EngineError;
use candle_core::{Device, Tensor};
use rayon::{ThreadPool, prelude::*};

/// Rows of logits made at once: 256 rows of a 128k vocabulary are 131 MB in f32.
const LOGIT_ROWS: usize = 256;

struct Layer {
    input_norm: Vec<f32>,
    /// Query, key and value, one after the other.
    qkv: Linear,
    output: Linear,
    post_norm: Vec<f32>,
    /// Gate and up, one after the other.
    gate_up: Linear,
    down: Linear,
}

/// A loaded model.
pub struct Model {
    config: Config,
    heads: Heads,
    /// `[vocabulary][hidden]`; `None` where the head is the embedding too: at 128k tokens a second copy would be most of a small model.
    embedding: Option<Vec<f32>>,
    layers: Vec<Layer>,
    final_norm: Vec<f32>,
    head: Linear,
    rope: RopeTable,
    /// What happens to logits.
    logits: Rounding,
    /// Threads of its own; rayon's where `None`.
    threads: Option<ThreadPool>,
}

/// Takes the logits of some wanted rows: the first one's index into the wanted rows, then `vocab_size` values a row.
pub type ReadLogits<'r> = &'r mut (dyn FnMut(usize, &[f32]) + Send);

impl Model {
    /// Takes the tensors out of the weight files.
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    pub fn load(config: Config, weights: &Weights<'_>, threads: Option<ThreadPool>) -> Result<Self, EngineError> {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let embedding = weights.get("model.embed_tokens.weight", &[vocab, hidden])?;
        // A checkpoint may carry a head although its config ties it; transformers ties by the config then.
        let (embedding, head) = match config.tied {
            true => (None, linear(&embedding, None)?),
            false => (Some(values(&embedding)?), linear(&weights.get("lm_head.weight", &[vocab, hidden])?, None)?),
        };
        let layers = (0..config.layers).map(|i| Layer::load(i, &config, weights)).collect::<Result<_, _>>()?;
        let heads = Heads { query: config.heads, kv: config.kv_heads, dim: config.head_dim };
        let rope = RopeTable::new(config.rope.inverse_frequencies(config.head_dim));
        let final_norm = values(&weights.get("model.norm.weight", &[hidden])?)?;
        Ok(Model { heads, embedding, layers, final_norm, head, rope, logits: Rounding::None, config, threads })
    }

    /// The same model with logits rounded to a data type, as a head in that type gives them.
    #[must_use]
    pub fn with_logits(self, logits: Rounding) -> Self {
        Model { logits, ..self }
    }

    /// What happens to logits.
    pub fn logits(&self) -> Rounding {
        self.logits
    }

    /// A model of this shape with random weights: as fast as a real one, and good for nothing else.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn random(config: Config, threads: Option<ThreadPool>) -> Result<Self, EngineError> {
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

    /// One step: `ids` are the packed rows, `segments` say whose they are; the pages of every segment must be reserved. Hands the logits of
    /// all wanted rows to `read`, in order, some rows at a time.
    ///
    /// # Errors
    /// Where a logit is not a number.
    pub fn step(
        &mut self,
        ids: &[u32],
        segments: &[Segment],
        wanted: &[u32],
        pool: &mut Pool,
        read: ReadLogits<'_>,
    ) -> Result<(), EngineError> {
        self.rope.reach(segments.iter().map(|s| s.position + s.rows).max().unwrap_or(0));
        match &self.threads {
            Some(threads) => threads.install(|| self.compute(ids, segments, wanted, pool, read)),
            None => self.compute(ids, segments, wanted, pool, read),
        }
    }

    fn compute(&self, ids: &[u32], segments: &[Segment], wanted: &[u32], pool: &mut Pool, read: ReadLogits<'_>) -> Result<(), EngineError> {
        let hidden = self.config.hidden_size;
        let mut x = match &self.embedding {
            Some(embedding) => pick(embedding, hidden, ids),
            None => self.head.embed(ids),
        };
        for (index, layer) in self.layers.iter().enumerate() {
            let queries = self.write_keys_and_values(index, layer, &x, segments, pool);
            if index + 1 < self.layers.len() {
                self.attend_and_feed(index, layer, &mut x, &queries, segments, pool);
            } else if !wanted.is_empty() {
                // Nothing reads the last layer's output of the other rows.
                let (queries, of_wanted) = (pick(&queries, self.heads.query * self.heads.dim, wanted), segments_of(segments, wanted));
                x = pick(&x, hidden, wanted);
                self.attend_and_feed(index, layer, &mut x, &queries, &of_wanted, pool);
            }
        }
        let pieces = wanted.chunks(LOGIT_ROWS).zip(x.chunks(LOGIT_ROWS * hidden));
        for (piece, (_, rows)) in pieces.enumerate() {
            let mut logits = self.head.forward(&self.norm(rows, &self.final_norm));
            logits.par_chunks_mut(1 << 16).for_each(|part| self.logits.apply(part));
            if logits.par_chunks(1 << 16).any(|part| part.iter().any(|l| l.is_nan())) {
                let why = "the model failed: a logit is not a number: the weights are broken, or too large for the data type";
                return Err(EngineError::new(why));
            }
            read(piece * LOGIT_ROWS, &logits);
        }
        Ok(())
    }

    /// Queries of all rows; their keys and values go into the pool.
    fn write_keys_and_values(&self, index: usize, layer: &Layer, x: &[f32], segments: &[Segment], pool: &mut Pool) -> Vec<f32> {
        let qkv = layer.qkv.forward(&self.norm(x, &layer.input_norm));
        cpu::rotate_and_write(&qkv, segments, self.heads, &self.rope, pool, index)
    }

    /// The rest of a layer, for the rows of `x`.
    fn attend_and_feed(&self, index: usize, layer: &Layer, x: &mut [f32], queries: &[f32], segments: &[Segment], pool: &Pool) {
        layer.output.add_to(&cpu::paged_attention(queries, segments, self.heads, pool, index), x);
        let gate_up = layer.gate_up.forward(&self.norm(x, &layer.post_norm));
        layer.down.add_to(&cpu::silu_mul(&gate_up, self.config.intermediate_size), x);
    }

    fn norm(&self, x: &[f32], weight: &[f32]) -> Vec<f32> {
        cpu::rms_norm(x, weight, self.config.rms_norm_eps as f32)
    }
}

/// Some rows of a matrix.
fn pick(matrix: &[f32], width: usize, rows: &[u32]) -> Vec<f32> {
    rows.iter().flat_map(|row| &matrix[*row as usize * width..][..width]).copied().collect()
}

/// The segments of some rows of a step, when these rows stand alone in their order.
fn segments_of(segments: &[Segment], rows: &[u32]) -> Vec<Segment> {
    let mut picked: Vec<Segment> = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let row = *row as usize;
        let owner = segments.iter().find(|s| (s.row..s.row + s.rows).contains(&row)).expect("every row of a step is in a segment");
        let position = owner.position + row - owner.row;
        match picked.last_mut() {
            Some(last) if last.pages == owner.pages && last.position + last.rows == position => last.rows += 1,
            _ => picked.push(Segment { row: at, rows: 1, position, pages: owner.pages.clone() }),
        }
    }
    picked
}

impl Layer {
    fn load(index: usize, config: &Config, weights: &Weights<'_>) -> Result<Self, EngineError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let get = |name: &str, shape: &[usize]| weights.get(&format!("model.layers.{index}.{name}"), shape);
        let stack = |parts: &[Tensor]| Tensor::cat(parts, 0).map_err(|e| EngineError::new(format!("layer {index}: {e}")));
        let qkv = ["q", "k", "v"].into_iter().zip([q, kv, kv]);
        let qkv_weights: Vec<Tensor> =
            qkv.clone().map(|(n, w)| get(&format!("self_attn.{n}_proj.weight"), &[w, hidden])).collect::<Result<_, _>>()?;
        let qkv_bias = match config.bias {
            Bias::None => None,
            Bias::Qkv | Bias::All => {
                let parts: Vec<Tensor> = qkv.map(|(n, w)| get(&format!("self_attn.{n}_proj.bias"), &[w])).collect::<Result<_, _>>()?;
                Some(stack(&parts)?)
            }
        };
        let output_bias = if config.bias == Bias::All { Some(get("self_attn.o_proj.bias", &[hidden])?) } else { None };
        let gate_up = stack(&[get("mlp.gate_proj.weight", &[inner, hidden])?, get("mlp.up_proj.weight", &[inner, hidden])?])?;
        Ok(Layer {
            input_norm: values(&get("input_layernorm.weight", &[hidden])?)?,
            qkv: linear(&stack(&qkv_weights)?, qkv_bias.as_ref())?,
            output: linear(&get("self_attn.o_proj.weight", &[hidden, q])?, output_bias.as_ref())?,
            post_norm: values(&get("post_attention_layernorm.weight", &[hidden])?)?,
            gate_up: linear(&gate_up, None)?,
            down: linear(&get("mlp.down_proj.weight", &[hidden, inner])?, None)?,
        })
    }
}

fn linear(weight: &Tensor, bias: Option<&Tensor>) -> Result<Linear, EngineError> {
    Linear::new(weight, bias).map_err(|e| EngineError::new(format!("failed to lay out weights: {e}")))
}

fn values(tensor: &Tensor) -> Result<Vec<f32>, EngineError> {
    tensor.flatten_all().and_then(|t| t.to_vec1()).map_err(|e| EngineError::new(format!("failed to read weights: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_segments() {
        let segment = |row, rows, position, page| Segment { row, rows, position, pages: vec![page] };
        let segments = [segment(0, 1, 9, 1), segment(1, 4, 0, 2), segment(5, 3, 7, 3)];
        let picked: Vec<(usize, usize, usize, u32)> =
            segments_of(&segments, &[0, 2, 3, 5, 7]).iter().map(|s| (s.row, s.rows, s.position, s.pages[0])).collect();
        assert_eq!(picked, [(0, 1, 9, 1), (1, 2, 1, 2), (3, 1, 7, 3), (4, 1, 9, 3)]);
    }
}
