//! Causal attention over pages, prompts and single new tokens alike: nothing is gathered, and a page is read once for all query heads that share
//! a key head.
//!
//! The rows of a segment, as pairs of a token and a head of the group, are cut into tiles. Where a segment has few tiles and many pages, its pages
//! are split among several blocks, whose sums are merged. Both depend on the segment alone.

use super::launch::{Argument, Launch, Source, suffix};
use super::{Number, Op, blank, by_type, reading, writing};
use crate::engine::llama::kv::PAGE;
use crate::engine::llama::ops::{Heads, Segment};
use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;
use std::f64::consts::LN_2;

/// Sizes of heads that there are kernels for.
const DIMS: [usize; 3] = [32, 64, 128];
/// Rows that a warp has in tensor cores' products.
const WARP_ROWS: usize = 16;
/// Warps of a block that has a tile of as many warps' rows.
const WARPS: usize = 4;
/// Pages that a block goes over at least where a tile's are split.
const SPLIT_PAGES: usize = 8;
/// Rows of sums that a tile's parts leave at most, but for the last part's: what they take stays below what `memory` counts for gathered pages.
const SPLIT_ROWS: usize = 128;
/// Blocks of a segment with which a GPU is busy: more pages than [`SPLIT_PAGES`] are then left to one block.
const BUSY: usize = 128;
/// The tile writes its results itself.
const WHOLE: u32 = u32::MAX;

/// Numbers of a tile and of a merge in memory: the structures of `cuda/attention.cu`.
const TILE: usize = 8;
const MERGE: usize = 5;

/// Tiles of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    rows: usize,
    warps: usize,
}

/// Which rows look at which pages, for all layers of a step.
pub(in super::super) struct Tiles {
    heads: Heads,
    /// Tiles of each kind, `[tile][TILE]`.
    tiles: Vec<(Kind, Tensor)>,
    /// `[row][MERGE]`; `None` where no tile's pages are split.
    merges: Option<Tensor>,
    /// Rows of sums.
    sums: usize,
    /// Pages of all segments.
    table: Tensor,
    /// For the CPU: of each row of the step the position, and where its pages begin in the table.
    places: Vec<(usize, usize)>,
}

/// What is computed with: queries `[row][query head * dim]`, keys and values `[page][token][kv_head * dim]`.
#[derive(Clone, Copy)]
pub(in super::super) struct Attended<'a> {
    pub(in super::super) queries: &'a Tensor,
    pub(in super::super) keys: &'a Tensor,
    pub(in super::super) values: &'a Tensor,
}

/// Where blocks leave sums: `[row][kv head][dim]`, and for each the largest score and the sum of weights.
pub(super) struct Sums {
    pub(super) values: Tensor,
    pub(super) weights: Tensor,
}

/// Whether there are kernels for heads of this size.
pub(in super::super) fn fits(heads: Heads) -> bool {
    DIMS.contains(&heads.dim)
}

/// Numbers for the device, as they are made.
#[derive(Default)]
struct Cut {
    tiles: Vec<u32>,
    merges: Vec<u32>,
    sums: usize,
}

impl Tiles {
    /// Cuts the segments of a step, which have its rows one after the other.
    pub(in super::super) fn new(segments: &[Segment], heads: Heads, dtype: DType, device: &Device) -> Result<Self> {
        let group = heads.query / heads.kv;
        let (narrow, wide) = kinds(dtype);
        let (mut table, mut places) = (Vec::<u32>::new(), Vec::new());
        let (mut of_narrow, mut of_wide) = (Cut::default(), Cut::default());
        for segment in segments {
            let small = segment.rows * group <= narrow.rows;
            let (kind, cut) = if small { (narrow, &mut of_narrow) } else { (wide, &mut of_wide) };
            cut.segment(segment, table.len(), kind.rows, heads);
            places.extend((0..segment.rows).map(|row| (segment.position + row, table.len())));
            table.extend(&segment.pages);
        }
        // Sums of the second kind lie behind those of the first.
        of_wide.shift(of_narrow.sums);
        let (merges, sums) = ([of_narrow.merges, of_wide.merges].concat(), of_narrow.sums + of_wide.sums);
        let rows = |numbers: Vec<u32>, width: usize| {
            let count = numbers.len() / width;
            Tensor::from_vec(numbers, (count, width), device)
        };
        let kinds = [(narrow, of_narrow.tiles), (wide, of_wide.tiles)].into_iter().filter(|(_, tiles)| !tiles.is_empty());
        Ok(Tiles {
            heads,
            tiles: kinds.map(|(kind, tiles)| Ok((kind, rows(tiles, TILE)?))).collect::<Result<_>>()?,
            merges: if merges.is_empty() { None } else { Some(rows(merges, MERGE)?) },
            sums,
            table: Tensor::new(table.as_slice(), device)?,
            places,
        })
    }

