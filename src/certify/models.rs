//! Goldens of models: what transformers computed with small models in Hugging Face layout (`../shared/golden/models/README.md`), through
//! this program's tokenizer, engine and chat templates. Every request is asked alone and again together with all others of its file: both
//! answers must be the golden's, and a mismatch shows the one that is not.
//!
//! Inputs, not compared: texts, prompts, messages, stop strings, settings of sampling, `positions` and `ids` of `logits_index.json`, `group`
//! and `add_special_tokens` of pairs, `ignore_eos` and `max_new_tokens` of generations, `empty_context_prefix_token`, and what the maker wrote
//! about the making (`dtype`, `device`, `attn_implementation`, `produced_with`, `disagreements_with_transformers_generate`).

mod numbers;
mod texts;

use super::report::Folder;
use super::source::{CertifyError, Row, Source, entries};
use crate::engine::chat::ChatTemplate;
use crate::engine::llama::{Llama, LoadOptions, config, ops::cpu::RopeTable};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Largest difference of a logit or of a log-likelihood on the CPU in f32.
const CLOSE: f64 = 1e-4;

/// Files of the golden folder inside a model directory.
const GOLDEN: [&str; 9] = [
    "chat.jsonl",
    "generate.jsonl",
    "logits.safetensors",
    "logits_index.json",
    "loglikelihood.jsonl",
    "sampling.jsonl",
    "stop.jsonl",
    "summary.json",
    "tokenize.jsonl",
];

/// Files of the model itself, weights aside.
const MODEL: [&str; 7] = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// What the rows add up to, by this program; `summary.json` must say the same.
#[derive(Debug, Default)]
struct Totals {
    /// Rows of each file.
    rows: BTreeMap<&'static str, u64>,
    is_greedy: u64,
    /// Verdicts that a near tie leaves open.
    open_verdicts: u64,
    sum_logprob: f64,
    gap_loglikelihood: f64,
    gap_generate: f64,
    finish_eos: u64,
}

/// Replays one model directory.
///
/// # Errors
/// When a file is missing, is not of this kind's shape, or the model does not load or run.
pub fn folder(path: &Path) -> Result<Folder, CertifyError> {
    folder_with(path, &LoadOptions { model: path.display().to_string(), ..LoadOptions::default() })
}

/// The same, computed where and in the numbers that `options` say. The tolerances are those of f32.
///
/// # Errors
/// As [`folder`].
pub fn folder_with(path: &Path, options: &LoadOptions) -> Result<Folder, CertifyError> {
    let mut report = Folder::new("");
    check_names(path)?;
    let mut llama = Llama::load(path, options)?;
    let source = |name: &str| Source::new(path, &format!("golden/{name}"));
    let summary: Summary = parse(&source("summary.json"), None, Value::Object(source("summary.json").object()?))?;
    let prefix = llama.tokenizer().id(&summary.settings.empty_context_prefix_token);
    let mut totals = Totals { gap_loglikelihood: f64::INFINITY, gap_generate: f64::INFINITY, ..Totals::default() };
    texts::tokenize(&mut report, &source("tokenize.jsonl"), llama.tokenizer())?;
    texts::chat(&mut report, &source("chat.jsonl"), llama.tokenizer(), &mut totals)?;
    numbers::logits(&mut report, &source("logits_index.json"), &path.join("golden/logits.safetensors"), &mut llama)?;
    numbers::pairs(&mut report, &source("loglikelihood.jsonl"), &mut llama, prefix, &mut totals)?;
    let generations = numbers::generations(&mut report, &source("generate.jsonl"), &mut llama, &mut totals)?;
    numbers::stops(&mut report, &source("stop.jsonl"), &mut llama, &generations, &mut totals)?;
    numbers::sampling(&mut report, &source("sampling.jsonl"), &mut llama, &mut totals)?;
    check_summary(&mut report, &summary, &totals, llama.config());
    Ok(report)
}

