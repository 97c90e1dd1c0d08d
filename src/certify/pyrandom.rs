//! Vectors of the two random generators (`python_seed_*.json`, `numpy_legacy_seed_*.json`), and the order and draws of the JP harness' tasks at
//! their real sizes (`protocol_jp_harness.json`).
//!
//! Every list starts from a fresh seed and goes on with one stream; those named in `draw` and `draw_numpy` are seeded again for each entry.

use super::report::Folder;
use super::source::{CertifyError, Source};
use crate::metric::numpy_random::NumpyRandom;
use crate::prompt::pyrandom::PyRandom;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Keys that describe the file.
const DESCRIPTION: [&str; 2] = ["seed", "produced_with"];

/// Seed of the JP harness' order and shots (`lm_eval/evaluator.py:212-213`).
const JP_HARNESS_SEED: u64 = 42;

/// Replays one file into `report`.
///
/// # Errors
/// When the file is not of this kind, or not of its shape.
pub fn file(report: &mut Folder, folder: &Path, name: &str) -> Result<(), CertifyError> {
    let source = Source::new(folder, name);
    match name.strip_suffix(".json") {
        Some("protocol_jp_harness") => jp_harness(report, &source),
        Some(stem) if stem.starts_with("python_seed_") => python(report, &source),
        Some(stem) if stem.starts_with("numpy_legacy_seed_") => numpy(report, &source),
        _ => Err(CertifyError::UnknownFile { path: folder.join(name), kind: "pyrandom".into() }),
    }
}

fn python(report: &mut Folder, source: &Source) -> Result<(), CertifyError> {
    let fields = source.object()?;
    let seed = match source.value_of(&fields, "seed", None)? {
        Value::String(digits) => digits.clone(),
        // A JSON number beyond 64 bits is read as a float: its digits are taken from the text.
        Value::Number(number) if number.is_f64() => digits_of(&source.text()?, "\"seed\"").unwrap_or_default(),
        other => other.to_string(),
    };
    let fresh = PyRandom::from_decimal(&seed).ok_or_else(|| source.shape(None, format!("'seed' must be an integer, not {seed}")))?;
    lists(report, source, &fields, &fresh, draw)
}

fn numpy(report: &mut Folder, source: &Source) -> Result<(), CertifyError> {
    let fields = source.object()?;
    let seed = source.value_of(&fields, "seed", None)?;
    let seed = seed.as_u64().and_then(|seed| u32::try_from(seed).ok());
    let fresh = NumpyRandom::seeded(seed.ok_or_else(|| source.shape(None, "'seed' must be an integer below 2^32"))?);
    lists(report, source, &fields, &fresh, draw_numpy)
}

/// Every list of a file, drawn again.
fn lists<R: Clone>(
    report: &mut Folder,
    source: &Source,
    fields: &Map<String, Value>,
    fresh: &R,
    draw: fn(&str, &Value, &mut R, &R) -> Option<Value>,
) -> Result<(), CertifyError> {
    for key in fields.keys().filter(|k| !DESCRIPTION.contains(&k.as_str())) {
        let mut stream = fresh.clone();
        for (index, entry) in source.array_of(fields, key, None)?.iter().enumerate() {
            let bad = || source.shape(None, format!("{key}[{index}] has not the shape of its list"));
            let got = draw(key, entry, &mut stream, fresh).ok_or_else(bad)?;
            report.rows += 1;
            report.check_value(&source.name, &format!("{key}[{index}]"), key, entry, &got);
        }
    }
    Ok(())
}

/// One generator shuffles a task's documents, then draws the shots of one after the other.
fn jp_harness(report: &mut Folder, source: &Source) -> Result<(), CertifyError> {
    let file = source.object()?;
    source.only_keys(&file, &["what", "tasks", "produced_with"], None)?;
    for (task, facts) in source.object_of(&file, "tasks", None)? {
        let facts = facts.as_object().ok_or_else(|| source.shape(None, format!("tasks.{task} must be an object")))?;
        source.only_keys(facts, &["documents", "pool", "k_drawn", "order", "draws"], None)?;
        let size = |key: &str| {
            let size = source.value_of(facts, key, None)?.as_u64().filter(|n| *n < u64::from(u32::MAX));
            size.map(|n| n as usize).ok_or_else(|| source.shape(None, format!("tasks.{task}.{key} must be a number of records")))
        };
        let (documents, pool, k) = (size("documents")?, size("pool")?, size("k_drawn")?);
        if k > pool {
            return Err(source.shape(None, format!("tasks.{task} draws {k} from {pool}")));
        }
        let mut random = PyRandom::seeded(JP_HARNESS_SEED);
        let mut order: Vec<usize> = (0..documents).collect();
        random.shuffle(&mut order);
        report.check_value(&source.name, task, "order", source.value_of(facts, "order", None)?, &json!(order));
        let draws = source.array_of(facts, "draws", None)?;
        report.check_value(&source.name, task, "documents", &json!(documents), &json!(draws.len()));
        for (position, expected) in draws.iter().enumerate() {
            report.rows += 1;
            let drawn = random.sample_indices(pool, k);
            report.check_value(&source.name, &format!("{task} draws[{position}]"), "draws", expected, &json!(drawn));
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

/// The same for numpy's `RandomState`. Entries but plain numbers are `[n, results]`.
fn draw_numpy(list: &str, entry: &Value, stream: &mut NumpyRandom, fresh: &NumpyRandom) -> Option<Value> {
    let mut again = fresh.clone();
    match list {
        "tomaxint_randint32" => return Some(json!(stream.next_u32())),
        "random_sample" => return Some(json!(stream.random())),
        _ => {}
    }
    let n = entry.get(0)?.as_u64().filter(|n| *n > 0)?;
    let results = entry.get(1)?.as_array()?.len();
    Some(match list {
        "choice_arange" => json!([n, again.resample(usize::try_from(n).ok().filter(|n| *n == results)?).collect::<Vec<_>>()]),
        "choice_stream_n" => json!([n, stream.resample(usize::try_from(n).ok().filter(|n| *n == results)?).collect::<Vec<_>>()]),
        "randint" => json!([n, (0..results).map(|_| stream.below(n)).collect::<Vec<_>>()]),
        "permutation" | "shuffle" => {
            let mut items: Vec<usize> = (0..results).collect();
            again.shuffle(&mut items);
            json!([results, items])
        }
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
            std::fs::write(dir.path().join("python_seed_big.json"), format!("{{\"seed\": {seed}, \"getrandbits_32\": [{first}]}}"))
                .expect("written");
            let mut report = Folder::new("x");
            file(&mut report, dir.path(), "python_seed_big.json").expect("well-formed");
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
