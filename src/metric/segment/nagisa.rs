//! nagisa 0.2.11's word segmentation: a BiLSTM over characters, then a CRF.
//!
//! github taishi-i/nagisa, tag 0.2.11: `nagisa/tagger.py`, `nagisa/model.py`, `nagisa_utils.pyx`. Version 0.2.11 has a defect that the protocol's
//! numbers contain, see `join`. Characters that Unicode has assigned since version 13 may be normalised otherwise than by Python 3.9.

use super::compile::{CompileError, END, SHAPES, Tables};
use crate::text::python::is_space;
use unicode_normalization::UnicodeNormalization;

/// Width of the LSTM in each direction.
const HIDDEN: usize = 50;
/// Rows of its gates: input, forget, output, candidate.
const GATES: usize = 4 * HIDDEN;
/// Width of its input.
const INPUT: usize = 200;
/// Tags: begin, middle, end, single, and the two ends of the text.
const TAGS: usize = 6;
const START: usize = 4;
const STOP: usize = 5;
/// Longest word looked up.
const LONGEST: usize = 8;
/// Rows that stand for a place outside the text.
const PAD: u32 = 1;
const PAD_CLASS: u32 = 6;
/// Characters whose input is projected together, so that a weight is loaded once for all of them.
const BLOCK: usize = 4;

/// The segmenter. Shared freely between threads.
#[derive(Clone, Debug)]
pub struct Nagisa {
    tables: Tables,
    /// Input weights of both directions side by side: for each of [`INPUT`] values, forward gates, then backward gates.
    projection: Vec<f32>,
    /// Biases, the forget gate's 1 included.
    bias: Vec<f32>,
}

/// Positions of parameters in [`SHAPES`].
mod at {
    pub(super) const CHARACTERS: usize = 0;
    pub(super) const BIGRAMS: usize = 1;
    pub(super) const WORDS: usize = 2;
    pub(super) const CLASSES: usize = 3;
    pub(super) const OUT: usize = 4;
    pub(super) const OUT_BIAS: usize = 5;
    pub(super) const TRANSITIONS: usize = 6;
    pub(super) const FORWARD: usize = 7;
    pub(super) const BACKWARD: usize = 10;
}

