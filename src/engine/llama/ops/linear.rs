//! Linear layers over packed rows, with weights laid out once for the way they are read.
//!
//! A weight lies in panels of `PANEL` outputs, each `[in][PANEL]`: a panel is read from front to back whatever the number of rows, so few
//! rows run at the speed of memory and many at that of the arithmetic unit, and nothing is rearranged in a call. Every output is one chain
//! of fused multiply-adds over the inner dimension (`simd::multiply_add`): a row's value does not depend on how many rows stand beside it,
//! and an answer not on its company in a batch. (candle's matrix product adds up in another order for one row than for many.)
//!
//! bf16 and f16 stay as they are in memory: half of it, and half of what few rows wait for. They are widened a piece of a panel at a time,
//! into the nearest cache, and so are quantised weights decoded ([`blocks`]). The numbers are those of weights widened or decoded beforehand, to
//! the last bit.

use super::{
    blocks,
    simd::{self, Rows, RowsMut, Simd, Sizes, WithSimd},
};
use candle_core::{DType, Error, Result, Tensor, WithDType};
use half::{bf16, f16};
use rayon::prelude::*;
use std::ops::Range;

/// Outputs of a panel: two vectors of the widest unit.
pub const PANEL: usize = blocks::LANES;
/// Rows of a thread from which on each has rows of its own and goes over all panels; fewer share the panels among the threads.
const ROWS: usize = 48;
/// Rows that go over a panel together at most, so that what they read and write stays in the caches.
const MOST_ROWS: usize = 256;
/// Panels that few rows go over together.
const PANELS: usize = 4;
/// Inner numbers of a panel that are widened at once: 16 KiB of f32.
const DEPTH: usize = 128;

/// `x W + b`.
#[derive(Debug)]
pub struct Linear {
    panels: Panels,
    inner: usize,
    out: usize,
    bias: Option<Vec<f32>>,
}

/// `[panel][in][PANEL]`, the last panel filled up with zeros.
#[derive(Debug)]
enum Panels {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
    /// Each panel as blocks.
    Quantised(Vec<blocks::Panel>),
}

impl Linear {
    /// From a weight `[out][in]` as checkpoints have it, in f32, bf16 or f16, and a bias `[out]`.
    ///
    /// # Errors
    /// When the tensors are no such matrix and vector.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        let (out, inner) = weight.dims2()?;
        let panels = match weight.dtype() {
            DType::BF16 => Panels::Bf16(in_panels(weight, inner)?),
            DType::F16 => Panels::F16(in_panels(weight, inner)?),
            _ => Panels::F32(in_panels(weight, inner)?),
        };
        Ok(Linear { panels, inner, out, bias: bias.map(widened).transpose()? })
    }

    /// From a quantised weight `[out][in]` in panels of [`PANEL`] outputs, of which the last one may have fewer.
    ///
    /// # Errors
    /// When a panel has other columns, or the panels do not make up so many outputs.
    pub fn quantised(panels: Vec<blocks::Panel>, [out, inner]: [usize; 2], bias: Option<&Tensor>) -> Result<Self> {
        if let Some(odd) = panels.iter().find(|panel| panel.columns() != inner) {
            return Err(Error::Msg(format!("a panel of {} columns is none of a matrix with {inner}", odd.columns())));
        }
        if panels.len() != out.div_ceil(PANEL) {
            return Err(Error::Msg(format!("{} panels of {PANEL} rows do not make up {out}", panels.len())));
        }
        Ok(Linear { panels: Panels::Quantised(panels), inner, out, bias: bias.map(widened).transpose()? })
    }

    /// `[rows][in]` to `[rows][out]`.
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let mut out = Vec::new();
        self.forward_into(x, &mut out);
        out
    }

    /// The same into a buffer, whatever it holds.
    pub fn forward_into(&self, x: &[f32], out: &mut Vec<f32>) {
        let rows = x.len() / self.inner;
        out.clear();
        match &self.bias {
            Some(bias) => (0..rows).for_each(|_| out.extend_from_slice(bias)),
            None => out.resize(rows * self.out, 0.0),
        }
        self.add_product(x, out);
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
        let panels = self.out.div_ceil(PANEL);
        if rows >= ROWS * threads {
            // As many parts for each thread, and all of one size: no thread waits for another's last one.
            let parts = threads * rows.div_ceil(threads * MOST_ROWS);
            let rows = rows.div_ceil(parts);
            out.par_chunks_mut(rows * self.out)
                .zip(x.par_chunks(rows * self.inner))
                .for_each(|(out, x)| simd::dispatch(Strip { linear: self, x, panels: 0..panels, out, width: self.out }));
            return;
        }
        let width = |at: usize| (PANELS * PANEL).min(self.out - at);
        let strips: Vec<Vec<f32>> = (0..panels.div_ceil(PANELS))
            .into_par_iter()
            .map(|strip| {
                let (first, at) = (strip * PANELS, strip * PANELS * PANEL);
                let mut part: Vec<f32> = out.chunks_exact(self.out).flat_map(|row| &row[at..at + width(at)]).copied().collect();
                let panels = first..(first + PANELS).min(panels);
                simd::dispatch(Strip { linear: self, x, panels, out: &mut part, width: width(at) });
                part
            })
            .collect();
        for (strip, part) in strips.iter().enumerate() {
            let at = strip * PANELS * PANEL;
            let rows = out.chunks_exact_mut(self.out).zip(part.chunks_exact(width(at)));
            rows.for_each(|(row, part)| row[at..at + width(at)].copy_from_slice(part));
        }
    }

    /// Rows of the weight as the checkpoint has it, one for each of `ids`: the embedding of a model.
    pub fn embed(&self, ids: &[u32]) -> Vec<f32> {
        match &self.panels {
            Panels::F32(all) => self.columns(all, ids).copied().collect(),
            Panels::Bf16(all) => self.columns(all, ids).map(|value| value.to_f32()).collect(),
            Panels::F16(all) => self.columns(all, ids).map(|value| value.to_f32()).collect(),
            Panels::Quantised(_) => {
                let mut rows = vec![0.0; ids.len() * self.inner];
                let each = rows.par_chunks_mut(self.inner).zip(ids);
                each.for_each(|(out, id)| simd::dispatch(Row { linear: self, id: *id as usize, out }));
                rows
            }
        }
    }

    fn columns<'p, T>(&self, panels: &'p [T], ids: &[u32]) -> impl Iterator<Item = &'p T> {
        ids.iter().flat_map(move |id| {
            let (panel, column) = (*id as usize / PANEL, *id as usize % PANEL);
            panels[panel * self.inner * PANEL..][..self.inner * PANEL].iter().skip(column).step_by(PANEL)
        })
    }
}

