//! Linear layers over packed rows, with weights laid out once for the way they are read.
//!
//! A weight lies in panels of `PANEL` outputs, each `[in][PANEL]`: a panel is read from front to back whatever the number of rows, so few
//! rows run at the speed of memory and many at that of the arithmetic unit, and nothing is rearranged in a call. Every output is one chain
//! of fused multiply-adds over the inner dimension (`simd::multiply_add`): a row's value does not depend on how many rows stand beside it,
//! and an answer not on its company in a batch. (candle's matrix product adds up in another order for one row than for many.)

use super::simd::{self, Rows, RowsMut, Simd, Sizes, WithSimd};
use candle_core::{Result, Tensor};
use rayon::prelude::*;

/// Outputs of a panel: two vectors of the widest unit.
const PANEL: usize = 32;
/// Rows of a thread from which on each has rows of its own and goes over all panels; fewer share the panels among the threads.
const ROWS: usize = 48;
/// Rows that go over a panel together at most, so that what they read and write stays in the caches.
const MOST_ROWS: usize = 256;
/// Panels that few rows go over together.
const PANELS: usize = 4;

/// `x W + b`.
#[derive(Debug)]
pub struct Linear {
    /// `[panel][in][PANEL]`, the last panel filled up with zeros.
    panels: Vec<f32>,
    inner: usize,
    out: usize,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// From a weight `[out][in]` as checkpoints have it, and a bias `[out]`.
    ///
    /// # Errors
    /// When the tensors are no f32 matrix and vector.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        let (out, inner) = weight.dims2()?;
        let values = weight.flatten_all()?.to_vec1::<f32>()?;
        let mut panels = vec![0.0; out.div_ceil(PANEL) * inner * PANEL];
        panels.par_chunks_mut((inner * PANEL).max(1)).zip(values.par_chunks((inner * PANEL).max(1))).for_each(|(panel, rows)| {
            for (column, row) in rows.chunks_exact(inner).enumerate() {
                panel.iter_mut().skip(column).step_by(PANEL).zip(row).for_each(|(to, from)| *to = *from);
            }
        });
        Ok(Linear { panels, inner, out, bias: bias.map(Tensor::to_vec1).transpose()? })
    }

    /// `[rows][in]` to `[rows][out]`.
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.inner;
        let mut out = match &self.bias {
            Some(bias) => bias.repeat(rows),
            None => vec![0.0; rows * self.out],
        };
        self.add_product(x, &mut out);
        out
    }

    /// Adds `x W + b` to `out`: the residual stream.
    pub fn add_to(&self, x: &[f32], out: &mut [f32]) {
        if let Some(bias) = &self.bias {
            out.chunks_exact_mut(self.out).for_each(|row| row.iter_mut().zip(bias).for_each(|(o, b)| *o += b));
        }
        self.add_product(x, out);
    }

    fn add_product(&self, x: &[f32], out: &mut [f32]) {
        let (rows, threads) = (x.len() / self.inner, rayon::current_num_threads());
        if rows >= ROWS * threads {
            // As many parts for each thread, and all of one size: no thread waits for another's last one.
            let parts = threads * rows.div_ceil(threads * MOST_ROWS);
            let rows = rows.div_ceil(parts);
            out.par_chunks_mut(rows * self.out)
                .zip(x.par_chunks(rows * self.inner))
                .for_each(|(out, x)| simd::dispatch(Strip { x, inner: self.inner, panels: &self.panels, out, width: self.out }));
            return;
        }
        let width = |strip: usize| (PANELS * PANEL).min(self.out - strip * PANELS * PANEL);
        let strips: Vec<Vec<f32>> = self
            .panels
            .par_chunks(PANELS * self.inner * PANEL)
            .enumerate()
            .map(|(strip, panels)| {
                let (at, width) = (strip * PANELS * PANEL, width(strip));
                let mut part: Vec<f32> = out.chunks_exact(self.out).flat_map(|row| &row[at..at + width]).copied().collect();
                simd::dispatch(Strip { x, inner: self.inner, panels, out: &mut part, width });
                part
            })
            .collect();
        for (strip, part) in strips.iter().enumerate() {
            let (at, width) = (strip * PANELS * PANEL, width(strip));
            out.chunks_exact_mut(self.out).zip(part.chunks_exact(width)).for_each(|(row, part)| row[at..at + width].copy_from_slice(part));
        }
    }

    /// Rows of the weight as the checkpoint has it, one for each of `ids`: the embedding of a model that ties it to its head.
    pub fn embed(&self, ids: &[u32]) -> Vec<f32> {
        let row = |id: &u32| {
            let (panel, column) = (*id as usize / PANEL, *id as usize % PANEL);
            self.panels[panel * self.inner * PANEL..][..self.inner * PANEL].iter().skip(column).step_by(PANEL)
        };
        ids.iter().flat_map(row).copied().collect()
    }
}

