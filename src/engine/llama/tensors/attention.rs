//! Plain attention over pages: gather the pages of a sequence, multiply, softmax, multiply. Sequences with equally many new tokens and pages
//! go together; what would make an intermediate tensor too large is cut into pieces.
//!
//! Scores come out of the product in the data type of the model, as in transformers' eager attention; scaling, mask and softmax are f32.

use super::pages::TensorPages;
use crate::engine::llama::kv::PAGE;
use crate::engine::llama::ops::{Heads, Segment};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops::softmax_last_dim;
use std::collections::BTreeMap;

/// Numbers of one piece's scores, and of its gathered keys. One token over a very long sequence may have more.
pub(in crate::engine::llama) const PIECE: usize = 32 << 20;

/// Which rows look at which pages, for all layers of a step.
pub(super) struct Sight {
    groups: Vec<Group>,
    /// Where each row's result lies among those of all groups; `None` where it lies in place.
    order: Option<Tensor>,
}

/// Sequences, or parts of them, of one shape.
struct Group {
    /// Rows of the step; `None` where they are all rows in order.
    rows: Option<Tensor>,
    /// Pages of all sequences, one sequence after the other.
    pages: Tensor,
    /// `[sequence][1][row][token]`: 0 where a row sees a token, minus infinity where not.
    mask: Tensor,
    shape: Shape,
}

/// Of every sequence of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    sequences: usize,
    rows: usize,
    pages: usize,
}

/// Rows of one sequence that are computed together.
#[derive(Clone, Copy)]
struct Part<'s> {
    row: usize,
    rows: usize,
    position: usize,
    pages: &'s [u32],
}

impl Sight {
    /// Sorts the segments of a step. Positions alone decide: the same step is computed in the same pieces.
    pub(super) fn new(segments: &[Segment], heads: Heads, piece: usize, device: &Device) -> Result<Self> {
        let mut by_shape: BTreeMap<(usize, usize), Vec<Part<'_>>> = BTreeMap::new();
        for part in segments.iter().flat_map(|segment| parts(segment, heads, piece)) {
            by_shape.entry((part.rows, part.pages.len())).or_default().push(part);
        }
        let rows: usize = segments.iter().map(|s| s.rows).sum();
        let (mut groups, mut computed) = (Vec::new(), Vec::with_capacity(rows));
        for ((_, pages), parts) in by_shape {
            let numbers = |part: &Part<'_>| (part.rows * heads.query).max(heads.kv * heads.dim) * pages * PAGE;
            let together = parts.first().map_or(1, |part| (piece / numbers(part)).max(1));
            for parts in parts.chunks(together) {
                let of_group: Vec<u32> = parts.iter().flat_map(|p| p.row as u32..(p.row + p.rows) as u32).collect();
                groups.push(Group::new(parts, &of_group, rows, device)?);
                computed.extend(of_group);
            }
        }
        let order = if in_order(&computed) { None } else { Some(Tensor::from_vec(places(&computed), rows, device)?) };
        Ok(Sight { groups, order })
    }

    /// Attention of all rows in one layer: `[row][query head * head_dim]` in, the same out.
    pub(super) fn attend(&self, queries: &Tensor, heads: Heads, pages: &TensorPages, layer: usize) -> Result<Tensor> {
        let (keys, values) = (pages.keys(layer)?, pages.values(layer)?);
        let attended = self.groups.iter().map(|group| group.attend(queries, heads, keys, values)).collect::<Result<Vec<_>>>()?;
        let attended = Tensor::cat(&attended, 0)?;
        match &self.order {
            None => Ok(attended),
            Some(order) => attended.index_select(order, 0),
        }
    }
}

/// A segment in pieces of rows, each with the pages it may see.
fn parts<'s>(segment: &'s Segment, heads: Heads, piece: usize) -> impl Iterator<Item = Part<'s>> {
    let tokens = (segment.position + segment.rows).div_ceil(PAGE) * PAGE;
    let most = (piece / (heads.query * tokens)).max(1);
    (0..segment.rows).step_by(most).map(move |first| {
        let (rows, position) = (most.min(segment.rows - first), segment.position + first);
        Part { row: segment.row + first, rows, position, pages: &segment.pages[..(position + rows).div_ceil(PAGE)] }
    })
}

fn in_order(rows: &[u32]) -> bool {
    rows.iter().enumerate().all(|(at, row)| at == *row as usize)
}

/// Where each row stands in a list of all rows.
fn places(rows: &[u32]) -> Vec<u32> {
    let mut places = vec![0; rows.len()];
    for (at, row) in rows.iter().enumerate() {
        places[*row as usize] = at as u32;
    }
    places
}

