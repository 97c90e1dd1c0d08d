//! nagisa 0.2.11's model files to the part of them that words need.
//!
//! `nagisa_v001.dict` is a (gzip-compressed) pickle of five dictionaries, `nagisa_v001.model` the text in which DyNet writes parameters. Most of
//! both is for parts of speech. What is left becomes one block of bytes (`Tables`) that loads without parsing.

use serde_pickle::{DeOptions, HashableValue, Value};
use std::collections::BTreeMap;

/// First bytes of the compiled form; the number is its format.
const MAGIC: &[u8] = b"swallow-eval nagisa 1\n";

/// What stands in a bigram for the end of the text.
pub(super) const END: u32 = u32::MAX;

/// Why the files cannot be compiled, or the compiled form cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The dictionary file.
    #[error("nagisa's dictionary is not what it must be: {0}")]
    Dictionary(String),
    /// The parameter file.
    #[error("nagisa's parameters are not what they must be: {0}")]
    Parameters(String),
    /// The compiled form.
    #[error("the compiled form of nagisa's model is damaged: {0}")]
    Compiled(&'static str),
}

/// The compiled form, in memory. Matrices are column-major, as DyNet has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tables {
    /// Characters with a row of their own, ascending, and the row of each.
    pub(super) characters: Vec<u32>,
    pub(super) character_ids: Vec<u32>,
    /// Pairs of characters, each two numbers, ascending, and the row of each.
    pub(super) bigrams: Vec<u32>,
    pub(super) bigram_ids: Vec<u32>,
    /// Words, ascending: where each begins in `word_text` (one more at the end), and the row of each.
    pub(super) word_text: Vec<u32>,
    pub(super) word_starts: Vec<u32>,
    pub(super) word_ids: Vec<u32>,
    /// Row of unknown words.
    pub(super) unknown_word: u32,
    /// `SHAPES`, in order.
    pub(super) floats: Vec<Vec<f32>>,
}

/// Names and numbers of values of the parameters that words need.
pub(super) const SHAPES: [(&str, usize); 13] = [
    ("/_0", 32 * 3090),
    ("/_1", 16 * 82114),
    ("/_2", 16 * 59260),
    ("/_3", 8 * 7),
    ("/_5", 6 * 100),
    ("/_6", 6),
    ("/_7", 6 * 6),
    ("/birnn/vanilla-lstm-builder/_0", 200 * 200),
    ("/birnn/vanilla-lstm-builder/_1", 200 * 50),
    ("/birnn/vanilla-lstm-builder/_2", 200),
    ("/birnn/vanilla-lstm-builder_1/_0", 200 * 200),
    ("/birnn/vanilla-lstm-builder_1/_1", 200 * 50),
    ("/birnn/vanilla-lstm-builder_1/_2", 200),
];

/// Compiles the two files; the dictionary comes decompressed.
///
/// # Errors
/// [`CompileError::Dictionary`], [`CompileError::Parameters`].
pub fn compile(dictionary: &[u8], parameters: &[u8]) -> Result<Vec<u8>, CompileError> {
    let mut tables = dictionaries(dictionary)?;
    tables.floats = floats(parameters)?;
    tables.check().map_err(|what| CompileError::Dictionary(what.to_owned()))?;
    Ok(tables.to_bytes())
}

