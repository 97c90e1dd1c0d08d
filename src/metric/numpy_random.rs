//! numpy's legacy `RandomState`, bit for bit, where a protocol's aggregate draws from it.
//!
//! The Mersenne Twister itself is the `rand_mt` crate's; what numpy builds on its outputs is here (numpy v1.26.4 `numpy/random/mtrand.pyx`,
//! `src/mt19937/mt19937.h`, `src/distributions/distributions.c`). Not the new `Generator`, and not CPython's `random`: they seed and draw
//! otherwise.

use rand_mt::Mt;

/// `numpy.random.RandomState`.
#[derive(Clone, Debug)]
pub struct NumpyRandom {
    mt: Mt,
}

impl NumpyRandom {
    /// `RandomState(seed)`: `init_genrand`, where CPython uses `init_by_array`.
    pub fn seeded(seed: u32) -> Self {
        NumpyRandom { mt: Mt::new(seed) }
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        self.mt.next_u32()
    }

    /// `random_sample()`: 53 bits in [0, 1).
    pub fn random(&mut self) -> f64 {
        let (a, b) = (self.next_u32() >> 5, self.next_u32() >> 6);
        (f64::from(a) * 67_108_864.0 + f64::from(b)) / 9_007_199_254_740_992.0
    }

    /// `randint(0, n)`: uniform in 0..n. Outputs are masked to the bits of `n - 1` and rejected above it; `n` = 1 draws nothing.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "a draw from an empty range");
        let max = n - 1;
        if max == 0 {
            return 0;
        }
        let mask = u64::MAX >> max.leading_zeros();
        loop {
            let value = mask & if max <= u64::from(u32::MAX) { u64::from(self.next_u32()) } else { self.next_u64() };
            if value <= max {
                return value;
            }
        }
    }

    /// Two outputs, the first one on top.
    fn next_u64(&mut self) -> u64 {
        let high = u64::from(self.next_u32());
        (high << 32) | u64::from(self.next_u32())
    }

    /// Indices drawn by `choice(n, size=n)`, with replacement.
    pub fn resample(&mut self, n: usize) -> impl Iterator<Item = usize> {
        (0..n).map(move |_| self.below(n as u64) as usize)
    }

    /// `shuffle(items)`; `permutation(n)` is the same over `arange(n)`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i as u64 + 1) as usize;
            items.swap(i, j);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_outputs() {
        // `RandomState(1234).randint(0, 2**32, size=3, dtype=uint32)`, `RandomState(1234).choice(17, size=17)` by numpy 1.26.4.
        let mut random = NumpyRandom::seeded(1234);
        assert_eq!([random.next_u32(), random.next_u32(), random.next_u32()], [822_569_775, 2_137_449_171, 2_671_936_806]);
        let drawn: Vec<usize> = NumpyRandom::seeded(1234).resample(17).collect();
        assert_eq!(drawn, [15, 6, 12, 15, 9, 11, 12, 16, 5, 16, 9, 15, 16, 12, 5, 2, 6]);
    }

    #[test]
    fn one_value_draws_nothing() {
        let mut random = NumpyRandom::seeded(0);
        assert_eq!(random.below(1), 0);
        assert_eq!(random.next_u32(), NumpyRandom::seeded(0).next_u32());
    }
}