/// Refuses files that nobody reads.
fn check_names(path: &Path) -> Result<(), CertifyError> {
    let unknown = |file: &str| CertifyError::UnknownFile { path: path.join(file), kind: "models".into() };
    for name in entries(path)? {
        if name != "golden" && !MODEL.contains(&name.as_str()) && !name.ends_with(".safetensors") {
            return Err(unknown(&name));
        }
    }
    for name in entries(&path.join("golden"))? {
        if !GOLDEN.contains(&name.as_str()) {
            return Err(unknown(&format!("golden/{name}")));
        }
    }
    Ok(())
}

/// `summary.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Summary {
    n: BTreeMap<String, u64>,
    metrics: Metrics,
    settings: Settings,
    #[serde(rename = "produced_with")]
    _produced_with: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metrics {
    is_greedy_true: u64,
    sum_logprob: f64,
    min_top2_gap_generate: f64,
    min_top2_gap_loglikelihood: f64,
    generate_finish_eos: u64,
    #[serde(rename = "disagreements_with_transformers_generate")]
    _disagreements: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(rename = "dtype")]
    _dtype: String,
    #[serde(rename = "attn_implementation")]
    _attention: String,
    #[serde(rename = "device")]
    _device: String,
    rope_inv_freq: Vec<f32>,
    max_length: usize,
    empty_context_prefix_token: String,
}

fn check_summary(report: &mut Folder, summary: &Summary, totals: &Totals, config: &config::Config) {
    const FILE: &str = "golden/summary.json";
    let Summary { n, metrics, settings, .. } = summary;
    report.rows += 1;
    for (name, rows) in n {
        report.check_value(FILE, "", &format!("n.{name}"), &json!(rows), &json!(totals.rows.get(name.as_str())));
    }
    let sums = totals.rows.get("loglikelihood").copied().unwrap_or_default() as f64;
    for (name, expected, got, tolerance) in [
        ("is_greedy_true", metrics.is_greedy_true as f64, totals.is_greedy as f64, totals.open_verdicts as f64),
        ("sum_logprob", metrics.sum_logprob, totals.sum_logprob, CLOSE * sums),
        ("min_top2_gap_generate", metrics.min_top2_gap_generate, totals.gap_generate, 2.0 * CLOSE),
        ("min_top2_gap_loglikelihood", metrics.min_top2_gap_loglikelihood, totals.gap_loglikelihood, 2.0 * CLOSE),
        ("generate_finish_eos", metrics.generate_finish_eos as f64, totals.finish_eos as f64, 0.0),
    ] {
        report.check_close(FILE, "", &format!("metrics.{name}"), expected, got, tolerance);
    }
    let got = config.rope.inverse_frequencies(config.head_dim);
    check_floats(report, FILE, "", "settings.rope_inv_freq", &settings.rope_inv_freq, &got, 1e-7);
    report.check_value(FILE, "", "settings.max_length", &json!(settings.max_length), &json!(config.max_position_embeddings));
}

/// Replays what lies beside the model directories: `rope_golden.json` and, where `folders` names it, `chat-templates/`.
///
/// # Errors
/// When a file is missing or is not of this kind's shape.
pub fn flat(path: &Path, folders: &[String]) -> Result<Folder, CertifyError> {
    let mut report = Folder::new("models");
    rope(&mut report, &Source::new(path, "rope_golden.json"))?;
    if folders.iter().any(|name| name == "chat-templates") {
        templates(&mut report, path, folders)?;
    }
    Ok(report)
}

/// One real model of `rope_golden.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RopeGolden {
    rope_theta: f64,
    rope_scaling: Option<Value>,
    head_dim: usize,
    attention_scaling: f64,
    inv_freq: Vec<f32>,
    positions: Vec<usize>,
    cos: Vec<Vec<f32>>,
    sin: Vec<Vec<f32>>,
}