    /// Attention of all rows in one layer: `[row][query head * dim]`.
    pub(in super::super) fn attend(&self, attended: Attended<'_>) -> Result<Tensor> {
        let queries = attended.queries;
        let (out, sums) =
            (blank(queries.shape(), queries.dtype(), queries.device())?, self.sums(|shape, dtype| blank(shape, dtype, queries.device()))?);
        self.attention(attended, &sums, &out)?.run(queries.device())?;
        Ok(out)
    }

    /// Room for sums. No device has memory for no number, so there is at least a row.
    pub(super) fn sums(&self, room: impl Fn(&[usize], DType) -> Result<Tensor>) -> Result<Sums> {
        let Heads { kv, dim, .. } = self.heads;
        let room = |width: usize| room(&[self.sums.max(1), kv, width], DType::F32);
        Ok(Sums { values: room(dim)?, weights: room(2)? })
    }

    pub(super) fn attention<'o>(&'o self, attended: Attended<'o>, sums: &'o Sums, out: &'o Tensor) -> Result<Op<'o>> {
        let mut launches =
            self.tiles.iter().map(|(kind, tiles)| self.launch(*kind, tiles, attended, sums, out)).collect::<Result<Vec<_>>>()?;
        if let Some(merges) = &self.merges {
            launches.push(self.merge(merges, sums, out)?);
        }
        Ok(Op::new(launches, move || by_type!(out, attend_on_cpu(self, attended, out))))
    }

    fn launch<'o>(&'o self, kind: Kind, tiles: &'o Tensor, attended: Attended<'o>, sums: &'o Sums, out: &'o Tensor) -> Result<Launch<'o>> {
        use Argument::{F32, Tensor as T, U32};
        let (Heads { query, kv, dim }, Attended { queries, keys, values }) = (self.heads, attended);
        let scale = 1.0 / ((dim as f64).sqrt() * LN_2);
        let tensors = [T(queries), T(keys), T(values), T(tiles), T(&self.table), T(out), T(&sums.values), T(&sums.weights)];
        Ok(Launch {
            kernel: format!("attention_{}_{dim}_{}", suffix(queries), kind.warps),
            source: Source::Attention,
            grid: (tiles.dim(0)?, kv),
            threads: kind.warps * 32,
            shared: shared(queries.dtype(), dim),
            arguments: tensors.into_iter().chain([U32(query), U32(kv), F32(scale as f32)]).collect(),
        })
    }

    fn merge<'o>(&'o self, merges: &'o Tensor, sums: &'o Sums, out: &'o Tensor) -> Result<Launch<'o>> {
        use Argument::{Tensor as T, U32};
        let Heads { query, kv, dim } = self.heads;
        let arguments = vec![T(merges), T(&sums.values), T(&sums.weights), T(out), U32(query), U32(kv)];
        let (kernel, grid) = (format!("merge_{}", suffix(out)), (merges.dim(0)?, kv));
        Ok(Launch { kernel, source: Source::Attention, grid, threads: dim, shared: 0, arguments })
    }
}

/// Tiles of few rows and of many. Without tensor cores there is one size, and four warps share its rows.
fn kinds(dtype: DType) -> (Kind, Kind) {
    let small = |warps| Kind { rows: WARP_ROWS, warps };
    match dtype {
        DType::F32 => (small(WARPS), small(WARPS)),
        _ => (small(1), Kind { rows: WARPS * WARP_ROWS, warps: WARPS }),
    }
}

