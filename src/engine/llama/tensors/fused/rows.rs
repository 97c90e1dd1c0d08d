//! Operations that take every row of a step by itself.

use super::launch::{Argument, Launch, Source, suffix};
use super::{Number, Op, blank, by_type, reading, writing};
use crate::engine::llama::ops::Heads;
use candle_core::{Result, Tensor};
use rayon::prelude::*;

/// Threads of a block, which has one row.
const THREADS: usize = 256;
/// Bytes with which the warps of a block add up.
const SCRATCH: usize = THREADS / 32 * size_of::<f32>();

fn launch<'l>(name: &str, numbers: &Tensor, rows: usize, shared: usize, arguments: Vec<Argument<'l>>) -> Launch<'l> {
    let kernel = format!("{name}_{}", suffix(numbers));
    Launch { kernel, source: Source::Rows, grid: (rows, 1), threads: THREADS, shared, arguments }
}

/// Where keys and values of a layer lie, `[page][token][kv_head * dim]`, and where each row of a step goes.
#[derive(Clone, Copy)]
pub(in super::super) struct Slots<'s> {
    pub(in super::super) keys: &'s Tensor,
    pub(in super::super) values: &'s Tensor,
    /// For each row its page times the tokens of a page, and its token there.
    pub(in super::super) slots: &'s Tensor,
}

/// Rotates queries and keys of packed rows `[query + 2 * kv heads][dim]` by `cos` and `sin`, `[row][dim / 2]`, and writes keys and values to their
/// slots. Gives the queries, `[row][query head * dim]`.
pub(in super::super) fn rotate_and_write(qkv: &Tensor, (cos, sin): (&Tensor, &Tensor), to: Slots<'_>, heads: Heads) -> Result<Tensor> {
    let queries = blank((qkv.dim(0)?, heads.query * heads.dim), qkv.dtype(), qkv.device())?;
    rotation(qkv, (cos, sin), to, heads, &queries)?.run(qkv.device())?;
    Ok(queries)
}

pub(super) fn rotation<'o>(
    qkv: &'o Tensor,
    (cos, sin): (&'o Tensor, &'o Tensor),
    to: Slots<'o>,
    heads: Heads,
    queries: &'o Tensor,
) -> Result<Op<'o>> {
    use Argument::{Tensor as T, U32};
    let Slots { keys, values, slots } = to;
    let tensors = [T(qkv), T(cos), T(sin), T(slots), T(queries), T(keys), T(values)];
    let arguments = tensors.into_iter().chain([U32(heads.query), U32(heads.kv), U32(heads.dim)]).collect();
    let launch = launch("rotate_and_write", qkv, qkv.dim(0)?, 0, arguments);
    Ok(Op::new(vec![launch], move || by_type!(qkv, rotate_on_cpu(qkv, (cos, sin), to, heads, queries))))
}

fn rotate_on_cpu<T: Number>(qkv: &Tensor, (cos, sin): (&Tensor, &Tensor), to: Slots<'_>, heads: Heads, queries: &Tensor) -> Result<()> {
    let Heads { query, kv, dim } = heads;
    let (width, half) = ((query + 2 * kv) * dim, dim / 2);
    let rotate = |from: &[T], to: &mut [T], cos: &[T], sin: &[T]| {
        for (from, to) in from.chunks_exact(dim).zip(to.chunks_exact_mut(dim)) {
            for i in 0..half {
                let (low, high, c, s) = (from[i].widen(), from[i + half].widen(), cos[i].widen(), sin[i].widen());
                to[i] = T::narrow(low * c - high * s);
                to[i + half] = T::narrow(high * c + low * s);
            }
        }
    };
    let (of_queries, of_keys) = (0..query * dim, query * dim..(query + kv) * dim);
    reading(qkv, |qkv: &[T]| {
        reading(cos, |cos: &[T]| {
            reading(sin, |sin: &[T]| {
                let rows = || qkv.chunks_exact(width).zip(cos.chunks_exact(half).zip(sin.chunks_exact(half)));
                writing(queries, |queries: &mut [T]| {
                    let rows = rows().zip(queries.chunks_exact_mut(query * dim));
                    rows.for_each(|((row, (cos, sin)), to)| rotate(&row[of_queries.clone()], to, cos, sin));
                })?;
                reading(to.slots, |slots: &[u32]| {
                    let slot = |slot: &u32| *slot as usize * kv * dim..(*slot as usize + 1) * kv * dim;
                    writing(to.keys, |keys: &mut [T]| {
                        let rows = rows().zip(slots);
                        rows.for_each(|((row, (cos, sin)), to)| rotate(&row[of_keys.clone()], &mut keys[slot(to)], cos, sin));
                    })?;
                    writing(to.values, |values: &mut [T]| {
                        let rows = qkv.chunks_exact(width).zip(slots);
                        rows.for_each(|(row, to)| values[slot(to)].copy_from_slice(&row[of_keys.end..]));
                    })
                })
            })
        })
    })
}

