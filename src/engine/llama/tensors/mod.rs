//! The backend of devices: the forward pass in tensor operations, on any device of the tensor library, in f32, bf16 or f16.
//!
//! Products in the data type of the weights (the library adds up in f32), norms, scores and softmax in f32. Slow but complete: the library's
//! operations one after the other. Or faster: those of `fused`, written for this program, for everything but products, where there is one. What a
//! row gets may depend on its company by a rounding error, because a product may add up in another order for another number of rows.

mod attention;
mod fused;
pub(super) mod pages;

pub(super) use attention::PIECE;

use super::checkpoint::{Ends, LayerTensors};
use super::config::Config;
use super::device::failed;
use super::dist::peers::Peer;
use super::kv::{PAGE, Pool};
use super::model::{LOGIT_ROWS, MadeRows, RawLogits, Reading, Step};
use super::ops::{Heads, Segment, cpu::RopeTable, segments_of};
use super::weights::Weights;
use super::{LogitType, TensorOps};
use crate::engine::EngineError;
use attention::Sight;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{ops::rms_norm, rotary_emb::rope_thd};
use fused::{
    attention::{self as paged, Attended, Tiles},
    logprobs::logprob_rows,
    rows::{self, Slots},
};
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

/// How a model is computed.
#[derive(Clone, Copy)]
pub(super) struct Way {
    /// F32, BF16 or F16.
    pub(super) dtype: DType,
    /// That of the output head.
    pub(super) logits: LogitType,
    pub(super) ops: TensorOps,
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
    ops: TensorOps,
    /// Numbers of one piece of attention.
    piece: usize,
    /// The devices that hold the other shares.
    peer: Option<Peer>,
}

/// What one step needs in every layer.
struct Ready {
    destination: Destination,
    cos: Tensor,
    sin: Tensor,
    look: Look,
    /// The wanted rows, and what they look at when they stand alone.
    last: Option<(Tensor, Look)>,
}

/// Where keys and values go.
enum Destination {
    Eager(Targets),
    /// For each row the number of its place among those of all pages.
    Fused(Tensor),
}

/// Which rows look at which pages.
enum Look {
    Eager(Sight),
    Fused(Tiles),
}

impl Look {
    /// Attention of all rows in one layer: `[row][query head * head_dim]` in, the same out.
    fn attend(&self, queries: &Tensor, heads: Heads, pages: &TensorPages, layer: usize) -> Result<Tensor> {
        match self {
            Look::Eager(sight) => sight.attend(queries, heads, pages, layer),
            Look::Fused(tiles) => tiles.attend(Attended { queries, keys: pages.keys(layer)?, values: pages.values(layer)? }),
        }
    }
}

/// The residual stream, and what is still to be added to it: a norm follows, which adds and norms at once.
pub(super) struct Stream {
    x: Tensor,
    more: Option<Tensor>,
}

