//! Blocks of quantised numbers, the types of llama.cpp's files (`ggml/src/ggml-quants.c`, `dequantize_row_*`; layouts in `ggml-common.h`).
//!
//! In a file a row's blocks stand one after the other. Here the blocks of [`LANES`] rows lie byte beside byte: what the format says of one byte
//! is done to a vector of them, and the numbers come out in the order in which a product reads them. They are those that the format
//! defines, to the last bit, and the memory is that of the file.

use super::simd::of_half;
use candle_core::quantized::GgmlDType;
use std::array::from_fn;

/// Rows side by side.
pub const LANES: usize = 32;
/// Columns that whole blocks of every type fill.
pub const COLUMNS: usize = 256;

/// One byte of each row.
type Bytes = [u8; LANES];
/// One number of each row.
type Numbers = [f32; LANES];

/// Types that weights are kept in. The figure is the bits of a number; `K` types have 256 numbers in a block, the others 32.
#[derive(Clone, Copy, Debug)]
enum Form {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

/// Some rows of a matrix, at most [`LANES`].
#[derive(Debug)]
pub struct Panel {
    form: Form,
    /// Numbers and bytes of a row in a block.
    block: [usize; 2],
    /// `[block][byte][row]`.
    bytes: Vec<Bytes>,
}

impl Panel {
    /// From rows of whole blocks as a file has them, all of one length; `None` for types that no weights are kept in.
    pub fn new(dtype: GgmlDType, rows: &[&[u8]]) -> Option<Self> {
        let form = match dtype {
            GgmlDType::Q4_0 => Form::Q4_0,
            GgmlDType::Q4_1 => Form::Q4_1,
            GgmlDType::Q5_0 => Form::Q5_0,
            GgmlDType::Q5_1 => Form::Q5_1,
            GgmlDType::Q8_0 => Form::Q8_0,
            GgmlDType::Q2K => Form::Q2K,
            GgmlDType::Q3K => Form::Q3K,
            GgmlDType::Q4K => Form::Q4K,
            GgmlDType::Q5K => Form::Q5K,
            GgmlDType::Q6K => Form::Q6K,
            _ => return None,
        };
        let mut bytes = vec![[0; LANES]; rows.first().map_or(0, |row| row.len())];
        for (lane, row) in rows.iter().enumerate() {
            bytes.iter_mut().zip(*row).for_each(|(to, from)| to[lane] = *from);
        }
        Some(Panel { form, block: [dtype.block_size(), dtype.type_size()], bytes })
    }

    /// Columns of the matrix.
    pub fn columns(&self) -> usize {
        self.bytes.len() / self.block[1] * self.block[0]
    }