impl Nagisa {
    /// A segmenter from the bytes that [`super::compile::compile`] gives.
    ///
    /// # Errors
    /// [`CompileError::Compiled`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CompileError> {
        let tables = Tables::from_bytes(bytes)?;
        debug_assert_eq!(SHAPES.len(), tables.floats.len());
        let directions = [at::FORWARD, at::BACKWARD];
        let mut projection = Vec::with_capacity(2 * GATES * INPUT);
        for value in 0..INPUT {
            for direction in directions {
                projection.extend_from_slice(&tables.floats[direction][value * GATES..][..GATES]);
            }
        }
        let mut bias: Vec<f32> = directions.iter().flat_map(|d| tables.floats[d + 2].iter().copied()).collect();
        for direction in 0..2 {
            bias[direction * GATES + HIDDEN..][..HIDDEN].iter_mut().for_each(|b| *b += 1.0);
        }
        Ok(Nagisa { tables, projection, bias })
    }

    /// Words of a text, as `nagisa.tagging(text).words` gives them: normalised (NFKC), spaces as U+3000.
    pub fn words(&self, text: &str) -> Vec<String> {
        let text: String = text.trim_end_matches(is_space).nfkc().map(plain).collect();
        let lower: Vec<u32> = text.to_lowercase().chars().map(u32::from).collect();
        if lower.is_empty() {
            return Vec::new();
        }
        let inputs = self.inputs(&lower);
        // The widest registers of this machine; products and sums stay apart and in order, so that the words are the same everywhere.
        let states = pulp::Arch::new().dispatch(|| {
            let gates = self.project(&inputs, lower.len());
            // Not mapped over: a closure would not be compiled for those registers.
            [self.lstm(&gates, lower.len(), Direction::Forward), self.lstm(&gates, lower.len(), Direction::Backward)]
        });
        join(&text, &self.viterbi(&self.observations(&states, lower.len())))
    }

    /// A row of [`INPUT`] values a character.
    fn inputs(&self, lower: &[u32]) -> Vec<f32> {
        let floats = &self.tables.floats;
        let characters: Vec<u32> = lower.iter().map(|c| self.character(*c)).collect();
        let next = lower.iter().skip(1).copied().chain([END]);
        let bigrams: Vec<u32> = lower.iter().zip(next).map(|(a, b)| self.bigram(*a, b)).collect();
        let classes: Vec<u32> = lower.iter().map(|c| class(*c)).collect();
        let words = self.word_ids(lower);
        let mut inputs = Vec::with_capacity(lower.len() * INPUT);
        for at in 0..lower.len() {
            for (ids, pad, table, width) in
                [(&characters, PAD, at::CHARACTERS, 32), (&bigrams, PAD, at::BIGRAMS, 16), (&classes, PAD_CLASS, at::CLASSES, 8)]
            {
                // The character before, itself, the one after; `wrapping_sub` puts the first one's neighbour beyond the end.
                for neighbour in [at.wrapping_sub(1), at, at + 1] {
                    let id = ids.get(neighbour).copied().unwrap_or(pad) as usize;
                    inputs.extend_from_slice(&floats[table][id * width..][..width]);
                }
            }
            let from = (0..LONGEST).filter_map(|n| words[at][n]);
            let to = (0..LONGEST.min(at + 1)).filter_map(|n| words[at - n][n]);
            self.add_words(&mut inputs, from);
            self.add_words(&mut inputs, to);
        }
        inputs
    }

    /// Appends the sum of words' rows, or the row of unknown words where there is none.
    fn add_words(&self, inputs: &mut Vec<f32>, ids: impl Iterator<Item = u32>) {
        const WIDTH: usize = 16;
        let row = |id: u32| &self.tables.floats[at::WORDS][id as usize * WIDTH..][..WIDTH];
        let mut sum: Option<[f32; WIDTH]> = None;
        for id in ids {
            match &mut sum {
                None => sum = row(id).try_into().ok(),
                Some(sum) => sum.iter_mut().zip(row(id)).for_each(|(s, v)| *s += v),
            }
        }
        match sum {
            Some(sum) => inputs.extend_from_slice(&sum),
            None => inputs.extend_from_slice(row(self.tables.unknown_word)),
        }
    }

    fn character(&self, c: u32) -> u32 {
        let Tables { characters, character_ids, .. } = &self.tables;
        characters.binary_search(&c).map_or(0, |at| character_ids[at])
    }

    fn bigram(&self, a: u32, b: u32) -> u32 {
        let Tables { bigrams, bigram_ids, .. } = &self.tables;
        let (mut low, mut high) = (0, bigram_ids.len());
        while low < high {
            let middle = (low + high) / 2;
            match (bigrams[2 * middle], bigrams[2 * middle + 1]).cmp(&(a, b)) {
                std::cmp::Ordering::Equal => return bigram_ids[middle],
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        0
    }

    /// For every position, the row of the word of each length that begins there. Words are sorted: the ones that begin with a text stand
    /// together, and each further character narrows them down.
    fn word_ids(&self, lower: &[u32]) -> Vec<[Option<u32>; LONGEST]> {
        let Tables { word_text, word_starts, word_ids, .. } = &self.tables;
        let word = |at: usize| &word_text[word_starts[at] as usize..word_starts[at + 1] as usize];
        let mut all = vec![[None; LONGEST]; lower.len()];
        for (begin, found) in all.iter_mut().enumerate() {
            let (mut low, mut high) = (0, word_ids.len());
            for (n, c) in lower[begin..].iter().take(LONGEST).enumerate() {
                let narrow = |low: usize, high: usize, before: &dyn Fn(u32) -> bool| {
                    let (mut low, mut high) = (low, high);
                    while low < high {
                        let middle = (low + high) / 2;
                        if word(middle).get(n).is_none_or(|w| before(*w)) { low = middle + 1 } else { high = middle }
                    }
                    low
                };
                low = narrow(low, high, &|w| w < *c);
                high = narrow(low, high, &|w| w <= *c);
                if low == high {
                    break;
                }
                found[n] = (word(low).len() == n + 1).then(|| word_ids[low]);
            }
        }
        all
    }

    /// Input part of all gates, bias included: a row of twice [`GATES`] values a character.
    #[inline(always)]
    fn project(&self, inputs: &[f32], n: usize) -> Vec<f32> {
        const WIDTH: usize = 2 * GATES;
        let mut gates = Vec::with_capacity(n * WIDTH);
        (0..n).for_each(|_| gates.extend_from_slice(&self.bias));
        for (rows, inputs) in gates.chunks_mut(BLOCK * WIDTH).zip(inputs.chunks(BLOCK * INPUT)) {
            for (value, weights) in self.projection.chunks_exact(WIDTH).enumerate() {
                for (row, input) in rows.chunks_exact_mut(WIDTH).zip(inputs.chunks_exact(INPUT)) {
                    add_scaled(row, weights, input[value]);
                }
            }
        }
        gates
    }

    /// Outputs of one direction, [`HIDDEN`] values a character.
    #[inline(always)]
    fn lstm(&self, gates: &[f32], n: usize, direction: Direction) -> Vec<f32> {
        let (offset, weights) = match direction {
            Direction::Forward => (0, &self.tables.floats[at::FORWARD + 1]),
            Direction::Backward => (GATES, &self.tables.floats[at::BACKWARD + 1]),
        };
        let mut outputs = vec![0.0; n * HIDDEN];
        let (mut h, mut c) = ([0.0_f32; HIDDEN], [0.0_f32; HIDDEN]);
        for step in 0..n {
            let at = if direction == Direction::Forward { step } else { n - 1 - step };
            let mut gate = [0.0_f32; GATES];
            gate.copy_from_slice(&gates[at * 2 * GATES + offset..][..GATES]);
            for (column, h) in weights.chunks_exact(GATES).zip(&h) {
                add_scaled(&mut gate, column, *h);
            }
            for unit in 0..HIDDEN {
                let [i, f, o] = [0, 1, 2].map(|g| sigmoid(gate[g * HIDDEN + unit]));
                c[unit] = f * c[unit] + i * tanh(gate[3 * HIDDEN + unit]);
                h[unit] = o * tanh(c[unit]);
            }
            outputs[at * HIDDEN..][..HIDDEN].copy_from_slice(&h);
        }
        outputs
    }

    /// Scores of the tags of every character.
    fn observations(&self, [forward, backward]: &[Vec<f32>; 2], n: usize) -> Vec<[f32; TAGS]> {
        let (weights, bias) = (&self.tables.floats[at::OUT], &self.tables.floats[at::OUT_BIAS]);
        let of = |at: usize| {
            let mut scores = [0.0; TAGS];
            scores.copy_from_slice(bias);
            let states = forward[at * HIDDEN..][..HIDDEN].iter().chain(&backward[at * HIDDEN..][..HIDDEN]);
            for (column, state) in weights.chunks_exact(TAGS).zip(states) {
                add_scaled(&mut scores, column, *state);
            }
            scores
        };
        (0..n).map(of).collect()
    }

    /// The best sequence of tags; of equal ones the one with the lower tag before.
    fn viterbi(&self, observations: &[[f32; TAGS]]) -> Vec<usize> {
        let transition = |next: usize, before: usize| f64::from(self.tables.floats[at::TRANSITIONS][next * TAGS + before]);
        let best = |scores: &[f64; TAGS], next: usize| {
            let mut best = (0, scores[0] + transition(next, 0));
            for (before, score) in scores.iter().enumerate().skip(1) {
                let score = score + transition(next, before);
                if score > best.1 {
                    best = (before, score);
                }
            }
            best
        };
        let mut scores = [-1e10; TAGS];
        scores[START] = 0.0;
        let mut back: Vec<[usize; TAGS]> = Vec::with_capacity(observations.len());
        for observation in observations {
            let steps: [(usize, f64); TAGS] = std::array::from_fn(|next| best(&scores, next));
            back.push(steps.map(|(before, _)| before));
            scores = std::array::from_fn(|next| steps[next].1 + f64::from(observation[next]));
        }
        let mut tag = best(&scores, STOP).0;
        let mut tags: Vec<usize> = back
            .iter()
            .rev()
            .map(|before| {
                let here = tag;
                tag = before[tag];
                here
            })
            .collect();
        tags.reverse();
        tags
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

/// A character as nagisa reads it: no blank, and none whose lower case is two characters.
fn plain(c: char) -> char {
    match c {
        '\u{130}' => 'I',
        ' ' => '\u{3000}',
        other => other,
    }
}

/// Script of a character.
fn class(c: u32) -> u32 {
    match c {
        0x3040..=0x309f => 0,
        0x30a1..=0x30fa => 1,
        0x4e00..=0x9fa5 => 2,
        _ => {
            let of = char::from_u32(c);
            let holds = |is: fn(&char) -> bool| of.is_some_and(|c| c.nfkc().any(|c| is(&c)));
            match () {
                () if holds(char::is_ascii_alphabetic) => 3,
                () if holds(char::is_ascii_digit) => 4,
                () => 5,
            }
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Within 2e-7 of the tangent (1.76e-7 measured): libm's took a third of the whole time. No word of the texts in
/// `scripts/segment_against_nagisa.txt` changes by it.
fn tanh(x: f32) -> f32 {
    2.0 * sigmoid(2.0 * x) - 1.0
}

/// `to += factor * of`.
#[inline(always)]
fn add_scaled(to: &mut [f32], of: &[f32], factor: f32) {
    to.iter_mut().zip(of).for_each(|(t, o)| *t += factor * o);
}

/// Characters and tags to words. As 0.2.11 does it: a single character is a word at once, and what was begun before it joins the next end
/// (`50000ポンド` becomes `0 5000ポンド`); what is begun and never ended is dropped. Later versions do neither.
fn join(text: &str, tags: &[usize]) -> Vec<String> {
    let (mut words, mut begun) = (Vec::new(), String::new());
    for (c, tag) in text.chars().zip(tags) {
        match tag {
            3 => words.push(c.to_string()),
            2 => {
                begun.push(c);
                words.push(std::mem::take(&mut begun));
            }
            _ => begun.push(c),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_joining_defect_is_kept() {
        for (text, tags, expected) in [
            ("東京都", &[0, 1, 2][..], &["東京都"][..]),
            ("50000円", &[0, 1, 1, 1, 3, 2], &["0", "5000円"]),
            ("あいう", &[3, 0, 1], &["あ"]),
        ] {
            assert_eq!(join(text, tags), expected, "{text}");
        }
    }

    #[test]
    fn the_tangent_is_near_enough() {
        for step in -20_000..=20_000_i32 {
            let x = step as f32 / 1000.0;
            let error = (f64::from(tanh(x)) - f64::from(x).tanh()).abs();
            assert!(error <= 2e-7, "{x}: {error}");
        }
        assert_eq!([tanh(200.0), tanh(-200.0), tanh(0.0)], [1.0, -1.0, 0.0]);
    }

    #[test]
    fn scripts() {
        for (c, expected) in
            [('の', 0), ('ー', 5), ('カ', 1), ('漢', 2), ('a', 3), ('ａ', 3), ('7', 4), ('７', 4), ('。', 5), ('々', 5), ('ヺ', 1)]
        {
            assert_eq!(class(u32::from(c)), expected, "{c}");
        }
    }
}
