//! The operations in f32 on the CPU: plain loops that the compiler turns into vector code, spread over threads by rayon.
//!
//! Every output row is computed by one thread in one order, whatever stands beside it in the step: the number of threads and the make-up of
//! a batch change nothing here.

use super::{Heads, RowChoice, Segment};
use crate::engine::llama::kv::{PAGE, Pool};
use rayon::prelude::*;

/// Cosines and sines by position, `[position][head_dim / 2]`, grown as positions come.
#[derive(Debug)]
pub struct RopeTable {
    frequencies: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// An empty table.
    pub fn new(frequencies: Vec<f32>) -> Self {
        RopeTable { frequencies, cos: Vec::new(), sin: Vec::new() }
    }

    /// Makes the table reach `positions`. The angle is a product in f32, as transformers computes it.
    pub fn reach(&mut self, positions: usize) {
        let half = self.frequencies.len();
        for position in self.cos.len() / half..positions {
            for frequency in &self.frequencies {
                let angle = position as f32 * frequency;
                self.cos.push(angle.cos());
                self.sin.push(angle.sin());
            }
        }
    }

    /// Cosines and sines of one position.
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let half = self.frequencies.len();
        let range = position * half..(position + 1) * half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// Rotates the heads of one row in place (halves rotated against each other, as transformers lays a head out).
pub fn rotate(row: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    let half = head_dim / 2;
    for head in row.chunks_exact_mut(head_dim) {
        let (low, high) = head.split_at_mut(half);
        for i in 0..half {
            let (a, b) = (low[i], high[i]);
            low[i] = a * cos[i] - b * sin[i];
            high[i] = b * cos[i] + a * sin[i];
        }
    }
}

/// Splits packed `[row][query + 2 * kv heads][dim]` into queries (rotated, returned) and keys and values (rotated, written to the pool).
pub fn rotate_and_write(qkv: &[f32], segments: &[Segment], heads: Heads, rope: &RopeTable, pool: &mut Pool, layer: usize) -> Vec<f32> {
    let Heads { query, kv, dim } = heads;
    let (width, kv_width) = ((query + 2 * kv) * dim, kv * dim);
    let page_len = pool.page_len();
    let rows: usize = segments.iter().map(|s| s.rows).sum();
    let mut queries = vec![0.0; rows * query * dim];
    let (keys, values) = pool.layer_mut(layer);
    let mut rotated = vec![0.0; kv_width];
    for segment in segments {
        for i in 0..segment.rows {
            let (row, position) = (segment.row + i, segment.position + i);
            let (cos, sin) = rope.at(position);
            let (q, rest) = qkv[row * width..(row + 1) * width].split_at(query * dim);
            let (k, v) = rest.split_at(kv_width);
            let out = &mut queries[row * query * dim..(row + 1) * query * dim];
            out.copy_from_slice(q);
            rotate(out, dim, cos, sin);
            rotated.copy_from_slice(k);
            rotate(&mut rotated, dim, cos, sin);
            let page = segment.pages[position / PAGE] as usize * page_len;
            for head in 0..kv {
                let to = page + (head * PAGE + position % PAGE) * dim;
                keys[to..to + dim].copy_from_slice(&rotated[head * dim..(head + 1) * dim]);
                values[to..to + dim].copy_from_slice(&v[head * dim..(head + 1) * dim]);
            }
        }
    }
    queries
}

/// Causal attention of every row over its sequence's pages: `[row][query heads][dim]` in, the same shape out.
pub fn paged_attention(queries: &[f32], segments: &[Segment], heads: Heads, pool: &Pool, layer: usize) -> Vec<f32> {
    let width = heads.query * heads.dim;
    let mut out = vec![0.0; queries.len()];
    let (keys, values) = pool.layer(layer);
    let view = PageView { keys, values, page_len: pool.page_len(), heads };
    let by_row: Vec<(&Segment, usize)> = segments.iter().flat_map(|s| (0..s.rows).map(move |i| (s, s.position + i))).collect();
    out.par_chunks_mut(width).zip(by_row).enumerate().for_each_init(Vec::new, |scores, (row, (out, (segment, position)))| {
        let queries = &queries[row * width..(row + 1) * width];
        for (head, (out, query)) in out.chunks_exact_mut(heads.dim).zip(queries.chunks_exact(heads.dim)).enumerate() {
            view.attend(query, head, &segment.pages, position + 1, scores, out);
        }
    });
    out
}

/// Keys and values of one layer.
struct PageView<'p> {
    keys: &'p [f32],
    values: &'p [f32],
    page_len: usize,
    heads: Heads,
}

impl PageView<'_> {
    /// One query head over the first `len` tokens. `scores` is scratch space.
    fn attend(&self, query: &[f32], head: usize, pages: &[u32], len: usize, scores: &mut Vec<f32>, out: &mut [f32]) {
        let Heads { query: query_heads, kv, dim } = self.heads;
        let scale = 1.0 / (dim as f32).sqrt();
        let kv_head = head / (query_heads / kv);
        let page_start = |page: u32| page as usize * self.page_len + kv_head * PAGE * dim;
        scores.clear();
        for (page, tokens) in pages.iter().zip(page_lengths(len)) {
            let start = page_start(*page);
            let keys = &self.keys[start..start + tokens * dim];
            scores.extend(keys.chunks_exact(dim).map(|key| dot(query, key) * scale));
        }
        softmax(scores);
        out.fill(0.0);
        let mut weights = scores.iter();
        for (page, tokens) in pages.iter().zip(page_lengths(len)) {
            let start = page_start(*page);
            let values = &self.values[start..start + tokens * dim];
            for (value, weight) in values.chunks_exact(dim).zip(weights.by_ref()) {
                for (o, v) in out.iter_mut().zip(value) {
                    *o += weight * v;
                }
            }
        }
    }
}

