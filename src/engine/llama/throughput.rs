//! How fast a model runs, beside what the machine can do: the largest matrix product and copy rates, measured in the same minute, and a
//! model's prefill and decode as shares of them.
//!
//! A share is arithmetic over measured time: the multiplications that the weights demand, or the bytes that a decoding step must read, divided
//! by seconds and by the peak. Attention, norms and sampling count as time and not as work.

use super::batch::{Limits, Listener, TokenOutput, TokenRequest};
use super::config::Config;
use super::device::{Numbers, failed};
use super::dist::replicas::Replicas;
use super::model::Model;
use super::ops::linear::Linear;
use crate::engine::{EngineError, Sampling, Stats};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

/// What the machine can do at best.
#[derive(Clone, Copy, Debug)]
pub struct Peaks {
    /// Floating-point operations a second in a large matrix product (a multiply-add is two), in the model's data type.
    pub flops: f64,
    /// Bytes a second that a copy moves between large buffers, reads and writes counted.
    pub bytes: f64,
}

impl Peaks {
    /// What so many such devices can do together.
    #[must_use]
    pub fn times(self, devices: usize) -> Self {
        Peaks { flops: self.flops * devices as f64, bytes: self.bytes * devices as f64 }
    }
}

/// How long a peak is looked for: other work on the machine hides it for moments.
const LOOK: Duration = Duration::from_secs(1);

/// Measures the peaks of what a model computes with, of several devices those of the first: the best of many tries. Where the machine is busy all the while they come out too low,
/// and shares of them too high.
///
/// # Errors
/// When memory runs out.
pub fn peaks(model: &Model) -> Result<Peaks, EngineError> {
    match model.numbers() {
        Numbers::Kernels { .. } => peaks_of_kernels(),
        Numbers::Tensors { dtype, .. } => peaks_of_tensors(model.place().device(), dtype).map_err(failed("the device failed")),
    }
}

/// A product and a copy on a device, each waited for.
fn peaks_of_tensors(device: &Device, dtype: DType) -> candle_core::Result<Peaks> {
    let (side, numbers) = if device.is_cpu() { (1024, 32 << 20) } else { (8192, 1 << 30) };
    let matrix = Tensor::ones((side, side), dtype, device)?;
    let large = Tensor::ones(numbers, dtype, device)?;
    // The first of each loads its kernel.
    drop((matrix.matmul(&matrix)?, large.copy()?));
    let product = best(|| drop(matrix.matmul(&matrix).and_then(|_| device.synchronize())));
    let copy = best(|| drop(large.copy().and_then(|_| device.synchronize())));
    let bytes = (2 * dtype.size_in_bytes() * numbers) as f64;
    Ok(Peaks { flops: 2.0 * (side as f64).powi(3) / product, bytes: bytes / copy })
}

fn peaks_of_kernels() -> Result<Peaks, EngineError> {
    const SIDE: usize = 1024;
    const FLOATS: usize = 32 << 20;
    const CHUNK: usize = 1 << 20;
    let failed = failed("the matrix product failed");
    let matrix = Tensor::rand(-1.0f32, 1.0, (SIDE, SIDE), &Device::Cpu).map_err(&failed)?;
    let linear = Linear::new(&matrix, None).map_err(&failed)?;
    let rows = vec![1.0; SIDE * SIDE];
    let own = best(|| drop(linear.forward(&rows)));
    // Of two implementations the faster one says what the machine can do.
    matrix.matmul(&matrix).map_err(&failed)?;
    let candle = best(|| drop(matrix.matmul(&matrix)));
    let (from, mut to) = (vec![1.0f32; FLOATS], vec![0.0f32; FLOATS]);
    let copy = best(|| to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| to.copy_from_slice(from)));
    let flops = 2.0 * (SIDE * SIDE * SIDE) as f64 / own.min(candle);
    Ok(Peaks { flops, bytes: (2 * 4 * FLOATS) as f64 / copy })
}

