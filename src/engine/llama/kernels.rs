//! The backend of the CPU: this program's own kernels over packed `f32` rows.

use super::checkpoint::{Ends, LayerTensors};
use super::config::Config;
use super::device::failed;
use super::kv::Pool;
use super::model::{LOGIT_ROWS, MadeRows, RawLogits, Step};
use super::ops::{
    Heads, Segment,
    cpu::{self, RopeTable},
    linear::Linear,
    segments_of,
};
use super::weights::Weights;
use crate::engine::EngineError;
use candle_core::Tensor;

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

/// Weights laid out for the kernels.
pub(super) struct Kernels {
    heads: Heads,
    hidden: usize,
    intermediate: usize,
    epsilon: f32,
    /// `[vocabulary][hidden]`; `None` where the head is the embedding too: at 128k tokens a second copy would be most of a small model.
    embedding: Option<Vec<f32>>,
    layers: Vec<Layer>,
    final_norm: Vec<f32>,
    head: Linear,
}

impl Kernels {
    /// Takes the tensors out of the weight files.
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    pub(super) fn load(config: &Config, weights: &Weights<'_>) -> Result<Self, EngineError> {
        let Ends { embedding, head, final_norm } = Ends::load(config, weights)?;
        let (embedding, head) = match head {
            None => (None, linear(&embedding, None)?),
            Some(head) => (Some(values(&embedding)?), linear(&head, None)?),
        };
        Ok(Kernels {
            heads: Heads { query: config.heads, kv: config.kv_heads, dim: config.head_dim },
            hidden: config.hidden_size,
            intermediate: config.intermediate_size,
            epsilon: config.rms_norm_eps as f32,
            embedding,
            layers: (0..config.layers).map(|i| Layer::load(i, config, weights)).collect::<Result<_, _>>()?,
            final_norm: values(&final_norm)?,
            head,
        })
    }

    /// One step, without what [`super::model::Model`] does for every backend.
    ///
    /// # Errors
    /// What `read` says.
    pub(super) fn compute(&self, step: Step<'_>, rope: &RopeTable, pool: &mut Pool, read: RawLogits<'_>) -> Result<(), EngineError> {
        let Step { ids, segments, wanted, .. } = step;
        let mut x = match &self.embedding {
            Some(embedding) => pick(embedding, self.hidden, ids),
            None => self.head.embed(ids),
        };
        for (index, layer) in self.layers.iter().enumerate() {
            let qkv = layer.qkv.forward(&self.norm(&x, &layer.input_norm));
            let queries = cpu::rotate_and_write(&qkv, segments, self.heads, rope, pool, index);
            if index + 1 < self.layers.len() {
                self.attend_and_feed(index, layer, &mut x, &queries, segments, pool);
            } else if !wanted.is_empty() {
                // Nothing reads the last layer's output of the other rows.
                let (queries, of_wanted) = (pick(&queries, self.heads.query * self.heads.dim, wanted), segments_of(segments, wanted));
                x = pick(&x, self.hidden, wanted);
                self.attend_and_feed(index, layer, &mut x, &queries, &of_wanted, pool);
            }
        }
        let pieces = wanted.chunks(LOGIT_ROWS).zip(x.chunks(LOGIT_ROWS * self.hidden));
        for (piece, (_, rows)) in pieces.enumerate() {
            let logits = self.head.forward(&self.norm(rows, &self.final_norm));
            read(piece * LOGIT_ROWS, MadeRows { logits, read: Vec::new() })?;
        }
        Ok(())
    }

    /// The rest of a layer, for the rows of `x`.
    fn attend_and_feed(&self, index: usize, layer: &Layer, x: &mut [f32], queries: &[f32], segments: &[Segment], pool: &Pool) {
        layer.output.add_to(&cpu::paged_attention(queries, segments, self.heads, pool, index), x);
        let gate_up = layer.gate_up.forward(&self.norm(x, &layer.post_norm));
        layer.down.add_to(&cpu::silu_mul(&gate_up, self.intermediate), x);
    }

    fn norm(&self, x: &[f32], weight: &[f32]) -> Vec<f32> {
        cpu::rms_norm(x, weight, self.epsilon)
    }
}

/// Some rows of a matrix.
fn pick(matrix: &[f32], width: usize, rows: &[u32]) -> Vec<f32> {
    rows.iter().flat_map(|row| &matrix[*row as usize * width..][..width]).copied().collect()
}

impl Layer {
    fn load(index: usize, config: &Config, weights: &Weights<'_>) -> Result<Self, EngineError> {
        let tensors = LayerTensors::load(index, config, weights)?;
        Ok(Layer {
            input_norm: values(&tensors.input_norm)?,
            qkv: linear(&tensors.qkv, tensors.qkv_bias.as_ref())?,
            output: linear(&tensors.output, tensors.output_bias.as_ref())?,
            post_norm: values(&tensors.post_norm)?,
            gate_up: linear(&tensors.gate_up, None)?,
            down: linear(&tensors.down, None)?,
        })
    }
}

fn linear(weight: &Tensor, bias: Option<&Tensor>) -> Result<Linear, EngineError> {
    Linear::new(weight, bias).map_err(failed("failed to lay out weights"))
}

fn values(tensor: &Tensor) -> Result<Vec<f32>, EngineError> {
    tensor.flatten_all().and_then(|t| t.to_vec1()).map_err(failed("failed to read weights"))
}