/// `x + more` (`x` where there is no more), and that divided by its root mean square and times `weight` (f32, one for each number of a row).
pub(in super::super) fn add_rms_norm(x: &Tensor, more: Option<&Tensor>, weight: &Tensor, epsilon: f32) -> Result<(Tensor, Tensor)> {
    let normed = blank(x.shape(), x.dtype(), x.device())?;
    let Some(more) = more else {
        norm(x, weight, epsilon, &normed)?.run(x.device())?;
        return Ok((x.clone(), normed));
    };
    let sum = blank(x.shape(), x.dtype(), x.device())?;
    sum_and_norm((x, more), weight, epsilon, (&sum, &normed))?.run(x.device())?;
    Ok((sum, normed))
}

pub(super) fn norm<'o>(x: &'o Tensor, weight: &'o Tensor, epsilon: f32, normed: &'o Tensor) -> Result<Op<'o>> {
    use Argument::{F32, Tensor as T, U32};
    let (rows, width) = x.dims2()?;
    let launch = launch("rms_norm", x, rows, SCRATCH, vec![T(x), T(weight), T(normed), U32(width), F32(epsilon)]);
    Ok(Op::new(vec![launch], move || by_type!(x, norm_on_cpu(x, weight, epsilon, normed))))
}

pub(super) fn sum_and_norm<'o>(
    (x, more): (&'o Tensor, &'o Tensor),
    weight: &'o Tensor,
    epsilon: f32,
    (sum, normed): (&'o Tensor, &'o Tensor),
) -> Result<Op<'o>> {
    use Argument::{F32, Tensor as T, U32};
    let (rows, width) = x.dims2()?;
    let arguments = vec![T(x), T(more), T(weight), T(sum), T(normed), U32(width), F32(epsilon)];
    let launch = launch("add_rms_norm", x, rows, SCRATCH, arguments);
    Ok(Op::new(vec![launch], move || {
        by_type!(x, add_on_cpu(x, more, sum))?;
        by_type!(x, norm_on_cpu(sum, weight, epsilon, normed))
    }))
}

fn add_on_cpu<T: Number>(x: &Tensor, more: &Tensor, sum: &Tensor) -> Result<()> {
    reading(x, |x: &[T]| {
        reading(more, |more: &[T]| {
            writing(sum, |sum: &mut [T]| {
                let numbers = sum.par_iter_mut().zip(x).zip(more).with_min_len(1 << 12);
                numbers.for_each(|((sum, x), more)| *sum = T::narrow(x.widen() + more.widen()));
            })
        })
    })
}

fn norm_on_cpu<T: Number>(x: &Tensor, weight: &Tensor, epsilon: f32, normed: &Tensor) -> Result<()> {
    let width = x.dim(1)?;
    reading(x, |x: &[T]| {
        reading(weight, |weight: &[f32]| {
            writing(normed, |normed: &mut [T]| {
                normed.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width)).for_each(|(to, row)| {
                    let squares: f32 = row.iter().map(|x| x.widen() * x.widen()).sum();
                    let scale = 1.0 / (squares / width as f32 + epsilon).sqrt();
                    to.iter_mut().zip(row.iter().zip(weight)).for_each(|(to, (x, w))| *to = T::narrow(x.widen() * scale * w));
                });
            })
        })
    })
}

/// `silu(gate) * up` of packed rows `[gate][up]`.
pub(in super::super) fn silu_mul(gate_up: &Tensor) -> Result<Tensor> {
    let (rows, width) = gate_up.dims2()?;
    let out = blank((rows, width / 2), gate_up.dtype(), gate_up.device())?;
    gate(gate_up, &out)?.run(gate_up.device())?;
    Ok(out)
}

pub(super) fn gate<'o>(gate_up: &'o Tensor, out: &'o Tensor) -> Result<Op<'o>> {
    use Argument::{Tensor as T, U32};
    let (rows, width) = out.dims2()?;
    let launch = launch("silu_mul", gate_up, rows, 0, vec![T(gate_up), T(out), U32(width)]);
    Ok(Op::new(vec![launch], move || by_type!(gate_up, gate_on_cpu(gate_up, width, out))))
}

fn gate_on_cpu<T: Number>(gate_up: &Tensor, width: usize, out: &Tensor) -> Result<()> {
    reading(gate_up, |gate_up: &[T]| {
        writing(out, |out: &mut [T]| {
            out.par_chunks_exact_mut(width).zip(gate_up.par_chunks_exact(2 * width)).for_each(|(to, row)| {
                let (gate, up) = row.split_at(width);
                for ((to, gate), up) in to.iter_mut().zip(gate).zip(up) {
                    let gate = gate.widen();
                    *to = T::narrow(gate / (1.0 + (-gate).exp()) * up.widen());
                }
            });
        })
    })
}