    /// The numbers of some columns, `[column][row]`; the first one and their count are multiples of the block's numbers. Zeros, of either sign,
    /// stand for rows that are not there.
    #[inline(always)]
    pub fn decode(&self, first: usize, out: &mut [f32]) {
        let [numbers, size] = self.block;
        let blocks = self.bytes[first / numbers * size..].chunks_exact(size);
        for (block, out) in blocks.zip(out.as_chunks_mut().0.chunks_exact_mut(numbers)) {
            match self.form {
                Form::Q4_0 => q4_0(block, out),
                Form::Q4_1 => q4_1(block, out),
                Form::Q5_0 => q5_0(block, out),
                Form::Q5_1 => q5_1(block, out),
                Form::Q8_0 => q8_0(block, out),
                Form::Q2K => q2_k(block, out),
                Form::Q3K => q3_k(block, out),
                Form::Q4K => q4_k(block, out),
                Form::Q5K => q5_k(block, out),
                Form::Q6K => q6_k(block, out),
            }
        }
    }
}

#[inline(always)]
fn half(bytes: &[Bytes]) -> Numbers {
    from_fn(|row| of_half(u16::from_le_bytes([bytes[0][row], bytes[1][row]])))
}

#[inline(always)]
fn times(left: &Numbers, right: impl Fn(usize) -> i8) -> Numbers {
    from_fn(|row| left[row] * f32::from(right(row)))
}

/// `scale * q`.
#[inline(always)]
fn scaled(out: &mut Numbers, scale: &Numbers, q: impl Fn(usize) -> u8) {
    for row in 0..LANES {
        out[row] = scale[row] * f32::from(q(row).cast_signed());
    }
}

/// `scale * q + offset`.
#[inline(always)]
fn shifted(out: &mut Numbers, scale: &Numbers, offset: &Numbers, q: impl Fn(usize) -> u8) {
    for row in 0..LANES {
        out[row] = scale[row] * f32::from(q(row)) + offset[row];
    }
}

/// Four bits of a byte: the lower ones of the first half of columns, the upper ones of the second.
#[inline(always)]
fn nibble(byte: u8, half: usize) -> u8 {
    if half == 0 { byte & 15 } else { byte >> 4 }
}

#[inline(always)]
fn q4_0(block: &[Bytes], out: &mut [Numbers]) {
    let scale = half(block);
    for column in 0..32 {
        let q = &block[2 + column % 16];
        scaled(&mut out[column], &scale, |row| nibble(q[row], column / 16).wrapping_sub(8));
    }
}

#[inline(always)]
fn q4_1(block: &[Bytes], out: &mut [Numbers]) {
    let (scale, offset) = (half(block), half(&block[2..]));
    for column in 0..32 {
        let q = &block[4 + column % 16];
        shifted(&mut out[column], &scale, &offset, |row| nibble(q[row], column / 16));
    }
}

#[inline(always)]
fn q5_0(block: &[Bytes], out: &mut [Numbers]) {
    let scale = half(block);
    for column in 0..32 {
        let (q, fifth) = (&block[6 + column % 16], &block[2 + column / 8]);
        let q = |row: usize| nibble(q[row], column / 16) | (fifth[row] >> (column % 8) & 1) << 4;
        scaled(&mut out[column], &scale, |row| q(row).wrapping_sub(16));
    }
}

#[inline(always)]
fn q5_1(block: &[Bytes], out: &mut [Numbers]) {
    let (scale, offset) = (half(block), half(&block[2..]));
    for column in 0..32 {
        let (q, fifth) = (&block[8 + column % 16], &block[4 + column / 8]);
        shifted(&mut out[column], &scale, &offset, |row| nibble(q[row], column / 16) | (fifth[row] >> (column % 8) & 1) << 4);
    }
}

#[inline(always)]
fn q8_0(block: &[Bytes], out: &mut [Numbers]) {
    let scale = half(block);
    for column in 0..32 {
        let q = &block[2 + column];
        scaled(&mut out[column], &scale, |row| q[row]);
    }
}

/// Scales and minima of 16 columns in a byte; two bits a number.
#[inline(always)]
fn q2_k(block: &[Bytes], out: &mut [Numbers]) {
    let (scales, numbers, [scale, min]) = (&block[..16], &block[16..80], [half(&block[80..]), half(&block[82..])]);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let (part, shift, side) = (group / 8, group / 2 % 4 * 2, group % 2);
        let scale = times(&scale, |row| (scales[group][row] & 15).cast_signed());
        let offset = times(&min, |row| (scales[group][row] >> 4).cast_signed()).map(|min| -min);
        for (column, out) in out.iter_mut().enumerate() {
            let q = &numbers[32 * part + 16 * side + column];
            shifted(out, &scale, &offset, |row| q[row] >> shift & 3);
        }
    }
}

/// Six bits a scale, in two places; two bits a number, and one of a mask that takes four off where it is not set.
#[inline(always)]
fn q3_k(block: &[Bytes], out: &mut [Numbers]) {
    let (mask, numbers, scales, scale) = (&block[..32], &block[32..96], &block[96..108], half(&block[108..]));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let (part, shift, side) = (group / 8, group / 2 % 4 * 2, group % 2);
        let upper = |row: usize| scales[8 + group % 4][row] >> (group / 4 * 2) & 3;
        let six = |row: usize| nibble(scales[group % 8][row], group / 8) | upper(row) << 4;
        let scale = times(&scale, |row| six(row).cast_signed() - 32);
        for (column, out) in out.iter_mut().enumerate() {
            let (q, mask) = (&numbers[32 * part + 16 * side + column], &mask[16 * side + column]);
            let kept = |row: usize| (mask[row] >> (group / 2) & 1) << 2;
            scaled(out, &scale, |row| ((q[row] >> shift & 3) | kept(row)).wrapping_sub(4));
        }
    }
}

