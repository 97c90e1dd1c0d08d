//! Linear layers whose rows do not depend on each other, to the last bit.
//!
//! candle hands a product to the gemm crate, which adds up in another order when there is one row, when the output is tiny, and when the
//! inner dimension exceeds 512 and is cut by cache sizes. A row's value would then depend on how many rows stand beside it, and an answer on
//! its company in a batch. Two choices take that away: weights lie `[in][out]`, for which gemm has no path with horizontal sums, and inner
//! dimensions are cut here, into parts that gemm does not cut again. Then every value is one chain of fused multiply-adds per part and a sum
//! of the parts in order.
//!
//! The layout is the faster one as well: gemm packs `[out][in]` weights anew in every call, which is most of the work of few rows.

use candle_core::{Result, Tensor};

/// Longest part of the inner dimension that gemm 0.19 never cuts (`gemm-common` `cache.rs`, `kernel_params`).
const PART: usize = 512;

/// `x W + b`.
#[derive(Debug)]
pub struct Linear {
    /// `[in][out]`, contiguous.
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// From a weight `[out][in]` as checkpoints have it, and a bias `[out]`.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(Linear { weight: weight.t()?.contiguous()?, bias })
    }

    /// `[rows][in]` to `[rows][out]`.
    ///
    /// # Errors
    /// A width that does not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let inner = self.weight.dim(0)?;
        let part = inner.div_ceil(inner.div_ceil(PART).max(1));
        let product = |at: usize| {
            let len = part.min(inner - at);
            x.narrow(1, at, len)?.matmul(&self.weight.narrow(0, at, len)?)
        };
        let mut sum = product(0)?;
        for at in (part..inner).step_by(part) {
            sum = (sum + product(at)?)?;
        }
        match &self.bias {
            Some(bias) => sum.broadcast_add(bias),
            None => Ok(sum),
        }
    }

    /// Rows of the weight as the checkpoint has it, one for each of `ids`: the embedding of a model that ties it to its head.
    ///
    /// # Errors
    /// An id beyond the output width.
    pub fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        self.weight.index_select(ids, 1)?.t()?.contiguous()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn numbers(rows: usize, width: usize, seed: usize) -> Tensor {
        let value = |i: usize| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0;
        Tensor::from_vec((0..rows * width).map(value).collect(), (rows, width), &Device::Cpu).unwrap()
    }

    fn rows(x: &Tensor) -> Vec<Vec<f32>> {
        x.to_vec2().unwrap()
    }

    #[test]
    fn a_row_is_the_same_in_any_company() {
        // Outputs and inner dimensions on both sides of every switch inside gemm.
        for (inner, out) in [(1, 3), (2, 40), (16, 48), (64, 32), (172, 64), (513, 64), (576, 960), (1025, 7), (1536, 65)] {
            let linear = Linear::new(&numbers(out, inner, 1), None).unwrap();
            let x = numbers(70, inner, 2);
            let together = rows(&linear.forward(&x).unwrap());
            for count in [1, 2, 3, 5, 16, 17, 64, 65] {
                let some = rows(&linear.forward(&x.narrow(0, 3, count).unwrap()).unwrap());
                assert_eq!(some[..], together[3..3 + count], "{inner} to {out}, {count} rows");
            }
        }
    }

    #[test]
    fn values_are_those_of_the_definition() {
        for (inner, out) in [(1, 1), (513, 5), (1200, 33)] {
            let (weight, bias, x) = (numbers(out, inner, 1), numbers(1, out, 5).squeeze(0).unwrap(), numbers(4, inner, 2));
            let got = rows(&Linear::new(&weight, Some(bias.clone())).unwrap().forward(&x).unwrap());
            let (weight, bias, x) = (rows(&weight), bias.to_vec1::<f32>().unwrap(), rows(&x));
            for (x, got) in x.iter().zip(got) {
                for ((w, b), got) in weight.iter().zip(&bias).zip(got) {
                    let expected: f64 = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>() + f64::from(*b);
                    assert!((expected - f64::from(got)).abs() < 1e-3, "{inner} to {out}: {expected} {got}");
                }
            }
        }
    }

    #[test]
    fn a_tied_head_embeds() {
        let weight = numbers(9, 4, 3);
        let linear = Linear::new(&weight, None).unwrap();
        let ids = Tensor::new(&[8u32, 0, 8], &Device::Cpu).unwrap();
        assert_eq!(rows(&linear.embed(&ids).unwrap()), rows(&weight.index_select(&ids, 0).unwrap()));
    }
}