/// All given rows through all given panels.
struct Strip<'s> {
    x: &'s [f32],
    inner: usize,
    panels: &'s [f32],
    out: &'s mut [f32],
    /// Columns of `out`.
    width: usize,
}

impl WithSimd for Strip<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Strip { x, inner, panels, out, width } = self;
        let rows = out.len() / width;
        for (panel, column) in panels.chunks_exact(inner * PANEL).zip((0..width).step_by(PANEL)) {
            let sizes = Sizes { rows, depth: inner, columns: PANEL.min(width - column) };
            let (left, right) = (Rows { values: x, stride: inner }, Rows { values: panel, stride: PANEL });
            simd::multiply_add(simd, sizes, left, right, RowsMut { values: &mut out[column..], stride: width });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn numbers(rows: usize, width: usize, seed: usize) -> Vec<f32> {
        (0..rows * width).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect()
    }

    fn linear(out: usize, inner: usize, bias: Option<&Tensor>) -> Linear {
        Linear::new(&Tensor::from_vec(numbers(out, inner, 1), (out, inner), &Device::Cpu).unwrap(), bias).unwrap()
    }

    #[test]
    fn a_row_is_the_same_in_any_company() {
        // Outputs on both sides of every border of panels and strips, rows on both sides of the switch between the two ways.
        let many = ROWS * rayon::current_num_threads() + 5;
        for (inner, out) in [(1, 3), (2, 40), (16, 48), (64, 32), (172, 64), (513, 129), (576, 260), (1025, 7)] {
            let linear = linear(out, inner, None);
            let x = numbers(many + 3, inner, 2);
            let together = linear.forward(&x);
            for count in [1, 2, 3, 5, 11, 12, 13, 47, 49, many] {
                let some = linear.forward(&x[3 * inner..(3 + count) * inner]);
                assert_eq!(some[..], together[3 * out..(3 + count) * out], "{inner} to {out}, {count} rows");
            }
        }
    }

    #[test]
    fn values_are_those_of_the_definition() {
        for (inner, out, rows) in [(1, 1, 1), (513, 5, 4), (1200, 33, 300)] {
            let (weight, x) = (numbers(out, inner, 1), numbers(rows, inner, 2));
            let bias = Tensor::from_vec(numbers(1, out, 5), out, &Device::Cpu).unwrap();
            let linear = linear(out, inner, Some(&bias));
            let bias = bias.to_vec1::<f32>().unwrap();
            let mut onto = numbers(rows, out, 9);
            let got = linear.forward(&x);
            let residual = onto.clone();
            linear.add_to(&x, &mut onto);
            for (at, got) in got.iter().enumerate() {
                let (row, column) = (at / out, at % out);
                let terms = weight[column * inner..][..inner].iter().zip(&x[row * inner..]);
                let expected = terms.map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>() + f64::from(bias[column]);
                assert!((expected - f64::from(*got)).abs() < 1e-3, "{inner} to {out}: {expected} {got}");
                assert!((expected + f64::from(residual[at]) - f64::from(onto[at])).abs() < 1e-3, "{inner} to {out}: {expected} {got}");
            }
        }
    }

    #[test]
    fn a_tied_head_embeds() {
        let weight = numbers(70, 4, 1);
        let row = |id: usize| weight[id * 4..][..4].to_vec();
        assert_eq!(linear(70, 4, None).embed(&[8, 0, 69, 8]), [row(8), row(0), row(69), row(8)].concat());
    }
}
