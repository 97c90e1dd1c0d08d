//! Vectors of CPython's generator (`python_seed_*.json`).
//!
//! Every list starts from a fresh `seed(...)` and goes on with one stream; `shuffle` and `sample_fresh` are seeded again for each entry.

use super::report::Folder;
use super::source::{CertifyError, Source};
use crate::prompt::pyrandom::PyRandom;
use serde_json::{Value, json};
use std::path::Path;

/// Keys that describe the file.
const DESCRIPTION: [&str; 2] = ["seed", "produced_with"];

/// Replays one file into `report`.
///
/// # Errors
/// When the file is not of this kind's shape.
pub fn file(report: &mut Folder, folder: &Path, name: &str) -> Result<(), CertifyError> {
    let source = Source::new(folder, name);
    let fields = source.object()?;
    let seed = match source.value_of(&fields, "seed", None)? {
        Value::String(digits) => digits.clone(),
        // A JSON number beyond 64 bits is read as a float: its digits are taken from the text.
        Value::Number(number) if number.is_f64() => digits_of(&source.text()?, "\"seed\"").unwrap_or_default(),
        other => other.to_string(),
    };
    let fresh = PyRandom::from_decimal(&seed).ok_or_else(|| source.shape(None, format!("'seed' must be an integer, not {seed}")))?;
    for key in fields.keys().filter(|k| !DESCRIPTION.contains(&k.as_str())) {
        let mut stream = fresh.clone();
        for (index, entry) in source.array_of(&fields, key, None)?.iter().enumerate() {
            let bad = || source.shape(None, format!("{key}[{index}] has not the shape of its list"));
            let got = draw(key, entry, &mut stream, &fresh).ok_or_else(bad)?;
            report.rows += 1;
            report.check_value(name, &format!("{key}[{index}]"), key, entry, &got);
        }
    }
    Ok(())
}

/// The integer that follows a key in JSON text.
fn digits_of(text: &str, key: &str) -> Option<String> {
    let rest = text.split_once(key)?.1.trim_start().strip_prefix(':')?.trim_start();
    Some(rest.chars().take_while(|c| c.is_ascii_digit() || *c == '-').collect())
}

/// The entry as this program's generator makes it: its parameters copied, its result drawn. `None` for a list this program does not know.
fn draw(list: &str, entry: &Value, stream: &mut PyRandom, fresh: &PyRandom) -> Option<Value> {
    let at = |i: usize| entry.get(i)?.as_i64();
    let size = |i: usize| entry.get(i)?.as_u64();
    Some(match list {
        "random" => json!(stream.random()),
        "getrandbits_32" => json!(stream.getrandbits(32)),
        "getrandbits" => {
            let bits = u32::try_from(size(0)?).ok()?;
            json!([bits, decimal(&stream.getrandbits_words(bits))])
        }
        "randbelow" | "choice_stream" => json!([size(0)?, stream.below(size(0).filter(|n| *n > 0)?)]),
        "randrange" => {
            let (start, stop, step) = (at(0)?, at(1)?, at(2)?);
            let width =
                if step > 0 { (stop - start + step - 1).checked_div(step)? } else { (stop - start + step + 1).checked_div(step)? };
            json!([start, stop, step, start + step * stream.below(u64::try_from(width).ok().filter(|n| *n > 0)?) as i64])
        }
        "randint" => {
            let (low, high) = (at(0)?, at(1)?);
            json!([low, high, low + stream.below(u64::try_from(high - low).ok()? + 1) as i64])
        }
        "shuffle" => {
            let mut items: Vec<u64> = (0..size(0)?).collect();
            fresh.clone().shuffle(&mut items);
            json!([items.len(), items])
        }
        "sample_fresh" | "sample_stream" => {
            let (n, k) = (size(0)? as usize, size(1)? as usize);
            let mut again = fresh.clone();
            let random = if list == "sample_fresh" { &mut again } else { stream };
            json!([n, k, (k <= n).then(|| random.sample_indices(n, k))?])
        }
        "choices_stream" => {
            let (n, k) = (size(0)? as usize, size(1)? as usize);
            json!([n, k, stream.choices_indices(n, k)])
        }
        // The vectors are `uniform(-2, 5)` and `gauss(0, 1)`.
        "uniform" => json!(stream.uniform(-2.0, 5.0)),
        "gauss" => json!(stream.gauss(0.0, 1.0)),
        _ => return None,
    })
}

/// Little-endian 32-bit words as a decimal number.
fn decimal(words: &[u32]) -> String {
    let mut words = words.to_vec();
    let mut groups = Vec::new();
    while words.iter().any(|w| *w != 0) {
        let mut rest = 0u64;
        for word in words.iter_mut().rev() {
            let value = (rest << 32) | u64::from(*word);
            *word = (value / 1_000_000_000) as u32;
            rest = value % 1_000_000_000;
        }
        groups.push(rest);
    }
    let Some(first) = groups.pop() else { return "0".into() };
    groups.iter().rev().fold(first.to_string(), |text, group| format!("{text}{group:09}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_beyond_64_bits_are_read_as_text() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = PyRandom::from_decimal("123456789012345678901234567890").expect("an integer").getrandbits(32);
        for seed in ["123456789012345678901234567890", "\"123456789012345678901234567890\""] {
            std::fs::write(dir.path().join("f.json"), format!("{{\"seed\": {seed}, \"getrandbits_32\": [{first}]}}")).expect("written");
            let mut report = Folder::new("x");
            file(&mut report, dir.path(), "f.json").expect("well-formed");
            assert_eq!((report.rows, report.mismatches.len()), (1, 0), "{seed}");
        }
    }

    #[test]
    fn words_to_decimal() {
        for (words, expected) in [
            (&[][..], "0"),
            (&[0, 0], "0"),
            (&[1_000_000_000], "1000000000"),
            (&[0, 1], "4294967296"),
            (&[u32::MAX; 4], "340282366920938463463374607431768211455"),
        ] {
            assert_eq!(decimal(words), expected);
        }
    }
}
