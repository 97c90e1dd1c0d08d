//! The operations in f32 on the CPU: kernels of `simd`, spread over threads by rayon.
//!
//! Every output row is computed by one thread in one order, whatever stands beside it in the step: the number of threads and the make-up of
//! a batch change nothing here.

use super::simd::{self, Rows, RowsMut, Simd, Sizes, WithSimd};
use super::{Heads, RowChoice, Segment};
use crate::engine::llama::kv::{PAGE, Pool};
use rayon::prelude::*;

/// Cosines and sines by position, `[position][head_dim / 2]`, grown as positions come.
#[derive(Clone, Debug)]
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

/// Splits packed `[row][query + 2 * kv heads][dim]` into queries (rotated, to `queries`) and keys and values (rotated, written to the pool).
pub fn rotate_and_write(
    qkv: &[f32],
    segments: &[Segment],
    heads: Heads,
    rope: &RopeTable,
    (pool, layer): (&mut Pool, usize),
    queries: &mut Vec<f32>,
) {
    let Heads { query, kv, dim } = heads;
    let (width, kv_width) = ((query + 2 * kv) * dim, kv * dim);
    let page_len = pool.page_len();
    let rows: usize = segments.iter().map(|s| s.rows).sum();
    queries.resize(rows * query * dim, 0.0);
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
                let to = page + head * PAGE * dim;
                values[to + position % PAGE * dim..][..dim].copy_from_slice(&v[head * dim..(head + 1) * dim]);
                let keys = keys[to..to + PAGE * dim].iter_mut().skip(position % PAGE).step_by(PAGE);
                keys.zip(&rotated[head * dim..(head + 1) * dim]).for_each(|(to, from)| *to = *from);
            }
        }
    }
}

/// Query rows (tokens times the query heads that share a key head) that go over the pages together.
const TILE: usize = 24;

/// Causal attention of every row over its sequence's pages: `[row][query heads][dim]` in, the same shape out. Segments may leave rows out, whose
/// results mean nothing.
pub fn paged_attention(queries: &[f32], segments: &[Segment], heads: Heads, (pool, layer): (&Pool, usize), out: &mut Vec<f32>) {
    let (keys, values) = pool.layer(layer);
    let view = PageView { queries, keys, values, page_len: pool.page_len(), heads };
    let tokens = (TILE / view.group()).max(1);
    let mut tiles = Vec::new();
    for segment in segments {
        for first in (0..segment.rows).step_by(tokens) {
            let rows = tokens.min(segment.rows - first);
            let tile =
                |kv_head| Tile { kv_head, row: segment.row + first, rows, position: segment.position + first, pages: &segment.pages };
            tiles.extend((0..heads.kv).map(tile));
        }
    }
    let attended: Vec<Vec<f32>> = tiles.par_iter().map(|tile| simd::dispatch(Attend { view: &view, tile })).collect();
    out.resize(queries.len(), 0.0);
    for (tile, attended) in tiles.iter().zip(attended) {
        for (row, heads_of_row) in attended.chunks_exact(view.group() * heads.dim).enumerate() {
            let at = view.at(tile, row);
            out[at..at + heads_of_row.len()].copy_from_slice(heads_of_row);
        }
    }
}

/// Some tokens of one sequence, and one key head with the query heads that share it.
struct Tile<'t> {
    kv_head: usize,
    /// First row of the packed step.
    row: usize,
    rows: usize,
    /// Position of the first row.
    position: usize,
    pages: &'t [u32],
}

/// Queries of a step; keys and values of one layer.
struct PageView<'p> {
    queries: &'p [f32],
    keys: &'p [f32],
    values: &'p [f32],
    page_len: usize,
    heads: Heads,
}

/// The attention of one tile: `[row][query head of the group][dim]`.
struct Attend<'t> {
    view: &'t PageView<'t>,
    tile: &'t Tile<'t>,
}

impl WithSimd for Attend<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        self.view.attend(simd, self.tile)
    }
}

