//! What the values of flags mean: limits, shards, thresholds, names of a closed list. Parsing only; nothing here looks at the machine.
//!
//! Every message names what is allowed, because clap puts the flag and the given value before it.

use std::{collections::BTreeMap, fmt, num::NonZeroUsize, str::FromStr};

/// `--limit`: how many documents of each task are asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// The first that many.
    Count(NonZeroUsize),
    /// The first part of them, between 0 and 1 (both excluded).
    Fraction(f64),
}

impl Limit {
    /// How many of `n` documents that is: a fraction is rounded up, as lm-eval 0.4.13 does (`evaluator_utils.py`, `get_sample_size`).
    pub fn of(self, n: usize) -> usize {
        match self {
            Limit::Count(count) => count.get().min(n),
            Limit::Fraction(part) => ((n as f64 * part).ceil() as usize).min(n),
        }
    }
}

impl FromStr for Limit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = Err("a limit is a whole number from 1 on, or a fraction between 0 and 1 such as 0.1");
        if let Ok(count) = text.parse() {
            return Ok(Limit::Count(count));
        }
        match text.parse::<f64>() {
            Ok(part) if part > 0.0 && part < 1.0 => Ok(Limit::Fraction(part)),
            // lm-eval reads the flag as a float, so scripts write `10.0`. 2^32 documents are beyond any benchmark.
            Ok(count) if count >= 1.0 && count <= f64::from(u32::MAX) && count.fract() == 0.0 => {
                NonZeroUsize::new(count as usize).map_or(refused, |count| Ok(Limit::Count(count)))
            }
            _ => refused,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Count(count) => count.fmt(f),
            Limit::Fraction(part) => part.fmt(f),
        }
    }
}

/// `--shard i/n`: the i-th of n parts of a run, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which part, 1..=`count`.
    pub index: u32,
    /// Number of parts.
    pub count: u32,
}

impl FromStr for Shard {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((index, count)) if (1..=count).contains(&index) => Ok(Shard { index, count }),
            _ => Err("a shard is i/n with 1 <= i <= n, such as 2/8"),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// `--max-failures`: how many failed requests a run may have and still count as complete.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaxFailures {
    /// At most that many.
    Count(u64),
    /// At most that part of all requests, 0..=1.
    Ratio(f64),
}

impl MaxFailures {
    /// Whether `failed` of `total` requests are too many.
    pub fn exceeded(self, failed: u64, total: u64) -> bool {
        match self {
            MaxFailures::Count(allowed) => failed > allowed,
            MaxFailures::Ratio(allowed) => failed as f64 > allowed * total as f64,
        }
    }
}

impl Default for MaxFailures {
    fn default() -> Self {
        MaxFailures::Count(0)
    }
}

impl FromStr for MaxFailures {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(count) = text.parse() {
            return Ok(MaxFailures::Count(count));
        }
        let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |percent| (percent, 100.0));
        match number.parse::<f64>().map(|n| n / scale) {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(MaxFailures::Ratio(ratio)),
            _ => Err("it is a whole number of requests, or a ratio of them such as 0.01 or 1%"),
        }
    }
}

impl fmt::Display for MaxFailures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MaxFailures::Count(count) => count.fmt(f),
            MaxFailures::Ratio(ratio) => write!(f, "{ratio:?}"),
        }
    }
}

/// `--samples`: which documents of which task are asked, by their index in the evaluation split.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampleSelection(pub BTreeMap<String, Vec<usize>>);

impl FromStr for SampleSelection {
    type Err = String;

    /// JSON text, or the path of a file that holds it, as lm-eval takes either.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let json = if text.trim_start().starts_with('{') {
            text.to_owned()
        } else {
            std::fs::read_to_string(text)
                .map_err(|e| format!("it is neither JSON like {{\"jemhopqa\": [0, 5]}} nor a readable file: {e}"))?
        };
        serde_json::from_str(&json).map(SampleSelection).map_err(|e| format!("it must map task names to lists of indices: {e}"))
    }
}

