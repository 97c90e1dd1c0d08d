//! The backend of devices: the forward pass in tensor operations, on any device of the tensor library, in f32, bf16 or f16.
//!
//! Products in the data type of the weights (the library adds up in f32), norms, scores and softmax in f32. Slow but complete: no operation is
//! written for this program. What a row gets may depend on its company by a rounding error, because a product may add up in another order for
//! another number of rows.

mod attention;
pub(super) mod pages;

pub(super) use attention::PIECE;

use super::LogitType;
use super::checkpoint::{Ends, LayerTensors};
use super::config::Config;
use super::device::failed;
use super::dist::peers::Peer;
use super::kv::{PAGE, Pool};
use super::model::{LOGIT_ROWS, RawLogits, Step};
use super::ops::{Heads, Segment, cpu::RopeTable, segments_of};
use super::weights::Weights;
use crate::engine::EngineError;
use attention::Sight;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{ops::rms_norm, rotary_emb::rope_thd};
use half::{bf16, f16};
use pages::{Targets, TensorPages};
use rayon::prelude::*;

/// `x W + b`.
struct Linear {
    /// `[out][in]`.
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let out = x.matmul(&self.weight.t()?)?;
        match &self.bias {
            None => Ok(out),
            Some(bias) => out.broadcast_add(bias),
        }
    }
}

struct Layer {
    /// Norms are f32.
    input_norm: Tensor,
    qkv: Linear,
    output: Linear,
    post_norm: Tensor,
    gate_up: Linear,
    down: Linear,
}

/// Weights as tensors on a device: a model's, or one share of them.
pub(super) struct Tensors {
    /// Of this share, as is `intermediate`.
    heads: Heads,
    intermediate: usize,
    epsilon: f32,
    /// Which tokens' embeddings are here, of how many.
    tokens: std::ops::Range<usize>,
    vocabulary: usize,
    embedding: Tensor,
    layers: Vec<Layer>,
    final_norm: Tensor,
    head: Linear,
    dtype: DType,
    device: Device,
    /// Numbers of one piece of attention.
    piece: usize,
    /// The devices that hold the other shares.
    peer: Option<Peer>,
}

/// What one step needs in every layer.
struct Ready {
    targets: Targets,
    cos: Tensor,
    sin: Tensor,
    sight: Sight,
    /// The wanted rows, and what they look at when they stand alone.
    last: Option<(Tensor, Sight)>,
}

impl Tensors {
    /// Takes the tensors out of the weight files: each goes from its file to the device by itself, in the data type of the weights.
    ///
    /// # Errors
    /// A missing or misshapen tensor; a device whose memory is used up.
    pub(super) fn load(
        config: &Config,
        weights: &Weights<'_>,
        device: &Device,
        dtype: DType,
        logits: LogitType,
    ) -> std::result::Result<Self, EngineError> {
        let failed = failed("failed to lay out weights");
        let Ends { embedding, head, final_norm } = Ends::<Tensor>::load(config, weights)?;
        let head = head.unwrap_or_else(|| embedding.clone());
        let head = match logits {
            LogitType::AsWeights => head,
            LogitType::F32 => head.to_dtype(DType::F32).map_err(&failed)?,
        };
        let share = weights.share();
        Ok(Tensors {
            heads: Heads { query: config.heads / share.of, kv: config.kv_heads / share.of, dim: config.head_dim },
            intermediate: config.intermediate_size / share.of,
            epsilon: config.rms_norm_eps as f32,
            tokens: share.range(config.vocab_size),
            vocabulary: config.vocab_size,
            embedding,
            layers: (0..config.layers)
                .map(|i| Layer::load(LayerTensors::load(i, config, weights)?).map_err(&failed))
                .collect::<std::result::Result<_, _>>()?,
            final_norm: final_norm.to_dtype(DType::F32).map_err(&failed)?,
            head: Linear { weight: head, bias: None },
            dtype,
            device: device.clone(),
            piece: PIECE,
            peer: None,
        })
    }

    /// Joins the devices of the other shares.
    pub(super) fn join(&mut self, peer: Peer) {
        self.peer = Some(peer);
    }

    /// Pages for this model's keys and values; where the room is known, for so many tokens and no more.
    pub(super) fn pages(&self, tokens: Option<usize>) -> TensorPages {
        let ceiling = tokens.map(|tokens| tokens / PAGE);
        TensorPages::new(self.layers.len(), self.heads.kv * self.heads.dim, self.dtype, &self.device, ceiling)
    }

    /// One step, without what [`super::model::Model`] does for every backend.
    ///
    /// # Errors
    /// What `read` says; a device that fails.
    pub(super) fn compute(
        &self,
        step: Step<'_>,
        rope: &RopeTable,
        pool: &mut Pool,
        read: RawLogits<'_>,
    ) -> std::result::Result<(), EngineError> {
        let [pages] = pool.tensors()? else { unreachable!("a model on one device has the pages of one device") };
        let failed = failed("the device failed");
        let Some(x) = self.layers(step, rope, pages).map_err(&failed)? else { return Ok(()) };
        for first in (0..step.wanted.len()).step_by(LOGIT_ROWS) {
            let rows = LOGIT_ROWS.min(step.wanted.len() - first);
            read(first, self.logits(&x, first, rows).map_err(&failed)?)?;
        }
        Ok(())
    }