/// Scale and offset of 32 columns, six bits each in twelve bytes.
#[inline(always)]
fn of_k4(packed: &[Bytes], group: usize, scale: &Numbers, min: &Numbers) -> [Numbers; 2] {
    let six = |row: usize| match group {
        0..4 => [packed[group][row] & 63, packed[group + 4][row] & 63],
        _ => {
            let [scale, min] = [packed[group - 4][row] >> 6, packed[group][row] >> 6];
            [packed[group + 4][row] & 15 | scale << 4, packed[group + 4][row] >> 4 | min << 4]
        }
    };
    [times(scale, |row| six(row)[0].cast_signed()), times(min, |row| six(row)[1].cast_signed()).map(|min| -min)]
}

#[inline(always)]
fn q4_k(block: &[Bytes], out: &mut [Numbers]) {
    let ([scale, min], packed, numbers) = ([half(block), half(&block[2..])], &block[4..16], &block[16..]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let [scale, offset] = of_k4(packed, group, &scale, &min);
        for (out, q) in out.iter_mut().zip(&numbers[group / 2 * 32..]) {
            shifted(out, &scale, &offset, |row| nibble(q[row], group % 2));
        }
    }
}

#[inline(always)]
fn q5_k(block: &[Bytes], out: &mut [Numbers]) {
    let ([scale, min], packed, fifths, numbers) = ([half(block), half(&block[2..])], &block[4..16], &block[16..48], &block[48..]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let [scale, offset] = of_k4(packed, group, &scale, &min);
        for ((out, q), fifth) in out.iter_mut().zip(&numbers[group / 2 * 32..]).zip(fifths) {
            shifted(out, &scale, &offset, |row| nibble(q[row], group % 2) | (fifth[row] >> group & 1) << 4);
        }
    }
}

/// A signed scale of 16 columns in a byte; four bits of a number in one place, two in another.
#[inline(always)]
fn q6_k(block: &[Bytes], out: &mut [Numbers]) {
    let (fours, twos, scales, scale) = (&block[..128], &block[128..192], &block[192..208], half(&block[208..]));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let (part, quarter, side) = (group / 8, group / 2 % 4, group % 2);
        let scale = times(&scale, |row| scales[group][row].cast_signed());
        for (column, out) in out.iter_mut().enumerate() {
            let within = 16 * side + column;
            let (four, two) = (&fours[64 * part + 32 * (quarter % 2) + within], &twos[32 * part + within]);
            let q = |row: usize| nibble(four[row], quarter / 2) | (two[row] >> (2 * quarter) & 3) << 4;
            scaled(out, &scale, |row| q(row).wrapping_sub(32));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, quantized::ggml_file::qtensor_from_ggml};
    use proptest::{collection::vec, prelude::*};

    const FORMS: [GgmlDType; 10] = [
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
        GgmlDType::Q2K,
        GgmlDType::Q3K,
        GgmlDType::Q4K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn numbers_are_those_of_the_library(form in 0..FORMS.len(), count in 1..=LANES, first in 0..3usize, bytes in vec(any::<u8>(), 3 * 256 * LANES)) {
            let dtype = FORMS[form];
            let width = COLUMNS / dtype.block_size() * dtype.type_size();
            let rows: Vec<&[u8]> = bytes.chunks_exact(3 * width).take(count).collect();
            let panel = Panel::new(dtype, &rows).unwrap();
            prop_assert_eq!(panel.columns(), 3 * COLUMNS);
            let mut got = vec![f32::NAN; (3 - first) * COLUMNS * LANES];
            panel.decode(first * COLUMNS, &mut got);
            for (row, bytes) in rows.iter().enumerate() {
                let tensor = qtensor_from_ggml(dtype, bytes, vec![1, 3 * COLUMNS], &Device::Cpu).unwrap();
                let wanted = tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let ours = got.iter().skip(row).step_by(LANES);
                for (column, (got, wanted)) in ours.zip(&wanted[first * COLUMNS..]).enumerate() {
                    let same = got.to_bits() == wanted.to_bits() || got.is_nan() && wanted.is_nan();
                    prop_assert!(same, "{:?}, row {}, column {}: {} for {}", dtype, row, column, got, wanted);
                }
            }
            prop_assert!(got.iter().enumerate().all(|(at, got)| at % LANES < count || *got == 0.0));
        }
    }

    #[test]
    fn what_no_weights_are_kept_in_is_refused() {
        assert!([GgmlDType::F32, GgmlDType::BF16, GgmlDType::Q8_1, GgmlDType::Q8K].iter().all(|dtype| Panel::new(*dtype, &[]).is_none()));
    }
}