/// Seconds of the fastest of all tries that fit into [`LOOK`].
fn best(mut work: impl FnMut()) -> f64 {
    let (began, mut best) = (Instant::now(), f64::INFINITY);
    while began.elapsed() < LOOK {
        let started = Instant::now();
        work();
        best = best.min(started.elapsed().as_secs_f64());
    }
    best
}

/// A set of documents: their prompts begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// How many.
    pub documents: usize,
    /// Tokens that all prompts begin with.
    pub shared: usize,
    /// Further tokens of each.
    pub own: usize,
    /// New tokens of each; at least 1.
    pub new: usize,
}

/// What a workload took.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Wall time.
    pub seconds: f64,
    /// What was computed and shared.
    pub stats: Stats,
}

/// Runs a workload greedily, without end tokens.
///
/// # Errors
/// Broken weights.
pub fn run(models: &mut Replicas, work: Workload, limits: Limits) -> Result<Taken, EngineError> {
    let requests: Vec<TokenRequest> = (0..work.documents)
        .map(|document| TokenRequest::Generate {
            prompt: prompt(models.first().config(), document, work),
            max_new: work.new.max(1),
            end: Vec::new(),
            sampling: Sampling::GREEDY,
            sample: 0,
        })
        .collect();
    let started = Instant::now();
    let mut done = |_: usize, _: TokenOutput| ControlFlow::Continue(());
    let mut listener = Listener { stops: &|_, _| false, done: &mut done, go_on: &|| true };
    let stats = models.run(&requests, limits, &mut listener)?;
    Ok(Taken { seconds: started.elapsed().as_secs_f64(), stats })
}

/// Tokens without a pattern, the same for every document up to `shared`.
fn prompt(config: &Config, document: usize, work: Workload) -> Vec<u32> {
    // The finaliser of splitmix64: no two documents go the same way by accident, however small the vocabulary.
    let token = |at: usize, of: usize| {
        let mut mixed = (((of as u64) << 32) + at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % config.vocab_size as u64) as u32
    };
    let shared = (0..work.shared).map(|at| token(at, 0));
    shared.chain((0..work.own).map(|at| token(at, document + 1))).collect()
}

impl Taken {
    /// Prompt tokens a second, in the steps that computed any.
    pub fn prefill_rate(&self) -> f64 {
        self.stats.prefill_tokens as f64 / self.stats.prefill_seconds
    }

    /// Part of the peak of matrix products that the weights' multiplications came to in prefill. Of `wanted` rows the logits were wanted:
    /// only they go through the head, and beyond keys and values of the last layer.
    pub fn share_of_flops(&self, config: &Config, wanted: u64, peaks: Peaks) -> f64 {
        let rows = self.stats.prefill_tokens;
        let unwanted = rows.saturating_sub(wanted) * config.weights_after_attention();
        let work = 2.0 * (rows * config.layer_weights() + wanted * config.head_weights() - unwanted) as f64;
        work / self.stats.prefill_seconds / peaks.flops
    }

    /// New tokens a second in the steps that only decode.
    pub fn decode_rate(&self, work: Workload) -> f64 {
        let steps = work.new.saturating_sub(1);
        (steps * work.documents) as f64 / self.stats.decode_seconds
    }

    /// Part of the peak of copies that the bytes read in decoding came to: each step reads the weights of every replica once, and each
    /// sequence's keys and values.
    pub fn share_of_bytes(&self, models: &Replicas, work: Workload, peaks: Peaks) -> f64 {
        let (config, bytes) = (models.first().config(), models.first().numbers().bytes());
        let steps = work.new.saturating_sub(1) as u64;
        // No more replicas decode than there are sequences.
        let weights = models.count().min(work.documents) as u64 * bytes * (config.layer_weights() + config.head_weights());
        let held: u64 = (0..steps).map(|step| (work.shared + work.own) as u64 + step + 1).sum();
        let read = steps * weights + work.documents as u64 * held * config.kv_bytes() / 4 * bytes;
        read as f64 / self.stats.decode_seconds / peaks.bytes
    }
}