/// `--suite`: a table of the model card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suite {
    /// The Japanese tasks.
    Ja,
}

impl Suite {
    /// Its folder under `tasks/<protocol>/`, and its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Suite::Ja => "ja",
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Suite {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ja" => Ok(Suite::Ja),
            "en" | "mt-bench" => Err("this suite is not built yet; this version has: ja"),
            _ => Err("there is no such suite; this version has: ja"),
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

/// `--defects`: what is done where the original harness has a defect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Defects {
    /// Reproduce it: the published numbers.
    #[default]
    Faithful,
    /// Avoid it; the signature says so.
    Clean,
}

impl Defects {
    /// As written on the command line and in signatures.
    pub fn name(self) -> &'static str {
        match self {
            Defects::Faithful => "faithful",
            Defects::Clean => "clean",
        }
    }
}

/// `key=value,key=value`, or a JSON object: the two forms lm-eval takes for `--model_args` and `--gen_kwargs`.
///
/// # Errors
/// Names the piece that has no `=` by its position only, since a value may be a secret.
pub fn key_values(text: &str) -> Result<BTreeMap<String, String>, String> {
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
        let count = |n| Ok(Limit::Count(NonZeroUsize::new(n).expect("a case above 0")));
        for (text, expected) in [("1", count(1)), ("40", count(40)), ("10.0", count(10)), ("0.25", Ok(Limit::Fraction(0.25)))] {
            assert_eq!(text.parse::<Limit>(), expected, "{text}");
        }
        for text in ["0", "abc", "-1", "0.0", "1.5", "nan", "inf", "", "1e300", "99999999999999999999"] {
            assert!(text.parse::<Limit>().is_err(), "{text}");
        }
        for (text, n, expected) in [("40", 10, 10), ("3", 10, 3), ("0.25", 10, 3), ("0.1", 10, 1), ("0.001", 10, 1), ("0.9", 0, 0)] {
            assert_eq!(text.parse::<Limit>().unwrap().of(n), expected, "{text} of {n}");
        }
    }

    #[test]
    fn shards() {
        assert_eq!("2/8".parse(), Ok(Shard { index: 2, count: 8 }));
        for text in ["0/8", "9/8", "1", "1/", "/2", "a/b", "-1/2", "1/2/3"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }

    #[test]
    fn failures_allowed() {
        for (text, failed, total, exceeded) in [
            ("0", 0, 9, false),
            ("0", 1, 9, true),
            ("1", 1, 9, false),
            ("0.1", 1, 10, false),
            ("0.1", 2, 10, true),
            ("10%", 2, 10, true),
            ("1.0", 10, 10, false),
        ] {
            assert_eq!(text.parse::<MaxFailures>().unwrap().exceeded(failed, total), exceeded, "{text}: {failed} of {total}");
        }
        for text in ["-1", "1.5", "101%", "many", "nan", ""] {
            assert!(text.parse::<MaxFailures>().is_err(), "{text}");
        }
    }

    #[test]
    fn selections_and_pairs() {
        let selection: SampleSelection = r#"{"jemhopqa": [0, 5]}"#.parse().unwrap();
        assert_eq!(selection.0["jemhopqa"], [0, 5]);
        for text in [r#"{"jemhopqa": [-1]}"#, r#"{"jemhopqa": 3}"#, "{", "no/such/file.json"] {
            assert!(text.parse::<SampleSelection>().is_err(), "{text}");
        }
        for text in ["pretrained=org/m,dtype=bfloat16", r#"{"pretrained": "org/m", "dtype": "bfloat16"}"#] {
            let pairs = key_values(text).unwrap();
            assert_eq!((pairs["pretrained"].as_str(), pairs["dtype"].as_str()), ("org/m", "bfloat16"), "{text}");
        }
        let error = key_values("model=x,sk-secret").unwrap_err();
        assert!(error.contains("piece 2") && !error.contains("sk-secret"), "{error}");
    }
}