impl Group {
    fn new(parts: &[Part<'_>], rows: &[u32], of: usize, device: &Device) -> Result<Self> {
        let shape = Shape { sequences: parts.len(), rows: parts[0].rows, pages: parts[0].pages.len() };
        let tokens = shape.pages * PAGE;
        let mut mask = vec![f32::NEG_INFINITY; shape.sequences * shape.rows * tokens];
        let seen = parts.iter().flat_map(|part| (0..part.rows).map(move |row| part.position + row + 1));
        for (mask, seen) in mask.chunks_exact_mut(tokens).zip(seen) {
            mask[..seen].fill(0.0);
        }
        let pages: Vec<u32> = parts.iter().flat_map(|part| part.pages).copied().collect();
        Ok(Group {
            rows: if rows.len() == of && in_order(rows) { None } else { Some(Tensor::new(rows, device)?) },
            pages: Tensor::from_vec(pages, shape.sequences * shape.pages, device)?,
            mask: Tensor::from_vec(mask, (shape.sequences, 1, shape.rows, tokens), device)?,
            shape,
        })
    }

    fn attend(&self, queries: &Tensor, heads: Heads, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
        let Heads { query, kv, dim } = heads;
        let Shape { sequences, rows, pages } = self.shape;
        // The query heads that share a key head lie one after the other: one product serves them all.
        let (batch, group_rows, tokens) = (sequences * kv, query / kv * rows, pages * PAGE);
        let queries = match &self.rows {
            None => queries.clone(),
            Some(rows) => queries.index_select(rows, 0)?,
        };
        let queries = by_head(&queries, sequences, rows, query, dim)?.reshape((batch, group_rows, dim))?;
        let gather =
            |paged: &Tensor| by_head(&paged.index_select(&self.pages, 0)?, sequences, tokens, kv, dim)?.reshape((batch, tokens, dim));
        let scores = queries.matmul(&gather(keys)?.t()?)?.to_dtype(DType::F32)?.affine(1.0 / (dim as f64).sqrt(), 0.0)?;
        let scores = scores.reshape((sequences, query, rows, tokens))?.broadcast_add(&self.mask)?;
        let weights = softmax_last_dim(&scores)?.to_dtype(queries.dtype())?.reshape((batch, group_rows, tokens))?;
        let attended = weights.matmul(&gather(values)?)?.reshape((sequences, query, rows, dim))?;
        attended.transpose(1, 2)?.contiguous()?.reshape((sequences * rows, query * dim))
    }
}

/// `[sequence * row][head * dim]` as `[sequence][head][row][dim]`.
fn by_head(x: &Tensor, sequences: usize, rows: usize, heads: usize, dim: usize) -> Result<Tensor> {
    x.reshape((sequences, rows, heads, dim))?.transpose(1, 2)?.contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTHS: Heads = Heads { query: 4, kv: 2, dim: 8 };

    fn numbers(rows: usize, width: usize, seed: usize) -> Tensor {
        let values: Vec<f32> = (0..rows * width).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect();
        Tensor::from_vec(values, (rows, width), &Device::Cpu).unwrap()
    }

    /// Twelve pages of random keys and values in one layer.
    fn pages() -> TensorPages {
        let mut pages = TensorPages::new(1, WIDTHS.kv * WIDTHS.dim, DType::F32, &Device::Cpu, None);
        pages.settle(12).unwrap();
        let targets = pages.targets(&[Segment { row: 0, rows: 12 * PAGE, position: 0, pages: (0..12).collect() }]).unwrap();
        let of_kv = |seed| numbers(12 * PAGE, WIDTHS.kv * WIDTHS.dim, seed);
        pages.write(0, &targets, &of_kv(1), &of_kv(2)).unwrap();
        pages
    }

    /// What one row sees, by the definition: softmax over the tokens up to its own.
    fn defined(query: &[f32], pages: &TensorPages, own: &[u32], position: usize, head: usize) -> Vec<f64> {
        let at = |paged: &Tensor, token: usize| -> Vec<f32> {
            let page = paged.get(own[token / PAGE] as usize).unwrap().get(token % PAGE).unwrap();
            page.narrow(0, head * WIDTHS.dim, WIDTHS.dim).unwrap().to_vec1().unwrap()
        };
        let dot = |key: Vec<f32>| key.iter().zip(query).map(|(k, q)| f64::from(k * q)).sum::<f64>() / (WIDTHS.dim as f64).sqrt();
        let weights: Vec<f64> = (0..=position).map(|token| dot(at(pages.keys(0).unwrap(), token)).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut out = vec![0.0; WIDTHS.dim];
        for (token, weight) in weights.iter().enumerate() {
            at(pages.values(0).unwrap(), token).iter().zip(&mut out).for_each(|(value, out)| *out += f64::from(*value) * weight / total);
        }
        out
    }

    /// Decoding rows and chunks of prompts, some of one shape, their pages mixed; in pieces of any size, down to a row at a time.
    #[test]
    fn every_row_sees_its_own_tokens_in_pieces_of_any_size() {
        let segment = |row, rows, position, pages: &[u32]| Segment { row, rows, position, pages: pages.to_vec() };
        let segments = [
            segment(0, 1, 0, &[7]),
            segment(1, 1, 40, &[3, 9]),
            segment(2, 1, 63, &[0, 11]),
            segment(3, 1, 64, &[5, 2, 8]),
            segment(4, 40, 0, &[4, 1]),
            segment(44, 40, 30, &[10, 6, 3]),
            segment(84, 40, 0, &[2, 5]),
        ];
        let (pages, queries) = (pages(), numbers(124, WIDTHS.query * WIDTHS.dim, 3));
        let rows = queries.to_vec2::<f32>().unwrap();
        for piece in [PIECE, 1 << 14, 3000, 1] {
            let sight = Sight::new(&segments, WIDTHS, piece, &Device::Cpu).unwrap();
            let got = sight.attend(&queries, WIDTHS, &pages, 0).unwrap().to_vec2::<f32>().unwrap();
            for segment in &segments {
                for (at, position) in (segment.row..segment.row + segment.rows).zip(segment.position..) {
                    for head in 0..WIDTHS.query {
                        let range = head * WIDTHS.dim..(head + 1) * WIDTHS.dim;
                        let kv = head / (WIDTHS.query / WIDTHS.kv);
                        let expected = defined(&rows[at][range.clone()], &pages, &segment.pages, position, kv);
                        for (expected, got) in expected.iter().zip(&got[at][range]) {
                            assert!((expected - f64::from(*got)).abs() < 1e-5, "piece {piece}, row {at}, head {head}: {expected} {got}");
                        }
                    }
                }
            }
        }
    }
}
