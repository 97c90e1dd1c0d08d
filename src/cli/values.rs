//! What the values of flags mean: text to the types of the rooms that use them. Nothing here looks at the machine but `--samples FILE`.
//!
//! Every message says what is allowed, because clap puts the flag and the given value before it.

use crate::{
    engine::llama::TensorOps,
    results::spec::{Defects, Limit, Shard},
    run::MaxFailures,
    task::load,
};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use std::{collections::BTreeMap, time::Duration};

/// `--limit`: a number of documents, or a fraction of them.
pub(super) fn limit(text: &str) -> Result<Limit, &'static str> {
    match (text.parse::<u64>(), text.parse::<f64>()) {
        (Ok(count), _) if count > 0 => Ok(Limit::Count(count)),
        (Err(_), Ok(part)) if part > 0.0 && part < 1.0 => Ok(Limit::Fraction(part)),
        // lm-eval reads the flag as a float, so scripts write `10.0`. 2^32 documents are beyond any benchmark.
        (Err(_), Ok(count)) if count >= 1.0 && count <= f64::from(u32::MAX) && count.fract() == 0.0 => Ok(Limit::Count(count as u64)),
        _ => Err("a limit is a whole number from 1 on, or a fraction between 0 and 1 such as 0.1"),
    }
}

/// `--shard i/n`, counted from 1, or `--shard auto` in a job array.
pub(super) fn shard(text: &str) -> Result<Shard, &'static str> {
    if text == "auto" {
        return shard_of_array(&|name| std::env::var(name).ok()?.parse().ok());
    }
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    match parts {
        Some((index, count)) if (1..=count).contains(&index) => Ok(Shard { index, count }),
        _ => Err("a shard is i/n with 1 <= i <= n, such as 2/8, or auto in a job array"),
    }
}

/// The part that falls to this job: SLURM's array, whose indices may begin anywhere, or NeMo Evaluator's shard variables, counted from 0.
/// Only on request: an array may as well be over models, and then a silent shard would be a wrong number.
fn shard_of_array(variable: &dyn Fn(&str) -> Option<u32>) -> Result<Shard, &'static str> {
    let slurm = || {
        let (id, least) = (variable("SLURM_ARRAY_TASK_ID")?, variable("SLURM_ARRAY_TASK_MIN").unwrap_or(0));
        Some((id.checked_sub(least)?.checked_add(1)?, variable("SLURM_ARRAY_TASK_COUNT")?))
    };
    let nemo = || Some((variable("NEL_SHARD_IDX")?.checked_add(1)?, variable("NEL_TOTAL_SHARDS")?));
    match slurm().or_else(nemo) {
        Some((index, count)) if (1..=count).contains(&index) => Ok(Shard { index, count }),
        Some(_) => Err("the job array's index lies beyond its count: number it without gaps, such as --array=1-8"),
        None => Err("auto reads SLURM_ARRAY_TASK_ID and _COUNT, or NEL_SHARD_IDX and NEL_TOTAL_SHARDS, and they are not set"),
    }
}

/// `--max-failures`: a number of requests, or a ratio of them.
pub(super) fn max_failures(text: &str) -> Result<MaxFailures, &'static str> {
    if let Ok(count) = text.parse() {
        return Ok(MaxFailures::Count(count));
    }
    let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |percent| (percent, 100.0));
    match number.parse::<f64>().map(|n| n / scale) {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(MaxFailures::Ratio(ratio)),
        _ => Err("it is a whole number of requests, or a ratio of them such as 0.01 or 1%"),
    }
}

/// `--samples`: which documents of which task are asked, by their index in the evaluation split.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampleSelection(pub BTreeMap<String, Vec<usize>>);

/// JSON text, or the path of a file that holds it, as lm-eval takes either.
pub(super) fn samples(text: &str) -> Result<SampleSelection, String> {
    let json = if text.trim_start().starts_with('{') {
        text.to_owned()
    } else {
        std::fs::read_to_string(text).map_err(|e| format!("it is neither JSON like {{\"jemhopqa\": [0, 5]}} nor a readable file: {e}"))?
    };
    serde_json::from_str(&json).map(SampleSelection).map_err(|e| format!("it must map task names to lists of indices: {e}"))
}

/// `--suite`: a table of the model card.
pub(super) fn suite(text: &str) -> Result<String, String> {
    let known = load::suite_names();
    match known.iter().any(|k| k == text) {
        true => Ok(text.to_owned()),
        false => Err(format!("there is no such suite; there are: {}", known.join(", "))),
    }
}

/// `--defects`: what is done where the original harness has a defect.
pub(super) fn defects() -> impl TypedValueParser<Value = Defects> {
    PossibleValuesParser::new(["faithful", "clean"]).map(|name| if name == "clean" { Defects::Clean } else { Defects::Faithful })
}

/// `--tensor-ops`: by which operations a GPU computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Ops {
    /// The tensor library's operations, one after the other.
    Eager,
    /// This program's own: paged attention, and several small operations in one.
    Fused,
}

impl From<Option<Ops>> for TensorOps {
    fn from(ops: Option<Ops>) -> Self {
        match ops {
            None => TensorOps::default(),
            Some(Ops::Eager) => TensorOps::Eager,
            Some(Ops::Fused) => TensorOps::Fused,
        }
    }
}

/// `--dtype`: data type of the weights in computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Dtype {
    /// The model's own.
    Auto,
    /// 32 bits.
    #[value(alias = "float32", alias = "float")]
    F32,
    /// Brain float, 16 bits.
    #[value(alias = "bfloat16")]
    Bf16,
    /// IEEE half precision, 16 bits.
    #[value(alias = "float16", alias = "half")]
    F16,
}