/// Tokens in each of the pages that hold `len` tokens.
fn page_lengths(len: usize) -> impl Iterator<Item = usize> {
    (0..len.div_ceil(PAGE)).map(move |page| (len - page * PAGE).min(PAGE))
}

/// Dot product in eight running sums, so that it vectorises; the order of additions depends on the length alone.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0.0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + tail
}

fn softmax(scores: &mut [f32]) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - largest).exp();
        sum += *score;
    }
    for score in scores {
        *score /= sum;
    }
}

/// `silu(gate) * up` over packed rows `[gate | up]`.
pub fn silu_mul(gate_up: &[f32], width: usize) -> Vec<f32> {
    let mut out = vec![0.0; gate_up.len() / 2];
    out.par_chunks_mut(width).zip(gate_up.par_chunks(2 * width)).for_each(|(out, row)| {
        let (gate, up) = row.split_at(width);
        for ((o, g), u) in out.iter_mut().zip(gate).zip(up) {
            *o = g / (1.0 + (-g).exp()) * u;
        }
    });
    out
}

/// Argmax and gap to the runner-up of one row of logits.
pub fn choose(logits: &[f32]) -> RowChoice {
    let (mut best, mut argmax, mut second) = (f32::NEG_INFINITY, 0, f32::NEG_INFINITY);
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best {
            second = best;
            (best, argmax) = (logit, id as u32);
        } else if logit > second {
            second = logit;
        }
    }
    RowChoice { argmax, gap: best - second }
}

/// Natural log of the probability of `target` in one row of logits; the sum runs in f64.
pub fn log_probability(logits: &[f32], target: u32) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|l| (f64::from(*l) - largest).exp()).sum();
    f64::from(logits[target as usize]) - largest - sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::llama::kv::Sequence;

    /// Attention by the definition, without pages.
    fn plain_attention(query: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>]) -> Vec<f32> {
        let scale = 1.0 / (query.len() as f64).sqrt();
        let scores: Vec<f64> =
            keys.iter().map(|k| k.iter().zip(query).map(|(a, b)| f64::from(a * b)).sum::<f64>() * scale).map(f64::exp).collect();
        let total: f64 = scores.iter().sum();
        (0..query.len()).map(|d| values.iter().zip(&scores).map(|(v, s)| f64::from(v[d]) * s / total).sum::<f64>() as f32).collect()
    }

    fn number(seed: usize) -> f32 {
        ((seed * 7919 % 1000) as f32 / 500.0) - 1.0
    }

    #[test]
    fn pages_attend_as_the_definition_says() {
        for (heads, len) in [
            (Heads { query: 4, kv: 2, dim: 8 }, 1),
            (Heads { query: 4, kv: 1, dim: 6 }, 31),
            (Heads { query: 2, kv: 2, dim: 16 }, 32),
            (Heads { query: 8, kv: 2, dim: 10 }, 33),
            (Heads { query: 3, kv: 3, dim: 4 }, 100),
        ] {
            let mut pool = Pool::new(1, heads.kv, heads.dim);
            let mut sequence = Sequence::default();
            pool.reserve(&mut sequence, len);
            let segment = Segment { row: 0, rows: len, position: 0, pages: sequence.pages().to_vec() };
            let width = (heads.query + 2 * heads.kv) * heads.dim;
            let qkv: Vec<f32> = (0..len * width).map(number).collect();
            // All frequencies zero: no rotation, so that the plain form needs none.
            let mut rope = RopeTable::new(vec![0.0; heads.dim / 2]);
            rope.reach(len);
            let queries = rotate_and_write(&qkv, std::slice::from_ref(&segment), heads, &rope, &mut pool, 0);
            let got = paged_attention(&queries, &[segment], heads, &pool, 0);
            let part = |row: usize, at: usize| qkv[row * width + at * heads.dim..row * width + (at + 1) * heads.dim].to_vec();
            for row in 0..len {
                for head in 0..heads.query {
                    let kv = head / (heads.query / heads.kv);
                    let keys: Vec<_> = (0..=row).map(|r| part(r, heads.query + kv)).collect();
                    let values: Vec<_> = (0..=row).map(|r| part(r, heads.query + heads.kv + kv)).collect();
                    let expected = plain_attention(&part(row, head), &keys, &values);
                    let at = (row * heads.query + head) * heads.dim;
                    for (e, g) in expected.iter().zip(&got[at..at + heads.dim]) {
                        assert!((e - g).abs() < 1e-5, "{heads:?} {len}: row {row} head {head}: {e} {g}");
                    }
                }
            }
        }
    }

    #[test]
    fn ties_go_to_the_lowest_id() {
        assert_eq!(choose(&[1.0, 3.0, 3.0, 2.0]), RowChoice { argmax: 1, gap: 0.0 });
        assert_eq!(choose(&[5.0, 1.0, 4.5]), RowChoice { argmax: 0, gap: 0.5 });
    }

    #[test]
    fn log_probabilities_sum_to_one() {
        let logits = [1.0, -2.0, 30.0, 29.0];
        let total: f64 = (0..4).map(|t| log_probability(&logits, t).exp()).sum();
        assert!((total - 1.0).abs() < 1e-12);
    }
}