impl PageView<'_> {
    /// Query heads that share a key head.
    fn group(&self) -> usize {
        self.heads.query / self.heads.kv
    }

    /// Where the query heads of one row of a tile begin, in the packed step.
    fn at(&self, tile: &Tile<'_>, row: usize) -> usize {
        ((tile.row + row) * self.heads.query + tile.kv_head * self.group()) * self.heads.dim
    }

    /// What a row gets depends on no other row: tokens behind it weigh exactly nothing.
    #[inline(always)]
    fn attend<S: Simd>(&self, simd: S, tile: &Tile<'_>) -> Vec<f32> {
        let (dim, group) = (self.heads.dim, self.group());
        let (rows, scale) = (tile.rows * group, 1.0 / (dim as f32).sqrt());
        let mut queries = Vec::with_capacity(rows * dim);
        for row in 0..tile.rows {
            queries.extend(self.queries[self.at(tile, row)..][..group * dim].iter().map(|q| q * scale));
        }
        let len = tile.position + tile.rows;
        let stride = len.div_ceil(PAGE) * PAGE;
        let start = |page: u32| page as usize * self.page_len + tile.kv_head * PAGE * dim;
        let mut scores = vec![0.0; rows * stride];
        for (at, page) in (0..len).step_by(PAGE).zip(tile.pages) {
            let sizes = Sizes { rows, depth: dim, columns: PAGE };
            let (left, right) = (Rows { values: &queries, stride: dim }, Rows { values: &self.keys[start(*page)..], stride: PAGE });
            simd::multiply_add(simd, sizes, left, right, RowsMut { values: &mut scores[at..], stride });
        }
        for (row, scores) in scores.chunks_exact_mut(stride).enumerate() {
            let (seen, behind) = scores.split_at_mut(tile.position + row / group + 1);
            let sum = simd::exponentials(seen, simd::max(seen));
            for score in seen {
                *score /= sum;
            }
            behind.fill(0.0);
        }
        let mut out = vec![0.0; rows * dim];
        for (at, page) in (0..len).step_by(PAGE).zip(tile.pages) {
            let sizes = Sizes { rows, depth: PAGE.min(len - at), columns: dim };
            let (left, right) = (Rows { values: &scores[at..], stride }, Rows { values: &self.values[start(*page)..], stride: dim });
            simd::multiply_add(simd, sizes, left, right, RowsMut { values: &mut out, stride: dim });
        }
        out
    }
}

/// `x / rms(x) * weight` of every row.
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut Vec<f32>) {
    out.resize(x.len(), 0.0);
    out.par_chunks_mut(weight.len()).zip(x.par_chunks(weight.len())).with_min_len(MIN_ROWS).for_each(|(out, x)| {
        simd::dispatch(RmsNorm { x, weight, epsilon, out });
    });
}

/// Rows that are worth another thread where a row is little work.
const MIN_ROWS: usize = 8;

struct RmsNorm<'n> {
    x: &'n [f32],
    weight: &'n [f32],
    epsilon: f32,
    out: &'n mut [f32],
}

impl WithSimd for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let mean = simd::sum_of_squares(self.x) / self.x.len() as f32;
        let scale = 1.0 / (mean + self.epsilon).sqrt();
        for ((o, x), w) in self.out.iter_mut().zip(self.x).zip(self.weight) {
            *o = x * scale * w;
        }
    }
}

/// `silu(gate) * up` over packed rows `[gate | up]`.
pub fn silu_mul(gate_up: &[f32], width: usize, out: &mut Vec<f32>) {
    out.resize(gate_up.len() / 2, 0.0);
    out.par_chunks_mut(width).zip(gate_up.par_chunks(2 * width)).with_min_len(MIN_ROWS).for_each(|(out, row)| {
        let (gate, up) = row.split_at(width);
        simd::dispatch(SiluMul { gate, up, out });
    });
}

struct SiluMul<'s> {
    gate: &'s [f32],
    up: &'s [f32],
    out: &'s mut [f32],
}

impl WithSimd for SiluMul<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for ((o, g), u) in self.out.iter_mut().zip(self.gate).zip(self.up) {
            *o = g / (1.0 + simd::exp(-g)) * u;
        }
    }
}

/// Argmax and gap to the runner-up of one row of logits.
pub fn choose(logits: &[f32]) -> RowChoice {
    simd::dispatch(Choose(logits))
}

struct Choose<'l>(&'l [f32]);

impl WithSimd for Choose<'_> {
    type Output = RowChoice;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> RowChoice {
        let largest = simd::max(self.0);
        let argmax = self.0.iter().position(|logit| *logit == largest).unwrap_or(0);
        let second = simd::max(&self.0[..argmax]).max(simd::max(self.0.get(argmax + 1..).unwrap_or(&[])));
        RowChoice { argmax: argmax as u32, gap: largest - second }
    }
}

/// Logarithm of the sum of the exponentials of one row of logits; the sum runs in f64. Less this, a logit is its token's log-probability.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    simd::dispatch(LogSumExp(logits))
}

