//! CPython's `random.Random`, bit for bit, where a protocol's shots or order depend on it.
//!
//! The Mersenne Twister itself is the `rand_mt` crate's; what CPython builds on its 32-bit outputs is here
//! (cpython v3.9.18 `Modules/_randommodule.c`, `Lib/random.py`). The results are the same for 3.9 to 3.11.

use rand_mt::Mt;

/// CPython's default generator.
#[derive(Clone, Debug)]
pub struct PyRandom {
    mt: Mt,
    /// Second value of the last Box-Muller pair (`Random.gauss_next`).
    gauss_next: Option<f64>,
}

impl PyRandom {
    /// `random.seed(seed)` for a non-negative integer below 2^64.
    pub fn seeded(seed: u64) -> Self {
        Self::from_words(&[seed as u32, (seed >> 32) as u32])
    }

    /// `random.seed(int(seed))` for a decimal integer of any size; CPython seeds with the absolute value. `None` if it is no integer.
    pub fn from_decimal(seed: &str) -> Option<Self> {
        let digits = seed.strip_prefix('-').unwrap_or(seed);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let mut words: Vec<u32> = Vec::new();
        for digit in digits.bytes() {
            let mut carry = u64::from(digit - b'0');
            for word in &mut words {
                let value = u64::from(*word) * 10 + carry;
                *word = value as u32;
                carry = value >> 32;
            }
            if carry > 0 {
                words.push(carry as u32);
            }
        }
        Some(Self::from_words(&words))
    }

    /// `init_by_array` over the little-endian 32-bit words of the seed, high zero words dropped but at least one word kept.
    fn from_words(words: &[u32]) -> Self {
        let used = words.iter().rposition(|w| *w != 0).map_or(1, |last| last + 1);
        let key: Vec<u32> = words.iter().copied().chain([0]).take(used).collect();
        PyRandom { mt: Mt::new_with_key(key), gauss_next: None }
    }

    /// `random()`: 53 bits in [0, 1).
    pub fn random(&mut self) -> f64 {
        let (a, b) = (self.mt.next_u32() >> 5, self.mt.next_u32() >> 6);
        (f64::from(a) * 67_108_864.0 + f64::from(b)) * (1.0 / 9_007_199_254_740_992.0)
    }

    /// `getrandbits(bits)` as little-endian 32-bit words.
    pub fn getrandbits_words(&mut self, bits: u32) -> Vec<u32> {
        (0..bits.div_ceil(32))
            .map(|i| {
                let wanted = (bits - 32 * i).min(32);
                self.mt.next_u32() >> (32 - wanted)
            })
            .collect()
    }

    /// `getrandbits(bits)` for at most 64 bits.
    pub fn getrandbits(&mut self, bits: u32) -> u64 {
        assert!(bits <= 64, "at most 64 bits; ask getrandbits_words for more");
        self.getrandbits_words(bits).iter().rev().fold(0, |value, word| (value << 32) | u64::from(*word))
    }

    /// `_randbelow(n)`: uniform in 0..n by rejection.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "a draw from an empty range");
        let bits = u64::BITS - n.leading_zeros();
        loop {
            let value = self.getrandbits(bits);
            if value < n {
                return value;
            }
        }
    }

    /// Index drawn by `choice(seq)` for a sequence of `len` items.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// `shuffle(items)`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.index(i + 1);
            items.swap(i, j);
        }
    }

    /// Indices drawn by `sample(population, k)` for a population of `n` items (`Lib/random.py:sample`).
    pub fn sample_indices(&mut self, n: usize, k: usize) -> Vec<usize> {
        assert!(k <= n, "sample of {k} from {n}");
        // CPython keeps a list for small populations and a set of taken indices for large ones; they draw differently.
        let mut setsize = 21usize;
        if k > 5 {
            setsize += 4usize.pow(((3 * k) as f64).log(4.0).ceil() as u32);
        }
        if n <= setsize {
            let mut pool: Vec<usize> = (0..n).collect();
            (0..k)
                .map(|i| {
                    let j = self.index(n - i);
                    let taken = pool[j];
                    pool[j] = pool[n - i - 1];
                    taken
                })
                .collect()
        } else {
            let mut taken = std::collections::BTreeSet::new();
            (0..k)
                .map(|_| {
                    let mut j = self.index(n);
                    while !taken.insert(j) {
                        j = self.index(n);
                    }
                    j
                })
                .collect()
        }
    }

    /// Indices drawn by `choices(population, k=k)` for a population of `n` items.
    pub fn choices_indices(&mut self, n: usize, k: usize) -> Vec<usize> {
        (0..k).map(|_| (self.random() * n as f64) as usize).collect()
    }

    /// `uniform(a, b)`.
    pub fn uniform(&mut self, a: f64, b: f64) -> f64 {
        a + (b - a) * self.random()
    }

    /// `gauss(mu, sigma)`.
    pub fn gauss(&mut self, mu: f64, sigma: f64) -> f64 {
        let z = self.gauss_next.take().unwrap_or_else(|| {
            let angle = self.random() * std::f64::consts::TAU;
            let radius = (-2.0 * (1.0 - self.random()).ln()).sqrt();
            self.gauss_next = Some(angle.sin() * radius);
            angle.cos() * radius
        });
        mu + z * sigma
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_outputs_and_shuffles_of_seed_42() {
        let mut r = PyRandom::seeded(42);
        let first: Vec<u64> = (0..5).map(|_| r.getrandbits(32)).collect();
        assert_eq!(first, [2746317213, 478163327, 107420369, 3184935163, 1181241943]);
        for (n, expected) in [(8939, [1011, 4986, 4239, 1005, 2921]), (62859, [42740, 29433, 54061, 58804, 31787])] {
            let mut items: Vec<usize> = (0..n).collect();
            PyRandom::seeded(42).shuffle(&mut items);
            assert_eq!(items[..5], expected, "{n}");
        }
    }

    #[test]
    fn decimal_seeds_of_any_size() {
        let mut a = PyRandom::from_decimal("1099511627781").expect("an integer");
        let mut b = PyRandom::seeded(1_099_511_627_781);
        assert_eq!(a.getrandbits(64), b.getrandbits(64));
        assert_eq!(PyRandom::from_decimal("-42").expect("an integer").getrandbits(32), 2746317213);
        assert_eq!(PyRandom::from_decimal("0").expect("an integer").getrandbits(32), PyRandom::seeded(0).getrandbits(32));
        assert!(PyRandom::from_decimal("x").is_none() && PyRandom::from_decimal("").is_none() && PyRandom::from_decimal("-").is_none());
    }

    #[test]
    fn samples_are_distinct() {
        for (n, k) in [(8, 8), (20, 3), (21, 5), (22, 5), (1000, 5), (100, 100), (86, 6), (85, 6)] {
            let mut drawn = PyRandom::seeded(1).sample_indices(n, k);
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn.len(), k, "{n} {k}");
            assert!(drawn.iter().all(|i| *i < n));
        }
    }
}
