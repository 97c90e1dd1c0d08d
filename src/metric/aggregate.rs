//! Means and intervals over the documents of a task.

/// Python's `statistics.mean`: the exact sum of the doubles divided by n, rounded once.
///
/// Exact for values that are multiples of 2^-60, which every hundredth as a double is (0.01 is a multiple of 2^-59). `None` for an empty
/// sequence.
pub fn exact_mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sum: i128 = 0;
    let mut n: i128 = 0;
    for value in values {
        sum += (value * UNIT) as i128;
        n += 1;
    }
    (n > 0).then(|| divide(sum, n) / UNIT)
}

/// Doubles are summed as multiples of 2^-60.
const UNIT: f64 = (1u64 << 60) as f64;

/// `num / den` correctly rounded to the nearest double, ties to even; `num >= 0`, `den > 0`.
fn divide(num: i128, den: i128) -> f64 {
    if num == 0 {
        return 0.0;
    }
    // Scale so that the quotient has at least 55 significant bits, keep a sticky bit, then let the one conversion round.
    let shift = (56 + 128 - den.leading_zeros() as i32 - (128 - num.leading_zeros() as i32)).clamp(0, num.leading_zeros() as i32 - 1);
    let scaled = num << shift;
    let quotient = scaled / den;
    let sticky = i128::from(scaled % den != 0);
    let value = ((quotient << 1) | sticky) as f64;
    value / 2f64.powi(shift + 1)
}

/// Standard error of a mean: the sample's standard deviation over the root of its size (lm-eval v0.4.2 `lm_eval/api/metrics.py:231`).
///
/// `None` for fewer than two values.
pub fn standard_error(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    if values.len() < 2 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    Some(variance.sqrt() / n.sqrt())
}

/// The number of a part of a benchmark, or of a whole made of parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// Its mean.
    pub value: f64,
    /// Standard error of the mean; `None` where there is none.
    pub stderr: Option<f64>,
    /// Documents.
    pub n: u64,
}

impl Part {
    /// A whole from its parts: means weighted by their sizes (`lm_eval/api/metrics.py:500`), standard errors pooled (`:450`), in the
    /// harness's own order of operations. `None` without parts; no standard error where a part has none.
    pub fn pooled(parts: &[Part]) -> Option<Part> {
        let size: u64 = parts.iter().map(|part| part.n).sum();
        if size == 0 {
            return None;
        }
        let n = size as f64;
        let value = parts.iter().map(|part| part.value * part.n as f64).sum::<f64>() / n;
        let squares = parts.iter().map(|part| Some((part.n as f64 - 1.0) * part.stderr?.powi(2) * part.n as f64)).sum::<Option<f64>>();
        let stderr = squares.filter(|_| size > parts.len() as u64).map(|squares| (squares / (n - parts.len() as f64) / n).sqrt());
        Some(Part { value, stderr, n: size })
    }
}

/// 0.975 quantile of the normal distribution.
const Z_95: f64 = 1.959_963_984_540_054;

/// `numpy.mean` of doubles: pairwise summation as numpy does it (`numpy/core/src/umath/loops_utils.h.src`, `pairwise_sum`), then one
/// division. `None` for an empty sequence.
pub fn numpy_mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| pairwise_sum(values) / values.len() as f64)
}

fn pairwise_sum(values: &[f64]) -> f64 {
    match values.len() {
        0..8 => values.iter().sum(),
        n @ 8..=128 => {
            let mut lanes: [f64; 8] = std::array::from_fn(|i| values[i]);
            let whole = n - n % 8;
            for (i, value) in values.iter().enumerate().take(whole).skip(8) {
                lanes[i % 8] += value;
            }
            let [a, b, c, d, e, f, g, h] = lanes;
            let sum = ((a + b) + (c + d)) + ((e + f) + (g + h));
            values[whole..].iter().fold(sum, |sum, value| sum + value)
        }
        n => {
            let half = n / 2 - (n / 2) % 8;
            pairwise_sum(&values[..half]) + pairwise_sum(&values[half..])
        }
    }
}

/// Half the width of the 95 % confidence interval of a mean: 1.96 standard errors (sample variance, n - 1).
///
/// `None` for fewer than two values.
pub fn half_width_95(values: &[f64]) -> Option<f64> {
    standard_error(values).map(half_width_of)
}

/// Half the width of the 95 % confidence interval that belongs to a standard error.
pub fn half_width_of(stderr: f64) -> f64 {
    Z_95 * stderr
}

/// Half the width of the 95 % confidence interval of a statistic, from its values without each document in turn (the jackknife, Tukey 1958).
///
/// For a mean it is the same as [`half_width_95`]. `None` for fewer than two values.
pub fn jackknife_half_width_95(without_one: &[f64]) -> Option<f64> {
    Some((without_one.len() as f64 - 1.0) * half_width_95(without_one)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_is_correctly_rounded() {
        assert_eq!(exact_mean([]), None);
        assert_eq!(exact_mean([1.0, 0.0, 0.0]), Some(1.0 / 3.0));
        assert_eq!(exact_mean([0.0]), Some(0.0));
        assert_eq!(exact_mean(vec![0.07; 120]), Some(0.07));
        assert_eq!(exact_mean(vec![1.0; 3541]), Some(1.0));
    }

    #[test]
    fn parts_are_weighted_by_size() {
        let part = |value, stderr, n| Part { value, stderr, n };
        let whole = Part::pooled(&[
            part(0.9084965058244013, Some(0.06376800521112917), 85),
            part(0.4483834957892532, Some(0.04598842186617001), 184),
        ])
        .expect("two parts");
        assert_eq!((whole.value, whole.n), (0.5937723651312146, 269));
        assert!((whole.stderr.expect("pooled") - 0.03735991225758594).abs() < 1e-15);
        assert_eq!(Part::pooled(&[part(1.0, None, 1), part(0.0, Some(0.5), 2)]).expect("two parts").stderr, None);
        assert_eq!(Part::pooled(&[]), None);
    }

    #[test]
    fn half_width_of_a_coin() {
        let values: Vec<f64> = (0..100).map(|i| f64::from(i % 2)).collect();
        let half = half_width_95(&values).expect("100 values");
        assert!((half - 0.0984).abs() < 1e-3, "{half}");
        assert_eq!(half_width_95(&[1.0]), None);
        let without_one: Vec<f64> = values.iter().map(|v| (50.0 - v) / 99.0).collect();
        let jackknife = jackknife_half_width_95(&without_one).expect("100 values");
        assert!((half - jackknife).abs() < 1e-12, "{half} {jackknife}");
    }
}