struct LogSumExp<'l>(&'l [f32]);

impl WithSimd for LogSumExp<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let largest = simd::max(self.0);
        f64::from(largest) + simd::sum_of_exponentials(self.0, largest).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::llama::kv::Sequence;
    use proptest::prelude::*;
    use proptest::test_runner::TestCaseError;

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

    /// Keys and values that rows of random numbers leave in a pool, and the queries of the last `rows` of `len` tokens.
    fn check_attention(heads: Heads, len: usize, rows: usize) -> Result<(), TestCaseError> {
        let mut pool = Pool::new(1, heads.kv, heads.dim);
        let mut sequence = Sequence::default();
        // Another sequence's page lies between this one's, so that no page follows its neighbour.
        pool.reserve(&mut sequence, len.min(PAGE));
        let mut other = Sequence::default();
        pool.reserve(&mut other, 1);
        pool.reserve(&mut sequence, len - len.min(PAGE));
        let segment = |first: usize, rows: usize| Segment { row: first, rows, position: first, pages: sequence.pages().to_vec() };
        let width = (heads.query + 2 * heads.kv) * heads.dim;
        let qkv: Vec<f32> = (0..len * width).map(number).collect();
        // All frequencies zero: no rotation, so that the plain form needs none.
        let mut rope = RopeTable::new(vec![0.0; heads.dim / 2]);
        rope.reach(len);
        // What buffers hold from before does not matter.
        let (mut queries, mut got) = (vec![9.0; 7], vec![9.0; 9]);
        rotate_and_write(&qkv, &[segment(0, len)], heads, &rope, (&mut pool, 0), &mut queries);
        paged_attention(&queries, &[segment(len - rows, rows)], heads, (&pool, 0), &mut got);
        let part = |row: usize, at: usize| qkv[row * width + at * heads.dim..row * width + (at + 1) * heads.dim].to_vec();
        for row in len - rows..len {
            for head in 0..heads.query {
                let kv = head / (heads.query / heads.kv);
                let keys: Vec<_> = (0..=row).map(|r| part(r, heads.query + kv)).collect();
                let values: Vec<_> = (0..=row).map(|r| part(r, heads.query + heads.kv + kv)).collect();
                let expected = plain_attention(&part(row, head), &keys, &values);
                let at = (row * heads.query + head) * heads.dim;
                for (e, g) in expected.iter().zip(&got[at..at + heads.dim]) {
                    prop_assert!((e - g).abs() < 1e-5, "{:?} {}: row {} head {}: {} {}", heads, len, row, head, e, g);
                }
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        /// Borders of pages and tiles, one key, one query, groups of 1 to 8 query heads, head sizes of real models and odd ones.
        #[test]
        fn pages_attend_as_the_definition_says(
            len in prop::sample::select(vec![1usize, 2, 23, 25, 31, 32, 33, 63, 64, 65, 97]),
            rows in prop::sample::select(vec![1usize, 2, 8, 9, 32, 97]),
            group in prop::sample::select(vec![1usize, 3, 4, 8]),
            kv in 1..3usize,
            dim in prop::sample::select(vec![6usize, 10, 16, 32, 64, 128]),
        ) {
            check_attention(Heads { query: group * kv, kv, dim }, len, rows.min(len))?;
        }
    }

    #[test]
    fn norms_and_activations_are_those_of_the_definition() {
        let (x, weight): (Vec<f32>, Vec<f32>) = ((0..3 * 37).map(number).collect(), (0..37).map(|i| number(i + 5)).collect());
        let mut got = vec![9.0; 1000];
        rms_norm(&x, &weight, 1e-5, &mut got);
        for (row, got) in x.chunks(37).zip(got.chunks(37)) {
            let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 37.0;
            for ((x, w), got) in row.iter().zip(&weight).zip(got) {
                assert!((f64::from(x * w) / (mean + 1e-5).sqrt() - f64::from(*got)).abs() < 1e-6);
            }
        }
        silu_mul(&x[..3 * 36], 18, &mut got);
        for (row, got) in x[..3 * 36].chunks(36).zip(got.chunks(18)) {
            for i in 0..18 {
                let (gate, up) = (f64::from(row[i]), f64::from(row[18 + i]));
                assert!((gate / (1.0 + (-gate).exp()) * up - f64::from(got[i])).abs() < 1e-6);
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
        let total: f64 = logits.iter().map(|l| (f64::from(*l) - log_sum_exp(&logits)).exp()).sum();
        assert!((total - 1.0).abs() < 1e-6);
    }
}