impl Stream {
    fn pick(&self, pick: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Stream> {
        Ok(Stream { x: pick(&self.x)?, more: self.more.as_ref().map(pick).transpose()? })
    }
}

impl Tensors {
    /// Takes the tensors out of the weight files: each goes from its file to the device by itself, in the data type of the weights.
    ///
    /// # Errors
    /// A missing or misshapen tensor; a device whose memory is used up.
    pub(super) fn load(config: &Config, weights: &Weights<'_>, device: &Device, way: Way) -> std::result::Result<Self, EngineError> {
        let failed = failed("failed to lay out weights");
        let Ends { embedding, head, final_norm } = Ends::<Tensor>::load(config, weights)?;
        let head = head.unwrap_or_else(|| embedding.clone());
        let head = match way.logits {
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
            dtype: way.dtype,
            device: device.clone(),
            ops: way.ops,
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
        let Some(stream) = self.layers(step, rope, pages).map_err(&failed)? else { return Ok(()) };
        for first in (0..step.wanted.len()).step_by(LOGIT_ROWS) {
            let rows = LOGIT_ROWS.min(step.wanted.len() - first);
            let made = self.logits(&stream, first, rows).and_then(|logits| self.read(&logits, &step.readings[first..first + rows]));
            read(first, made.map_err(&failed)?)?;
        }
        Ok(())
    }

    /// The residual stream of the wanted rows behind the last layer: on every device of a model the same.
    pub(super) fn layers(&self, step: Step<'_>, rope: &RopeTable, pages: &TensorPages) -> Result<Option<Stream>> {
        let ready = self.prepare(step, rope, pages)?;
        let mut stream = Stream { x: self.embed(step.ids)?, more: None };
        for (index, layer) in self.layers.iter().enumerate() {
            let (x, normed) = self.add_norm(&stream, &layer.input_norm)?;
            let queries = self.write_keys_and_values(index, layer, &normed, &ready, pages)?;
            if index + 1 < self.layers.len() {
                stream = self.feed(layer, x, &ready.look.attend(&queries, self.heads, pages, index)?)?;
            } else if let Some((wanted, look)) = &ready.last {
                // Nothing reads the last layer's output of the other rows.
                let (queries, rest) = (queries.index_select(wanted, 0)?, x.index_select(wanted, 0)?);
                return Ok(Some(self.feed(layer, rest, &look.attend(&queries, self.heads, pages, index)?)?));
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
            Some((Tensor::new(step.wanted, &self.device)?, self.look(&segments_of(step.segments, step.wanted))?))
        };
        let destination = match self.ops {
            TensorOps::Eager => Destination::Eager(pages.targets(step.segments)?),
            TensorOps::Fused => Destination::Fused(pages.slots(step.segments)?),
        };
        Ok(Ready { destination, cos: table(cos)?, sin: table(sin)?, look: self.look(step.segments)?, last })
    }

    fn look(&self, segments: &[Segment]) -> Result<Look> {
        Ok(if self.ops == TensorOps::Fused && paged::fits(self.heads) {
            Look::Fused(Tiles::new(segments, self.heads, self.dtype, &self.device)?)
        } else {
            Look::Eager(Sight::new(segments, self.heads, self.piece, &self.device)?)
        })
    }

    /// Queries of all rows, `[row][query head * dim]`; their keys and values go into the pages.
    fn write_keys_and_values(&self, index: usize, layer: &Layer, normed: &Tensor, ready: &Ready, pages: &TensorPages) -> Result<Tensor> {
        let Heads { query, kv, dim } = self.heads;
        let qkv = layer.qkv.forward(normed)?;
        let targets = match &ready.destination {
            Destination::Eager(targets) => targets,
            Destination::Fused(slots) => {
                let to = Slots { keys: pages.keys(index)?, values: pages.values(index)?, slots };
                return rows::rotate_and_write(&qkv, (&ready.cos, &ready.sin), to, self.heads);
            }
        };
        let rows = qkv.dim(0)?;
        let rotated = |first: usize, heads: usize| {
            let part = qkv.narrow(1, first * dim, heads * dim)?.contiguous()?.reshape((1, rows, heads, dim))?;
            rope_thd(&part, &ready.cos, &ready.sin)?.reshape((rows, heads * dim))
        };
        let values = qkv.narrow(1, (query + kv) * dim, kv * dim)?.contiguous()?;
        pages.write(index, targets, &rotated(query, kv)?, &values)?;
        rotated(0, query)
    }

    /// The rest of a layer.
    fn feed(&self, layer: &Layer, x: Tensor, attended: &Tensor) -> Result<Stream> {
        let stream = Stream { x, more: Some(self.summed(layer.output.forward(attended)?)?) };
        let (x, normed) = self.add_norm(&stream, &layer.post_norm)?;
        let gate_up = layer.gate_up.forward(&normed)?;
        let gated = match self.ops {
            TensorOps::Fused => rows::silu_mul(&gate_up)?,
            TensorOps::Eager => {
                let gate = gate_up.narrow(1, 0, self.intermediate)?.contiguous()?.silu()?;
                (gate * gate_up.narrow(1, self.intermediate, self.intermediate)?.contiguous()?)?
            }
        };
        Ok(Stream { x, more: Some(self.summed(layer.down.forward(&gated)?)?) })
    }

    /// The stream with nothing left to add, and its norm.
    fn add_norm(&self, stream: &Stream, weight: &Tensor) -> Result<(Tensor, Tensor)> {
        let Stream { x, more } = stream;
        if self.ops == TensorOps::Fused {
            return rows::add_rms_norm(x, more.as_ref(), weight, self.epsilon);
        }
        let x = match more {
            None => x.clone(),
            Some(more) => (x + more)?,
        };
        let normed = rms_norm(&x.to_dtype(DType::F32)?, weight, self.epsilon)?.to_dtype(self.dtype)?;
        Ok((x, normed))
    }

    /// Logits of some rows, `[row][vocabulary]`: of a share those of its tokens.
    pub(super) fn logits(&self, stream: &Stream, first: usize, rows: usize) -> Result<Tensor> {
        let (_, normed) = self.add_norm(&stream.pick(|x| x.narrow(0, first, rows)?.contiguous())?, &self.final_norm)?;
        self.head.forward(&normed.to_dtype(self.head.weight.dtype())?)
    }

    /// What is wanted of some rows, on the host.
    fn read(&self, logits: &Tensor, readings: &[Reading]) -> Result<MadeRows> {
        if self.ops == TensorOps::Eager || readings.iter().all(|reading| *reading == Reading::Whole) {
            return Ok(MadeRows { logits: on_host(logits)?, read: Vec::new() });
        }
        let whole: Vec<u32> = (0u32..).zip(readings).filter(|(_, reading)| **reading == Reading::Whole).map(|(row, _)| row).collect();
        let targets: Vec<&[u32]> = readings.iter().map(Reading::targets).collect();
        let read = logprob_rows(logits, &targets)?.into_iter().zip(readings);
        let read = read.map(|(read, reading)| (*reading != Reading::Whole).then_some(read)).collect();
        let logits = if whole.is_empty() { Vec::new() } else { on_host(&logits.index_select(&Tensor::new(whole, &self.device)?, 0)?)? };
        Ok(MadeRows { logits, read })
    }
}

/// Numbers cross the bus as they are, and are widened here.
pub(super) fn on_host(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = tensor.flatten_all()?;
    match tensor.dtype() {
        DType::BF16 => Ok(tensor.to_vec1::<bf16>()?.into_par_iter().map(bf16::to_f32).collect()),
        DType::F16 => Ok(tensor.to_vec1::<f16>()?.into_par_iter().map(f16::to_f32).collect()),
        _ => tensor.to_vec1(),
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