impl Dtype {
    /// `f32`, `bf16`, `f16`; `None` where the model's own type is wanted.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Dtype::Auto => None,
            Dtype::F32 => Some("f32"),
            Dtype::Bf16 => Some("bf16"),
            Dtype::F16 => Some("f16"),
        }
    }
}

/// `--timeout`.
pub(super) fn seconds(text: &str) -> Result<Duration, &'static str> {
    let refused = "it is a number of seconds above 0";
    let seconds = text.parse::<f64>().ok().filter(|s| *s > 0.0).ok_or(refused)?;
    Duration::try_from_secs_f64(seconds).map_err(|_| refused)
}

/// `--seed` in lm-eval's form: one whole number, or four (random, numpy, torch, few-shot), each of which may be `None`.
pub(super) fn seeds(text: &str) -> Result<String, &'static str> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let known = parts.iter().all(|part| *part == "None" || part.parse::<u64>().is_ok());
    if known && matches!(parts.len(), 1 | 4) { Ok(text.to_owned()) } else { Err("it is one whole number, or four separated by commas") }
}

/// `key=value,key=value`, or a JSON object: the two forms lm-eval takes for `--model_args` and `--gen_kwargs`.
///
/// # Errors
/// Names the piece that has no `=` by its position only, since a value may be a secret.
pub(super) fn key_values(text: &str) -> Result<BTreeMap<String, String>, String> {
    if text.trim_start().starts_with('{') {
        let object: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(text).map_err(|e| format!("not a JSON object: line {}, column {}", e.line(), e.column()))?;
        let plain = |value| match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        return Ok(object.into_iter().map(|(key, value)| (key, plain(value))).collect());
    }
    let pieces = text.split(',').map(str::trim).enumerate().filter(|(_, piece)| !piece.is_empty());
    pieces
        .map(|(at, piece)| match piece.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(format!("piece {} is not key=value", at + 1)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let count = |n| Ok(Limit::Count(n));
        for (text, expected) in [("1", count(1)), ("40", count(40)), ("10.0", count(10)), ("0.25", Ok(Limit::Fraction(0.25)))] {
            assert_eq!(limit(text), expected, "{text}");
        }
        for text in ["0", "abc", "-1", "0.0", "1.5", "nan", "inf", "", "1e300", "99999999999999999999"] {
            assert!(limit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shards() {
        assert_eq!(shard("2/8"), Ok(Shard { index: 2, count: 8 }));
        for text in ["0/8", "9/8", "1", "1/", "/2", "a/b", "-1/2", "1/2/3"] {
            assert!(shard(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shards_of_job_arrays() {
        let of = |variables: &[(&str, u32)]| shard_of_array(&|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| *value));
        let (id, count, least) = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN");
        for (variables, expected) in [
            (&[(id, 0), (count, 8)][..], Some((1, 8))),
            (&[(id, 8), (count, 8), (least, 1)], Some((8, 8))),
            (&[("NEL_SHARD_IDX", 2), ("NEL_TOTAL_SHARDS", 4)], Some((3, 4))),
            (&[(id, 9), (count, 8), (least, 1)], None),
            (&[(id, 3)], None),
            (&[], None),
        ] {
            assert_eq!(of(variables).ok(), expected.map(|(index, count)| Shard { index, count }), "{variables:?}");
        }
    }

    #[test]
    fn failures_allowed() {
        for (text, expected) in [
            ("0", MaxFailures::Count(0)),
            ("7", MaxFailures::Count(7)),
            ("0.25", MaxFailures::Ratio(0.25)),
            ("25%", MaxFailures::Ratio(0.25)),
            ("1.0", MaxFailures::Ratio(1.0)),
        ] {
            assert_eq!(max_failures(text), Ok(expected), "{text}");
        }
        for text in ["-1", "1.5", "101%", "many", "nan", ""] {
            assert!(max_failures(text).is_err(), "{text}");
        }
    }

    #[test]
    fn suites_seeds_and_seconds() {
        assert_eq!(suite("ja"), Ok("ja".to_owned()));
        assert!(["en", "mt-bench"].iter().all(|name| suite(name).is_ok()));
        assert!(suite("jp").unwrap_err().contains("no such suite"));
        for (text, good) in [("0", true), ("0,1234,None,1", true), ("1,2", false), ("x", false), ("-1", false)] {
            assert_eq!(seeds(text).is_ok(), good, "{text}");
        }
        for (text, good) in [("0.5", true), ("600", true), ("0", false), ("-1", false), ("inf", false), ("1e30", false), ("soon", false)] {
            assert_eq!(seconds(text).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn selections_and_pairs() {
        assert_eq!(samples(r#"{"jemhopqa": [0, 5]}"#).unwrap().0["jemhopqa"], [0, 5]);
        for text in [r#"{"jemhopqa": [-1]}"#, r#"{"jemhopqa": 3}"#, "{", "no/such/file.json"] {
            assert!(samples(text).is_err(), "{text}");
        }
        for text in ["pretrained=org/m,dtype=bfloat16", r#"{"pretrained": "org/m", "dtype": "bfloat16"}"#] {
            let pairs = key_values(text).unwrap();
            assert_eq!((pairs["pretrained"].as_str(), pairs["dtype"].as_str()), ("org/m", "bfloat16"), "{text}");
        }
        let error = key_values("model=x,sk-secret").unwrap_err();
        assert!(error.contains("piece 2") && !error.contains("sk-secret"), "{error}");
    }
}