/// Frequencies, cosines and sines of the real models.
fn rope(report: &mut Folder, source: &Source) -> Result<(), CertifyError> {
    for (model, golden) in source.object()? {
        let golden: RopeGolden = parse(source, None, golden)?;
        let rope = config::rope(Some(golden.rope_theta), golden.rope_scaling.as_ref())?;
        let frequencies = rope.inverse_frequencies(golden.head_dim);
        report.rows += 1;
        check_floats(report, &source.name, &model, "inv_freq", &golden.inv_freq, &frequencies, 1e-7);
        // `default` and `llama3` scale no attention; this program has no other.
        report.check_close(&source.name, &model, "attention_scaling", golden.attention_scaling, 1.0, 0.0);
        let mut table = RopeTable::new(frequencies);
        table.reach(golden.positions.iter().max().map_or(0, |p| p + 1));
        for (field, expected, half) in [("cos", &golden.cos, 0), ("sin", &golden.sin, 1)] {
            let got: Vec<f32> =
                golden.positions.iter().flat_map(|p| if half == 0 { table.at(*p).0 } else { table.at(*p).1 }).copied().collect();
            check_floats(report, &source.name, &model, field, &expected.concat(), &got, 1e-6);
        }
    }
    Ok(())
}

/// Every template is one that a model here carries, byte for byte (so that the conversations of that model prove it), and it compiles.
fn templates(report: &mut Folder, path: &Path, folders: &[String]) -> Result<(), CertifyError> {
    let mut carried = Vec::new();
    for model in folders.iter().filter(|name| path.join(name).join("config.json").exists()) {
        let config = Source::new(&path.join(model), "tokenizer_config.json").object()?;
        carried.extend(config.get("chat_template").and_then(Value::as_str).map(str::to_owned));
    }
    let folder = path.join("chat-templates");
    for name in entries(&folder)? {
        if !name.ends_with(".jinja") {
            return Err(CertifyError::UnknownFile { path: folder.join(name), kind: "models".into() });
        }
        let file = format!("chat-templates/{name}");
        let template = Source::new(path, &file).text()?;
        let shared = |other: &str| template.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
        let closest = carried.iter().max_by_key(|other| shared(other)).map(String::as_str).unwrap_or_default();
        report.rows += 1;
        report.check_text(&file, "", "template", &template, closest);
        if let Err(e) = ChatTemplate::new(closest, BTreeMap::new()) {
            report.mismatch(&file, "", "template", "a valid template".into(), e.to_string(), None);
        }
    }
    Ok(())
}

/// A row, or a whole file, as its type: an unknown, missing or mistyped field is an error.
fn parse<T: DeserializeOwned>(source: &Source, line: Option<usize>, value: Value) -> Result<T, CertifyError> {
    serde_json::from_value(value).map_err(|e| source.shape(line, e.to_string()))
}

/// All rows of a file, with their names for reports.
fn rows<T: DeserializeOwned>(source: &Source) -> Result<Vec<(String, T)>, CertifyError> {
    let parsed = |Row { id, line, fields }| Ok((id, parse(source, Some(line), Value::Object(fields))?));
    source.rows()?.into_iter().map(parsed).collect()
}

/// Compares two lists of floats, as one field, within an absolute tolerance.
fn check_floats<T: Copy + Into<f64>>(report: &mut Folder, file: &str, row: &str, field: &str, expected: &[T], got: &[T], tolerance: f64) {
    report.count_field(file, field);
    if expected.len() != got.len() {
        let (expected, got) = (format!("{} numbers", expected.len()), format!("{} numbers", got.len()));
        return report.mismatch(file, row, field, expected, got, None);
    }
    let pairs = expected.iter().zip(got).map(|(e, g)| ((*e).into(), (*g).into()));
    // A difference that is not a number is no small one.
    let close = |(e, g): (f64, f64)| (e - g).abs() <= tolerance;
    let first = pairs.enumerate().find(|(_, pair)| !close(*pair));
    if let Some((index, (e, g))) = first {
        report.mismatch(file, row, field, format!("[{index}] {e}"), format!("[{index}] {g}"), None);
    }
}