/// Bytes of shared memory: in f32 queries, a page's keys and values, and weights; else two pages' keys and values, one being fetched.
fn shared(dtype: DType, dim: usize) -> usize {
    match dtype {
        DType::F32 => size_of::<f32>() * ((WARP_ROWS + 2 * PAGE) * (dim + 4) + WARP_ROWS * (PAGE + 1)),
        other => other.size_in_bytes() * 2 * 2 * PAGE * (dim + 8),
    }
}

impl Cut {
    /// Adds the tiles of a segment, whose pages begin at `table`.
    fn segment(&mut self, segment: &Segment, table: usize, most: usize, heads: Heads) {
        let group = heads.query / heads.kv;
        let rows = segment.rows * group;
        let busy = rows.div_ceil(most) * heads.kv >= BUSY;
        for first in (0..rows).step_by(most) {
            let count = most.min(rows - first);
            let pages = (segment.position + (first + count - 1) / group + 1).div_ceil(PAGE);
            let each = if busy { pages } else { SPLIT_PAGES.max((pages * count).div_ceil(SPLIT_ROWS)) };
            let parts = pages.div_ceil(each);
            for part in 0..parts {
                let (begin, end) = (part * each, pages.min((part + 1) * each));
                let sums = if parts == 1 { WHOLE } else { (self.sums + part * count) as u32 };
                let tile = [segment.row, segment.position, first, count, table, begin, end].map(|number| number as u32);
                self.tiles.extend(tile.into_iter().chain([sums]));
            }
            if parts > 1 {
                for row in 0..count {
                    let at = first + row;
                    let merge = [segment.row + at / group, at % group, self.sums + row, parts, count].map(|number| number as u32);
                    self.merges.extend(merge);
                }
                self.sums += parts * count;
            }
        }
    }

    /// Moves the rows of sums.
    fn shift(&mut self, by: usize) {
        for sums in self.tiles.iter_mut().skip(TILE - 1).step_by(TILE).filter(|sums| **sums != WHOLE) {
            *sums += by as u32;
        }
        for first in self.merges.iter_mut().skip(2).step_by(MERGE) {
            *first += by as u32;
        }
    }
}

fn attend_on_cpu<T: Number>(tiles: &Tiles, attended: Attended<'_>, out: &Tensor) -> Result<()> {
    let Heads { query, dim, .. } = tiles.heads;
    reading(attended.queries, |queries: &[T]| {
        reading(attended.keys, |keys: &[T]| {
            reading(attended.values, |values: &[T]| {
                reading(&tiles.table, |table: &[u32]| {
                    writing(out, |out: &mut [T]| {
                        let rows = out.par_chunks_exact_mut(query * dim).zip(queries.par_chunks_exact(query * dim)).zip(&tiles.places);
                        rows.for_each(|((out, queries), (position, first))| {
                            attend_row(queries, (keys, values), &table[*first..], *position, tiles.heads, out);
                        });
                    })
                })
            })
        })
    })
}

/// All heads of one row, by the definition: scores, weights, their sum of values.
fn attend_row<T: Number>(queries: &[T], (keys, values): (&[T], &[T]), pages: &[u32], position: usize, heads: Heads, out: &mut [T]) {
    let Heads { query, kv, dim } = heads;
    let scale = 1.0 / (dim as f32).sqrt();
    for (head, (of_head, out)) in queries.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate() {
        let at = |token: usize| ((pages[token / PAGE] as usize * PAGE + token % PAGE) * kv + head / (query / kv)) * dim;
        let of_head: Vec<f32> = of_head.iter().map(|q| q.widen() * scale).collect();
        let score = |token| keys[at(token)..][..dim].iter().zip(&of_head).map(|(k, q)| k.widen() * q).sum::<f32>();
        let scores: Vec<f32> = (0..=position).map(score).collect();
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (mut total, mut sums) = (0.0, vec![0.0f32; dim]);
        for (token, score) in scores.iter().enumerate() {
            let weight = (score - largest).exp();
            total += weight;
            sums.iter_mut().zip(&values[at(token)..][..dim]).for_each(|(sum, value)| *sum += weight * value.widen());
        }
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = T::narrow(sum / total));
    }
}