fn dictionaries(pickle: &[u8]) -> Result<Tables, CompileError> {
    let bad = |what: String| CompileError::Dictionary(what);
    let value: Value = serde_pickle::value_from_slice(pickle, DeOptions::new()).map_err(|e| bad(e.to_string()))?;
    let Value::List(list) = value else { return Err(bad("a list is expected".into())) };
    let mut dictionaries = list.into_iter();
    let mut next = |what: &str| match dictionaries.next() {
        Some(Value::Dict(entries)) => ids(entries).ok_or_else(|| bad(format!("{what} must have texts as keys and row numbers as values"))),
        _ => Err(bad(format!("{what} is missing"))),
    };
    let (characters, bigrams, words) =
        (next("the dictionary of characters")?, next("the dictionary of bigrams")?, next("the dictionary of words")?);
    let mut tables = Tables { unknown_word: *words.get("oov").ok_or_else(|| bad("words have no 'oov'".into()))?, ..Tables::default() };
    let code_points = |text: &str| text.chars().map(u32::from).collect::<Vec<u32>>();
    let sorted = |entries: Vec<(Vec<u32>, u32)>| {
        let mut entries = entries;
        entries.sort_unstable();
        entries
    };
    // 'oov' and 'pad' are no characters and no bigrams, but a text may well hold them as words.
    for (key, id) in sorted(characters.iter().map(|(k, id)| (code_points(k), *id)).filter(|(k, _)| k.len() == 1).collect()) {
        tables.characters.extend(key);
        tables.character_ids.push(id);
    }
    let pair = |text: &str| match (text.strip_suffix("<E>").map(code_points), code_points(text)) {
        (Some(last), _) if last.len() == 1 => Some(vec![last[0], END]),
        (_, pair) if pair.len() == 2 => Some(pair),
        _ => None,
    };
    for (key, id) in sorted(bigrams.iter().filter_map(|(k, id)| Some((pair(k)?, *id))).collect()) {
        tables.bigrams.extend(key);
        tables.bigram_ids.push(id);
    }
    for (key, id) in sorted(words.iter().map(|(k, id)| (code_points(k), *id)).collect()) {
        tables.word_starts.push(tables.word_text.len() as u32);
        tables.word_text.extend(key);
        tables.word_ids.push(id);
    }
    tables.word_starts.push(tables.word_text.len() as u32);
    Ok(tables)
}

fn ids(entries: BTreeMap<HashableValue, Value>) -> Option<BTreeMap<String, u32>> {
    let pairs = entries.into_iter().map(|entry| match entry {
        (HashableValue::String(key), Value::I64(id)) => Some((key, u32::try_from(id).ok()?)),
        _ => None,
    });
    pairs.collect()
}

