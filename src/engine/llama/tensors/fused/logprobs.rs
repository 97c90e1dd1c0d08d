//! What greedy decoding and scoring read off rows of logits, read where the logits are: a few numbers cross the bus instead of a row.

use super::launch::{Argument, Launch, Source, suffix};
use super::{Number, Op, blank, by_type, reading, writing};
use crate::engine::llama::ops::{RowRead, cpu};
use candle_core::{DType, Result, Tensor};

/// Threads of a block, which has one row.
const THREADS: usize = 1024;
/// Bytes with which the warps of a block compare what they saw.
const SCRATCH: usize = THREADS / 32 * 16;
/// Numbers of a row's reading: largest logit, largest less second, logarithm of the sum of the exponentials of all less the largest, and the
/// largest one's id as the bits of a number.
const READ: usize = 4;

/// The largest logit of each row of `[row][vocabulary]`, and the log-probabilities of its targets.
///
/// # Errors
/// A device that fails; a target that is no token.
pub(in super::super) fn logprob_rows(logits: &Tensor, targets: &[&[u32]]) -> Result<Vec<RowRead>> {
    let (rows, vocab) = logits.dims2()?;
    let ids: Vec<u32> = targets.concat();
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
        candle_core::bail!("token {id} is asked for, but there are {vocab}");
    }
    let mut offsets = vec![0u32];
    offsets.extend(targets.iter().scan(0, |end, of_row| {
        *end += of_row.len() as u32;
        Some(*end)
    }));
    let device = logits.device();
    let asked = Asked { targets: Tensor::new(padded(ids).as_slice(), device)?, offsets: Tensor::from_vec(offsets, rows + 1, device)? };
    let read = blank((rows, READ), DType::F32, device)?;
    let of_targets = blank(asked.targets.dim(0)?, DType::F32, device)?;
    row_reading(logits, &asked, &read, &of_targets)?.run(device)?;
    let mut of_targets = of_targets.to_vec1::<f32>()?.into_iter();
    Ok(read.to_vec2::<f32>()?.iter().zip(targets).map(|(read, targets)| row(read, of_targets.by_ref().take(targets.len()))).collect())
}

/// No device has memory for no number.
fn padded(ids: Vec<u32>) -> Vec<u32> {
    if ids.is_empty() { vec![0] } else { ids }
}

/// A row with a logit that is not a number has no largest one.
fn row(read: &[f32], of_targets: impl Iterator<Item = f32>) -> RowRead {
    let (largest, sum) = (f64::from(read[0]), f64::from(read[2]));
    let logprobs = of_targets.map(|logit| f64::from(logit) - largest - sum).collect();
    let largest = if sum.is_nan() { f32::NAN } else { read[0] };
    RowRead { argmax: read[3].to_bits(), largest, gap: read[1], logprobs }
}

/// Whose log-probabilities are wanted.
pub(super) struct Asked {
    /// Token ids, those of one row after those of another.
    pub(super) targets: Tensor,
    /// Where those of each row begin, and where the last one's end.
    pub(super) offsets: Tensor,
}

/// Reads rows into `read`, `[row][READ]`, and the logits of targets into `of_targets`.
pub(super) fn row_reading<'o>(logits: &'o Tensor, asked: &'o Asked, read: &'o Tensor, of_targets: &'o Tensor) -> Result<Op<'o>> {
    use Argument::{Tensor as T, U32};
    let (rows, vocab) = logits.dims2()?;
    let arguments = vec![T(logits), T(&asked.targets), T(&asked.offsets), T(read), T(of_targets), U32(vocab)];
    let kernel = format!("logprob_rows_{}", suffix(logits));
    let launch = Launch { kernel, source: Source::Rows, grid: (rows, 1), threads: THREADS, shared: SCRATCH, arguments };
    Ok(Op::new(vec![launch], move || by_type!(logits, read_on_cpu(logits, asked, read, of_targets))))
}

fn read_on_cpu<T: Number>(logits: &Tensor, asked: &Asked, read: &Tensor, of_targets: &Tensor) -> Result<()> {
    let vocab = logits.dim(1)?;
    reading(logits, |logits: &[T]| {
        reading(&asked.targets, |targets: &[u32]| {
            reading(&asked.offsets, |offsets: &[u32]| {
                let (mut of_rows, mut found) = (Vec::new(), Vec::new());
                for (row, ends) in logits.chunks_exact(vocab).zip(offsets.windows(2)) {
                    let row: Vec<f32> = row.iter().map(|logit| logit.widen()).collect();
                    let choice = cpu::choose(&row);
                    let largest = row[choice.argmax as usize];
                    let sum = cpu::log_sum_exp(&row) - f64::from(largest);
                    of_rows.extend([largest, choice.gap, sum as f32, f32::from_bits(choice.argmax)]);
                    found.extend(targets[ends[0] as usize..ends[1] as usize].iter().map(|id| row[*id as usize]));
                }
                writing(read, |read: &mut [f32]| read.copy_from_slice(&of_rows))?;
                writing(of_targets, |of_targets: &mut [f32]| of_targets[..found.len()].copy_from_slice(&found))
            })
        })
    })
}