fn widened(bias: &Tensor) -> Result<Vec<f32>> {
    bias.to_dtype(DType::F32)?.to_vec1()
}

/// Lays a matrix `[out][in]` out in panels.
fn in_panels<T: WithDType>(weight: &Tensor, inner: usize) -> Result<Vec<T>> {
    let values = weight.flatten_all()?.to_vec1::<T>()?;
    let size = (inner * PANEL).max(1);
    let mut panels = vec![T::zero(); values.len().div_ceil(size) * size];
    panels.par_chunks_mut(size).zip(values.par_chunks(size)).for_each(|(panel, rows)| {
        for (column, row) in rows.chunks_exact(inner).enumerate() {
            panel.iter_mut().skip(column).step_by(PANEL).zip(row).for_each(|(to, from)| *to = *from);
        }
    });
    Ok(panels)
}

/// A widened piece of a panel.
type Room = [f32; blocks::COLUMNS * PANEL];

impl Panels {
    /// A part of a panel, `[depth][PANEL]`, in f32: where it lies, or widened to `room`. It begins where one of [`Panels::depth`] begins.
    #[inline(always)]
    fn piece<'p>(&'p self, panel: usize, inner: usize, part: Range<usize>, room: &'p mut Room) -> &'p [f32] {
        let all = (panel * inner + part.start) * PANEL..(panel * inner + part.end) * PANEL;
        let room = &mut room[..(part.len() * PANEL).min(blocks::COLUMNS * PANEL)];
        match self {
            Panels::F32(values) => return &values[all],
            // The upper half of an f32.
            Panels::Bf16(values) => {
                room.iter_mut().zip(&values[all]).for_each(|(to, from)| *to = f32::from_bits(u32::from(from.to_bits()) << 16))
            }
            Panels::F16(values) => room.iter_mut().zip(&values[all]).for_each(|(to, from)| *to = simd::of_half(from.to_bits())),
            Panels::Quantised(panels) => panels[panel].decode(part.start, room),
        }
        room
    }

    /// Inner numbers that a piece may have.
    fn depth(&self, inner: usize) -> usize {
        match self {
            Panels::F32(_) => inner,
            Panels::Bf16(_) | Panels::F16(_) => DEPTH,
            Panels::Quantised(_) => blocks::COLUMNS,
        }
    }
}

