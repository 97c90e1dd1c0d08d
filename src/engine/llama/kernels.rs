//! The backend of the CPU: this program's own kernels over packed `f32` rows.

use super::checkpoint::{Ends, LayerTensors, Matrix};
use super::config::Config;
use super::device::failed;
use super::kv::Pool;
use super::model::{LOGIT_ROWS, MadeRows, RawLogits, Step};
use super::ops::{
    Heads, Segment,
    blocks::Panel,
    cpu::{self, RopeTable},
    linear::{Linear, PANEL},
    segments_of,
};
use super::weights::Weights;
use crate::engine::EngineError;
use candle_core::{DType, Tensor};
use rayon::prelude::*;

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
    /// `None` where the head is the embedding too: at 128k tokens a second copy would be most of a small model.
    embedding: Option<Linear>,
    layers: Vec<Layer>,
    final_norm: Vec<f32>,
    head: Linear,
}

/// What the layers of a step leave to each other. Of one step: memory that is given back and asked for in every layer goes to the system and
/// comes back cleared, page by page, which can take as long as the products.
#[derive(Default)]
struct Buffers {
    normed: Vec<f32>,
    /// Queries, keys and values; gate and up.
    wide: Vec<f32>,
    queries: Vec<f32>,
    /// What goes into the products back into the stream.
    narrow: Vec<f32>,
}

impl Kernels {
    /// Takes the tensors out of the weight files.
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    pub(super) fn load(config: &Config, weights: &Weights<'_>) -> Result<Self, EngineError> {
        let Ends { embedding, head, final_norm } = Ends::<Stored>::load(config, weights)?;
        let (embedding, head) = match head {
            None => (None, embedding.linear(None)?),
            Some(head) => (Some(embedding.linear(None)?), head.linear(None)?),
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
        let mut x = self.embedding.as_ref().unwrap_or(&self.head).embed(ids);
        let mut work = Buffers::default();
        for (index, layer) in self.layers.iter().enumerate() {
            self.norm(&x, &layer.input_norm, &mut work.normed);
            layer.qkv.forward_into(&work.normed, &mut work.wide);
            cpu::rotate_and_write(&work.wide, segments, self.heads, rope, (pool, index), &mut work.queries);
            if index + 1 < self.layers.len() {
                self.attend_and_feed(layer, &mut x, segments, (pool, index), &mut work);
            } else if !wanted.is_empty() {
                // Nothing reads the last layer's output of the other rows.
                work.queries = pick(&work.queries, self.heads.query * self.heads.dim, wanted);
                x = pick(&x, self.hidden, wanted);
                self.attend_and_feed(layer, &mut x, &segments_of(segments, wanted), (pool, index), &mut work);
            }
        }
        let pieces = wanted.chunks(LOGIT_ROWS).zip(x.chunks(LOGIT_ROWS * self.hidden));
        for (piece, (_, rows)) in pieces.enumerate() {
            self.norm(rows, &self.final_norm, &mut work.normed);
            read(piece * LOGIT_ROWS, MadeRows { logits: self.head.forward(&work.normed), read: Vec::new() })?;
        }
        Ok(())
    }

    /// The rest of a layer, for the rows of `x`, whose queries lie ready.
    fn attend_and_feed(&self, layer: &Layer, x: &mut [f32], segments: &[Segment], pages: (&Pool, usize), work: &mut Buffers) {
        cpu::paged_attention(&work.queries, segments, self.heads, pages, &mut work.narrow);
        layer.output.add_to(&work.narrow, x);
        self.norm(x, &layer.post_norm, &mut work.normed);
        layer.gate_up.forward_into(&work.normed, &mut work.wide);
        cpu::silu_mul(&work.wide, self.intermediate, &mut work.narrow);
        layer.down.add_to(&work.narrow, x);
    }

    fn norm(&self, x: &[f32], weight: &[f32], out: &mut Vec<f32>) {
        cpu::rms_norm(x, weight, self.epsilon, out);
    }
}

/// Some rows of a matrix.
fn pick(matrix: &[f32], width: usize, rows: &[u32]) -> Vec<f32> {
    rows.iter().flat_map(|row| &matrix[*row as usize * width..][..width]).copied().collect()
}

impl Layer {
    fn load(index: usize, config: &Config, weights: &Weights<'_>) -> Result<Self, EngineError> {
        let tensors = LayerTensors::<Stored>::load(index, config, weights)?;
        Ok(Layer {
            input_norm: values(&tensors.input_norm)?,
            qkv: tensors.qkv.linear(tensors.qkv_bias.as_ref())?,
            output: tensors.output.linear(tensors.output_bias.as_ref())?,
            post_norm: values(&tensors.post_norm)?,
            gate_up: tensors.gate_up.linear(None)?,
            down: tensors.down.linear(None)?,
        })
    }
}

/// A matrix as its file has it.
enum Stored {
    /// In f32, bf16 or f16.
    Tensor(Tensor),
    /// In panels of blocks, and its shape.
    Quantised(Vec<Panel>, [usize; 2]),
}

impl Matrix for Stored {
    fn rows(weights: &Weights<'_>, parts: &[(String, usize)], inner: usize) -> Result<Self, EngineError> {
        let mut panels = Vec::new();
        for (at, (name, out)) in parts.iter().enumerate() {
            // What stands below begins with a whole panel, or all of it is expanded.
            let whole = at + 1 == parts.len() || out.is_multiple_of(PANEL);
            let more = weights
                .quantised(name, [*out, inner])?
                .filter(|_| whole)
                .and_then(|(dtype, rows)| rows.par_chunks(PANEL).map(|rows| Panel::new(dtype, rows)).collect::<Option<Vec<Panel>>>());
            match more {
                Some(more) => panels.extend(more),
                None => return Tensor::rows(weights, parts, inner).map(Stored::Tensor),
            }
        }
        Ok(Stored::Quantised(panels, [parts.iter().map(|(_, out)| out).sum(), inner]))
    }

    fn columns(weights: &Weights<'_>, name: &str, [out, inner]: [usize; 2]) -> Result<Self, EngineError> {
        Stored::rows(weights, &[(name.to_owned(), out)], inner)
    }
}

impl Stored {
    fn linear(self, bias: Option<&Tensor>) -> Result<Linear, EngineError> {
        let linear = match self {
            Stored::Tensor(weight) => Linear::new(&weight, bias),
            Stored::Quantised(panels, shape) => Linear::quantised(panels, shape, bias),
        };
        linear.map_err(failed("failed to lay out weights"))
    }
}

fn values(tensor: &Tensor) -> Result<Vec<f32>, EngineError> {
    tensor.to_dtype(DType::F32).and_then(|t| t.to_vec1()).map_err(failed("failed to read weights"))
}
