//! Small f32 kernels, compiled for each vector unit that x86 and ARM have and chosen at run time (crate `pulp`).
//!
//! Every element of a product is one chain of fused multiply-adds in the order of the inner dimension, and every other sum has an order that
//! the source fixes: the numbers depend neither on what stands beside an element nor on the width of the machine's registers.
//!
//! What runs inside [`WithSimd::with_simd`] must be `#[inline(always)]` all the way down: a function that is not inlined there is compiled for
//! the machine that every program runs on.

#![expect(clippy::needless_range_loop, reason = "plain loops over arrays stay in registers")]

pub use pulp::{Simd, WithSimd};

/// Partial sums that run side by side in reductions.
const LANES: usize = 16;

/// Runs a kernel on the machine's widest vector unit.
pub fn dispatch<K: WithSimd>(kernel: K) -> K::Output {
    pulp::Arch::new().dispatch(kernel)
}

/// A row-major matrix in a longer slice.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Its first value is the matrix's first.
    pub values: &'a [f32],
    /// From one row to the next.
    pub stride: usize,
}

/// A row-major matrix to write.
pub struct RowsMut<'a> {
    /// Its first value is the matrix's first.
    pub values: &'a mut [f32],
    /// From one row to the next.
    pub stride: usize,
}

/// Sizes of a product `[rows][depth] * [depth][columns]`.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Rows of the left side.
    pub rows: usize,
    /// Rows of the right side.
    pub depth: usize,
    /// Columns of the right side.
    pub columns: usize,
}

/// `out += left * right`.
#[inline(always)]
pub fn multiply_add<S: Simd>(simd: S, sizes: Sizes, left: Rows<'_>, right: Rows<'_>, out: RowsMut<'_>) {
    // Two vectors of sums a row, two of the right side and a broadcast value must fit into the registers.
    let most = if S::REGISTER_COUNT >= 32 { 12 } else { 6 };
    let mut row = 0;
    while row < sizes.rows {
        let left = Rows { values: &left.values[row * left.stride..], ..left };
        let out = RowsMut { values: &mut out.values[row * out.stride..], ..out };
        row += match (sizes.rows - row).min(most) {
            12.. => block::<S, 12>(simd, sizes, left, right, out),
            8.. => block::<S, 8>(simd, sizes, left, right, out),
            6.. => block::<S, 6>(simd, sizes, left, right, out),
            4.. => block::<S, 4>(simd, sizes, left, right, out),
            3 => block::<S, 3>(simd, sizes, left, right, out),
            2 => block::<S, 2>(simd, sizes, left, right, out),
            _ => block::<S, 1>(simd, sizes, left, right, out),
        };
    }
}

/// `R` rows of [`multiply_add`]; gives `R`.
#[inline(always)]
fn block<S: Simd, const R: usize>(simd: S, sizes: Sizes, left: Rows<'_>, right: Rows<'_>, out: RowsMut<'_>) -> usize {
    let Sizes { depth, columns, .. } = sizes;
    let mut rows = [&left.values[..0]; R];
    for r in 0..R {
        rows[r] = &left.values[r * left.stride..][..depth];
    }
    let pair = 2 * S::F32_LANES;
    let paired = columns - columns % pair;
    for column in (0..paired).step_by(pair) {
        let mut sums = [[simd.splat_f32s(0.0); 2]; R];
        for r in 0..R {
            sums[r] = load_pair(simd, &out.values[r * out.stride + column..]);
        }
        for k in 0..depth {
            let [first, second] = load_pair(simd, &right.values[k * right.stride + column..]);
            for r in 0..R {
                let factor = simd.splat_f32s(rows[r][k]);
                sums[r] = [simd.mul_add_f32s(factor, first, sums[r][0]), simd.mul_add_f32s(factor, second, sums[r][1])];
            }
        }
        for r in 0..R {
            let (to, _) = S::as_mut_simd_f32s(&mut out.values[r * out.stride + column..][..pair]);
            to.copy_from_slice(&sums[r]);
        }
    }
    for column in (paired..columns).step_by(S::F32_LANES) {
        let width = S::F32_LANES.min(columns - column);
        for r in 0..R {
            let to = &mut out.values[r * out.stride + column..][..width];
            let mut sum = simd.partial_load_f32s(to);
            for k in 0..depth {
                let right = simd.partial_load_f32s(&right.values[k * right.stride + column..][..width]);
                sum = simd.mul_add_f32s(simd.splat_f32s(rows[r][k]), right, sum);
            }
            simd.partial_store_f32s(to, sum);
        }
    }
    R
}

/// The first two vectors of a slice.
#[inline(always)]
fn load_pair<S: Simd>(_: S, values: &[f32]) -> [S::f32s; 2] {
    let (vectors, _) = S::as_simd_f32s(&values[..2 * S::F32_LANES]);
    [vectors[0], vectors[1]]
}

/// An f16 in f32. Its bits are put where f32 has them, and the product makes good another bias of the exponent, exactly, also of subnormal
/// numbers; what was infinite or no number has become finite by then. (The library's conversion is a call for eight numbers.)
#[inline(always)]
pub fn of_half(bits: u16) -> f32 {
    const BIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);
    const LARGER_THAN_ANY: f32 = 65_536.0;
    let size = f32::from_bits(u32::from(bits & 0x7fff) << 13) * BIAS;
    let infinite = if size >= LARGER_THAN_ANY { f32::INFINITY.to_bits() } else { 0 };
    f32::from_bits(size.to_bits() | infinite | u32::from(bits & 0x8000) << 16)
}