/// All given rows through the given panels.
struct Strip<'s> {
    linear: &'s Linear,
    x: &'s [f32],
    panels: Range<usize>,
    out: &'s mut [f32],
    /// Columns of `out`.
    width: usize,
}

impl WithSimd for Strip<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Strip { linear: Linear { panels: all, inner, .. }, x, panels, out, width } = self;
        let (rows, most) = (out.len() / width, all.depth(*inner));
        let mut room: Room = [0.0; _];
        for (panel, column) in panels.zip((0..width).step_by(PANEL)) {
            for first in (0..*inner).step_by(most) {
                let depth = most.min(inner - first);
                let right = Rows { values: all.piece(panel, *inner, first..first + depth, &mut room), stride: PANEL };
                let sizes = Sizes { rows, depth, columns: PANEL.min(width - column) };
                let left = Rows { values: &x[first..], stride: *inner };
                simd::multiply_add(simd, sizes, left, right, RowsMut { values: &mut out[column..], stride: width });
            }
        }
    }
}

/// One row of the weight.
struct Row<'r> {
    linear: &'r Linear,
    id: usize,
    out: &'r mut [f32],
}

impl WithSimd for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Linear { panels, inner, .. } = self.linear;
        let mut room: Room = [0.0; _];
        let most = panels.depth(*inner);
        for (piece, out) in self.out.chunks_mut(most).enumerate() {
            let part = piece * most..piece * most + out.len();
            let values = panels.piece(self.id / PANEL, *inner, part, &mut room);
            out.iter_mut().zip(values.iter().skip(self.id % PANEL).step_by(PANEL)).for_each(|(to, from)| *to = *from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{
        Device,
        quantized::{GgmlDType, QTensor},
    };

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
    fn short_types_are_what_they_are_when_widened() {
        // Depths on both sides of a piece, rows on both sides of the switch.
        let many = ROWS * rayon::current_num_threads() + 5;
        for (inner, out) in [(1, 3), (127, 33), (128, 64), (129, 260), (576, 96)] {
            let weight = Tensor::from_vec(numbers(out, inner, 1), (out, inner), &Device::Cpu).unwrap();
            for dtype in [DType::BF16, DType::F16] {
                let short = weight.to_dtype(dtype).unwrap();
                let (narrow, wide) = (Linear::new(&short, None).unwrap(), Linear::new(&short.to_dtype(DType::F32).unwrap(), None).unwrap());
                for count in [1, 3, 13, many] {
                    let x = numbers(count, inner, 2);
                    assert_eq!(narrow.forward(&x), wide.forward(&x), "{dtype:?}, {inner} to {out}, {count} rows");
                }
                let ids: Vec<u32> = vec![2, 0, out as u32 - 1];
                assert_eq!(narrow.embed(&ids), wide.embed(&ids));
            }
        }
    }

    #[test]
    fn quantised_weights_are_what_they_are_when_expanded() {
        let many = ROWS * rayon::current_num_threads() + 5;
        for (dtype, inner, out) in [(GgmlDType::Q8_0, 160, 70), (GgmlDType::Q8_0, 288, 32), (GgmlDType::Q4K, 512, 129)] {
            let weight = Tensor::from_vec(numbers(out, inner, 1), (out, inner), &Device::Cpu).unwrap();
            let whole = QTensor::quantize(&weight, dtype).unwrap();
            let bytes = whole.data().unwrap();
            let rows: Vec<&[u8]> = bytes.chunks_exact(bytes.len() / out).collect();
            let panels = rows.chunks(PANEL).map(|rows| blocks::Panel::new(dtype, rows).unwrap()).collect();
            let narrow = Linear::quantised(panels, [out, inner], None).unwrap();
            let wide = Linear::new(&whole.dequantize(&Device::Cpu).unwrap(), None).unwrap();
            for count in [1, 13, many] {
                let x = numbers(count, inner, 2);
                assert_eq!(narrow.forward(&x), wide.forward(&x), "{dtype:?}, {inner} to {out}, {count} rows");
            }
            let ids: Vec<u32> = vec![2, 0, out as u32 - 1];
            assert_eq!(narrow.embed(&ids), wide.embed(&ids));
        }
        let panel = || vec![blocks::Panel::new(GgmlDType::Q8_0, &[&[0; 34]]).unwrap()];
        assert!(Linear::quantised(panel(), [33, 32], None).is_err(), "too few panels");
        assert!(Linear::quantised(panel(), [32, 64], None).is_err(), "too few columns");
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