    /// The residual stream of the wanted rows behind the last layer: on every device of a model the same.
    pub(super) fn layers(&self, step: Step<'_>, rope: &RopeTable, pages: &TensorPages) -> Result<Option<Tensor>> {
        let ready = self.prepare(step, rope, pages)?;
        let mut x = self.embed(step.ids)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let queries = self.write_keys_and_values(index, layer, &x, &ready, pages)?;
            if index + 1 < self.layers.len() {
                x = self.feed(layer, &x, &ready.sight.attend(&queries, self.heads, pages, index)?)?;
            } else if let Some((wanted, sight)) = &ready.last {
                // Nothing reads the last layer's output of the other rows.
                let (queries, rest) = (queries.index_select(wanted, 0)?, x.index_select(wanted, 0)?);
                return Ok(Some(self.feed(layer, &rest, &sight.attend(&queries, self.heads, pages, index)?)?));
            }
        }
        Ok(None)
    }

    /// Embeddings of tokens. A share has those of its own tokens and gives zeros for the others, so that the sum over all is exact.
    fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        if self.tokens == (0..self.vocabulary) {
            return self.embedding.index_select(&Tensor::new(ids, &self.device)?, 0);
        }
        let own = |id: &u32| self.tokens.contains(&(*id as usize));
        let places: Vec<u32> = ids.iter().map(|id| if own(id) { id - self.tokens.start as u32 } else { 0 }).collect();
        let mask: Vec<f32> = ids.iter().map(|id| f32::from(u8::from(own(id)))).collect();
        let mask = Tensor::from_vec(mask, (ids.len(), 1), &self.device)?.to_dtype(self.dtype)?;
        self.summed(self.embedding.index_select(&Tensor::new(places, &self.device)?, 0)?.broadcast_mul(&mask)?)
    }

    /// What all devices of the model give together.
    fn summed(&self, part: Tensor) -> Result<Tensor> {
        match &self.peer {
            None => Ok(part),
            Some(peer) => peer.sum(&part),
        }
    }

    fn prepare(&self, step: Step<'_>, rope: &RopeTable, pages: &TensorPages) -> Result<Ready> {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for Segment { rows, position, .. } in step.segments {
            for position in *position..position + rows {
                let (c, s) = rope.at(position);
                cos.extend_from_slice(c);
                sin.extend_from_slice(s);
            }
        }
        let rows = step.ids.len();
        let table = |values: Vec<f32>| Tensor::from_vec(values, (rows, self.heads.dim / 2), &self.device)?.to_dtype(self.dtype);
        let last = if step.wanted.is_empty() {
            None
        } else {
            let sight = Sight::new(&segments_of(step.segments, step.wanted), self.heads, self.piece, &self.device)?;
            Some((Tensor::new(step.wanted, &self.device)?, sight))
        };
        let sight = Sight::new(step.segments, self.heads, self.piece, &self.device)?;
        Ok(Ready { targets: pages.targets(step.segments)?, cos: table(cos)?, sin: table(sin)?, sight, last })
    }

    /// Queries of all rows, `[row][query head * dim]`; their keys and values go into the pages.
    fn write_keys_and_values(&self, index: usize, layer: &Layer, x: &Tensor, ready: &Ready, pages: &TensorPages) -> Result<Tensor> {
        let Heads { query, kv, dim } = self.heads;
        let qkv = layer.qkv.forward(&self.norm(x, &layer.input_norm)?)?;
        let rows = qkv.dim(0)?;
        let rotated = |first: usize, heads: usize| {
            let part = qkv.narrow(1, first * dim, heads * dim)?.contiguous()?.reshape((1, rows, heads, dim))?;
            rope_thd(&part, &ready.cos, &ready.sin)?.reshape((rows, heads * dim))
        };
        let values = qkv.narrow(1, (query + kv) * dim, kv * dim)?.contiguous()?;
        pages.write(index, &ready.targets, &rotated(query, kv)?, &values)?;
        rotated(0, query)
    }

    /// The rest of a layer.
    fn feed(&self, layer: &Layer, x: &Tensor, attended: &Tensor) -> Result<Tensor> {
        let x = (x + self.summed(layer.output.forward(attended)?)?)?;
        let gate_up = layer.gate_up.forward(&self.norm(&x, &layer.post_norm)?)?;
        let gate = gate_up.narrow(1, 0, self.intermediate)?.contiguous()?.silu()?;
        let up = gate_up.narrow(1, self.intermediate, self.intermediate)?.contiguous()?;
        &x + self.summed(layer.down.forward(&(gate * up)?)?)?
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        rms_norm(&x.to_dtype(DType::F32)?, weight, self.epsilon)?.to_dtype(self.dtype)
    }

    /// Logits of some rows, on the host: of a share those of its tokens.
    pub(super) fn logits(&self, x: &Tensor, first: usize, rows: usize) -> Result<Vec<f32>> {
        let x = self.norm(&x.narrow(0, first, rows)?.contiguous()?, &self.final_norm)?;
        let logits = self.head.forward(&x.to_dtype(self.head.weight.dtype())?)?.flatten_all()?;
        // They cross the bus as they are, and are widened here.
        match logits.dtype() {
            DType::BF16 => Ok(logits.to_vec1::<bf16>()?.into_par_iter().map(bf16::to_f32).collect()),
            DType::F16 => Ok(logits.to_vec1::<f16>()?.into_par_iter().map(f16::to_f32).collect()),
            _ => logits.to_vec1(),
        }
    }
}

impl Layer {
    fn load(tensors: LayerTensors<Tensor>) -> Result<Self> {
        let LayerTensors { input_norm, qkv, qkv_bias, output, output_bias, post_norm, gate_up, down } = tensors;
        Ok(Layer {
            input_norm: input_norm.to_dtype(DType::F32)?,
            qkv: Linear { weight: qkv, bias: qkv_bias },
            output: Linear { weight: output, bias: output_bias },
            post_norm: post_norm.to_dtype(DType::F32)?,
            gate_up: Linear { weight: gate_up, bias: None },
            down: Linear { weight: down, bias: None },
        })
    }
}