/// `e^x` to about one unit in the last place (the method of Cephes' `expf`): `x = n ln 2 + r`, a polynomial in `r`, `n` put into the exponent.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Added to a small float, this leaves its nearest integer in the low bits.
    const TO_INTEGER: f32 = 12_582_912.0;
    const POLYNOMIAL: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5];
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + TO_INTEGER;
    let n = shifted - TO_INTEGER;
    // ln 2 in two parts, the first of which multiplies without rounding.
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut y = 0.0;
    for coefficient in POLYNOMIAL {
        y = y * r + coefficient;
    }
    (y * r * r + r + 1.0) * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// The largest value; negative infinity of none.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, f32::max)
}

/// Replaces each value by `e^(value - largest)` and returns their sum.
#[inline(always)]
pub fn exponentials(values: &mut [f32], largest: f32) -> f32 {
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    let mut sums = [0.0f32; LANES];
    for chunk in chunks {
        let mut powers = *chunk;
        for lane in 0..LANES {
            powers[lane] = exp(powers[lane] - largest);
            sums[lane] += powers[lane];
        }
        *chunk = powers;
    }
    let mut sum = sums.iter().sum();
    for value in rest {
        *value = exp(*value - largest);
        sum += *value;
    }
    sum
}

/// Sum of `e^(value - largest)` in f64.
#[inline(always)]
pub fn sum_of_exponentials(values: &[f32], largest: f32) -> f64 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0f64; LANES];
    for chunk in chunks {
        let mut powers = *chunk;
        for lane in 0..LANES {
            powers[lane] = exp(powers[lane] - largest);
        }
        for lane in 0..LANES {
            sums[lane] += f64::from(powers[lane]);
        }
    }
    let mut sum = sums.iter().sum();
    for value in rest {
        sum += f64::from(exp(*value - largest));
    }
    sum
}

/// Sum of the squares.
#[inline(always)]
pub fn sum_of_squares(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += chunk[lane] * chunk[lane];
        }
    }
    sums.into_iter().sum::<f32>() + rest.iter().map(|v| v * v).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_half_is_the_librarys() {
        for bits in 0..=u16::MAX {
            let (ours, wanted) = (of_half(bits), half::f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == wanted.to_bits() || ours.is_nan() && wanted.is_nan(), "{bits:#x}: {ours} for {wanted}");
        }
    }

    #[test]
    fn exponentials_are_close_to_the_libraries() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let (got, expected) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((got / expected - 1.0).abs() < 2e-7, "{x}: {got} {expected}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1000.0) < 1e-37 && exp(f32::NAN).is_nan());
    }

    fn number(seed: usize) -> f32 {
        (seed * 7919 % 1000) as f32 / 500.0 - 1.0
    }

    struct Product<'p> {
        sizes: Sizes,
        left: Rows<'p>,
        right: Rows<'p>,
        out: RowsMut<'p>,
    }

    impl WithSimd for Product<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            multiply_add(simd, self.sizes, self.left, self.right, self.out);
        }
    }

    proptest! {
        #[test]
        fn reductions_are_what_their_names_say(len in 0..100usize, seed in 0..1000usize) {
            let values: Vec<f32> = (0..len).map(|i| number(i * i + seed)).collect();
            let largest = max(&values);
            prop_assert_eq!(largest, values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let expected: f64 = values.iter().map(|v| f64::from(v - largest).exp()).sum();
            prop_assert!((sum_of_exponentials(&values, largest) - expected).abs() < 1e-5);
            let mut replaced = values.clone();
            let sum = exponentials(&mut replaced, largest);
            prop_assert!((f64::from(sum) - expected).abs() < 1e-4);
            prop_assert!(replaced.iter().zip(&values).all(|(r, v)| (r - (v - largest).exp()).abs() < 1e-6));
            let squares: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
            prop_assert!((f64::from(sum_of_squares(&values)) - squares).abs() < 1e-4);
        }

        /// Against the definition, to the last bit: blocks of rows, pairs and parts of vectors change nothing.
        #[test]
        fn products_are_chains_of_fused_steps(rows in 1..30usize, depth in 0..40usize, columns in 1..80usize, pad in 0..3usize) {
            let left: Vec<f32> = (0..rows * (depth + pad)).map(number).collect();
            let right: Vec<f32> = (0..depth * (columns + pad)).map(|i| number(i + 77)).collect();
            let start: Vec<f32> = (0..rows * columns).map(|i| number(i + 5)).collect();
            let mut got = start.clone();
            let (left, right) = (Rows { values: &left, stride: depth + pad }, Rows { values: &right, stride: columns + pad });
            let out = RowsMut { values: &mut got, stride: columns };
            dispatch(Product { sizes: Sizes { rows, depth, columns }, left, right, out });
            for (at, start) in start.iter().enumerate() {
                let (row, column) = (at / columns, at % columns);
                let step = |sum: f32, k: usize| left.values[row * left.stride + k].mul_add(right.values[k * right.stride + column], sum);
                prop_assert_eq!(got[at].to_bits(), (0..depth).fold(*start, step).to_bits());
            }
        }
    }
}