/// Parameters by name: a heading line, then a line of numbers.
fn floats(file: &[u8]) -> Result<Vec<Vec<f32>>, CompileError> {
    let bad = |what: String| CompileError::Parameters(what);
    let text = std::str::from_utf8(file).map_err(|e| bad(e.to_string()))?;
    let mut found: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(heading) = lines.next() {
        let mut words = heading.split(' ');
        let (kind, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if !["#Parameter#", "#LookupParameter#"].contains(&kind) {
            return Err(bad(format!("a heading is expected, not {:?}", heading.chars().take(40).collect::<String>())));
        }
        let numbers = lines.next().ok_or_else(|| bad(format!("{name} has no values")))?;
        if let Some((name, n)) = SHAPES.iter().find(|(wanted, _)| *wanted == name) {
            let values: Result<Vec<f32>, _> = numbers.split_ascii_whitespace().map(str::parse).collect();
            let values = values.map_err(|e| bad(format!("{name}: {e}")))?;
            if values.len() != *n || values.iter().any(|v| !v.is_finite()) {
                return Err(bad(format!("{name} must have {n} finite values, not {}", values.len())));
            }
            found.insert(name, values);
        }
    }
    SHAPES.iter().map(|(name, _)| found.remove(name).ok_or_else(|| bad(format!("{name} is missing")))).collect()
}

impl Tables {
    /// Whether every row number is below the number of rows, and every list as long as its partner.
    fn check(&self) -> Result<(), &'static str> {
        let below = |ids: &[u32], rows: usize| ids.iter().all(|id| (*id as usize) < rows);
        let starts_rise = self.word_starts.is_sorted() && self.word_starts.last() == Some(&(self.word_text.len() as u32));
        let sizes = SHAPES.iter().zip(&self.floats).all(|((_, n), values)| values.len() == *n) && self.floats.len() == SHAPES.len();
        let paired = self.characters.len() == self.character_ids.len()
            && self.bigrams.len() == 2 * self.bigram_ids.len()
            && self.word_starts.len() == self.word_ids.len() + 1;
        match () {
            () if !sizes => Err("a parameter has another number of values"),
            () if !paired || !starts_rise => Err("keys and row numbers do not belong together"),
            () if !below(&self.character_ids, 3090) || !below(&self.bigram_ids, 82114) => Err("a row number is too large"),
            () if !below(&self.word_ids, 59260) || !below(&[self.unknown_word], 59260) => Err("a row number is too large"),
            () => Ok(()),
        }
    }

    fn integers(&self) -> [&[u32]; 7] {
        [&self.characters, &self.character_ids, &self.bigrams, &self.bigram_ids, &self.word_text, &self.word_starts, &self.word_ids]
    }

    /// Lists, each after its length; all numbers are 32 bits wide, little-endian.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.unknown_word.to_le_bytes());
        for list in self.integers() {
            bytes.extend((list.len() as u32).to_le_bytes());
            bytes.extend(list.iter().flat_map(|n| n.to_le_bytes()));
        }
        for list in &self.floats {
            bytes.extend((list.len() as u32).to_le_bytes());
            bytes.extend(list.iter().flat_map(|n| n.to_le_bytes()));
        }
        bytes
    }

    /// The reverse of [`compile`].
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, CompileError> {
        const SHORT: CompileError = CompileError::Compiled("it ends too early");
        let mut rest = bytes.strip_prefix(MAGIC).ok_or(CompileError::Compiled("it does not begin as it must"))?;
        let number = |rest: &mut &[u8]| {
            let (head, tail) = rest.split_first_chunk::<4>()?;
            *rest = tail;
            Some(u32::from_le_bytes(*head))
        };
        let unknown_word = number(&mut rest).ok_or(SHORT)?;
        let list = |rest: &mut &[u8]| {
            let bytes = (number(rest)? as usize).checked_mul(4)?;
            let (head, tail) = rest.split_at_checked(bytes)?;
            *rest = tail;
            Some(head.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<u32>>())
        };
        let mut next = || list(&mut rest).ok_or(SHORT);
        let mut tables = Tables {
            unknown_word,
            characters: next()?,
            character_ids: next()?,
            bigrams: next()?,
            bigram_ids: next()?,
            word_text: next()?,
            word_starts: next()?,
            word_ids: next()?,
            floats: Vec::new(),
        };
        for _ in SHAPES {
            tables.floats.push(next()?.into_iter().map(f32::from_bits).collect());
        }
        tables.check().map_err(CompileError::Compiled)?;
        if rest.is_empty() { Ok(tables) } else { Err(CompileError::Compiled("it goes on after its end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_files_are_errors_that_say_what() {
        assert!(matches!(compile(b"no pickle", b""), Err(CompileError::Dictionary(_))));
        for (text, part) in [
            ("", "/_0 is missing"),
            ("hello", "a heading is expected"),
            ("#LookupParameter# /_0 {32,3090} 9 ZERO_GRAD", "/_0 has no values"),
            ("#LookupParameter# /_0 {32,3090} 9 ZERO_GRAD\n1 2 x", "/_0: invalid float"),
            ("#LookupParameter# /_0 {32,3090} 9 ZERO_GRAD\n1 2", "must have 98880 finite values, not 2"),
        ] {
            let error = floats(text.as_bytes()).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(Tables::from_bytes(b"x"), Err(CompileError::Compiled("it does not begin as it must")));
        assert_eq!(Tables::from_bytes(MAGIC), Err(CompileError::Compiled("it ends too early")));
        let huge = [MAGIC, &[0; 4], &[0xff; 4]].concat();
        assert_eq!(Tables::from_bytes(&huge), Err(CompileError::Compiled("it ends too early")));
    }

    #[test]
    fn tables_come_back_from_their_bytes() {
        let tables = Tables {
            characters: vec![u32::from('東')],
            character_ids: vec![7],
            bigrams: vec![u32::from('東'), END],
            bigram_ids: vec![3],
            word_text: vec![u32::from('東'), u32::from('京')],
            word_starts: vec![0, 2],
            word_ids: vec![5],
            unknown_word: 17,
            floats: SHAPES.iter().map(|(_, n)| vec![0.5; *n]).collect(),
        };
        assert_eq!(Tables::from_bytes(&tables.to_bytes()).expect("whole"), tables);
        let wrong = Tables { word_ids: vec![59260], ..tables.clone() };
        assert_eq!(Tables::from_bytes(&wrong.to_bytes()), Err(CompileError::Compiled("a row number is too large")));
        let mut long = tables.to_bytes();
        long.push(0);
        assert_eq!(Tables::from_bytes(&long), Err(CompileError::Compiled("it goes on after its end")));
    }
}
