//! Vectors of the metrics and of the answer steps that come from the Japanese harness (`metrics/*.jsonl`), made with the Python originals.

use super::report::Folder;
use super::source::{CertifyError, Row, Source};
use super::{Words, jp_harness};
use crate::answer::steps;
use crate::metric::{bleu::Counts, bootstrap, rouge::Rouge, tokenizer_13a};
use crate::task::Step;
use crate::text::{cleanup::clean_up_tokenization, python::is_space, tokenizer::Tokenizer};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Relative tolerance of numbers that went through `exp` or `ln`, which differ in the last bit from one C library to the next.
const TOLERANCE: f64 = 1e-12;

/// Names of `rouge_score.jsonl` and what computes them.
const ROUGES: [(&str, Rouge); 3] = [("rouge1", Rouge::ONE), ("rouge2", Rouge::TWO), ("rougeL", Rouge::L)];

/// Replays one file into `report`.
///
/// # Errors
/// When the file is not of this kind, not of its shape, or its tokenizer is missing.
pub fn file(report: &mut Folder, folder: &Path, name: &str, segment: Option<Words<'_>>) -> Result<(), CertifyError> {
    let source = Source::new(folder, name);
    let row: fn(&mut Folder, &Source, &Row) -> Result<(), CertifyError> = match name {
        "bleu_sacrebleu.jsonl" => bleu,
        "decode_cleanup.jsonl" => cleanup,
        "mgsm_extract.jsonl" => last_number,
        "rouge_bootstrap.jsonl" => rouge_bootstrap,
        "tokenizer_13a.jsonl" => words_13a,
        "rouge_score.jsonl" => return rouge_file(report, &source, folder),
        "nagisa_words.jsonl" => return nagisa_words(report, &source, segment),
        "mecab_unidic_lite.jsonl" => {
            report.outside.push((name.to_owned(), source.rows()?.len() as u64));
            return Ok(());
        }
        "produced_with_jaharness.json" => return source.object().map(drop),
        _ => return Err(CertifyError::UnknownFile { path: folder.join(name), kind: "metrics".into() }),
    };
    for of_file in source.rows()? {
        report.rows += 1;
        row(report, &source, &of_file)?;
    }
    Ok(())
}

/// Words of the stripped text, as the harness asks for them, and what it joins them to. Every string at once: segmenting is the slow part of all of certify.
fn nagisa_words(report: &mut Folder, source: &Source, segment: Option<Words<'_>>) -> Result<(), CertifyError> {
    let rows = source.rows()?;
    let Some(segment) = segment else {
        report.left_out.push(format!("{}: nagisa's model is not at hand", source.name));
        return Ok(());
    };
    let texts: Vec<&str> =
        rows.iter().map(|row| source.text_of(&row.fields, "text", Some(row.line))).collect::<Result<_, CertifyError>>()?;
    let words: Vec<Vec<String>> = texts.par_iter().map(|text| segment(text.trim_matches(is_space))).collect();
    for (row, words) in rows.iter().zip(words) {
        let line = Some(row.line);
        source.only_keys(&row.fields, &["text", "words", "joined"], line)?;
        report.rows += 1;
        report.check_value(&source.name, &row.id, "words", source.value_of(&row.fields, "words", line)?, &json!(words));
        report.check_text(&source.name, &row.id, "joined", source.text_of(&row.fields, "joined", line)?, &words.join(" "));
    }
    Ok(())
}

/// A corpus of its own.
fn bleu(report: &mut Folder, source: &Source, row: &Row) -> Result<(), CertifyError> {
    let fields = &row.fields;
    let line = Some(row.line);
    source.only_keys(fields, &["hypotheses", "references", "score", "counts", "totals", "precisions", "bp", "sys_len", "ref_len"], line)?;
    let (hypotheses, references) = (texts(source, row, "hypotheses")?, texts(source, row, "references")?);
    if hypotheses.len() != references.len() {
        return Err(source.shape(line, "every hypothesis must have one reference"));
    }
    let counts: Counts = references.iter().zip(&hypotheses).map(|(reference, hypothesis)| Counts::of(reference, hypothesis)).sum();
    let bleu = counts.bleu();
    for (key, got) in [
        ("counts", json!(counts.correct)),
        ("totals", json!(counts.total)),
        ("precisions", json!(bleu.precisions)),
        ("sys_len", json!(counts.sys_len)),
        ("ref_len", json!(counts.ref_len)),
    ] {
        report.check_value(&source.name, &row.id, key, source.value_of(fields, key, line)?, &got);
    }
    for (key, got) in [("score", bleu.score), ("bp", bleu.brevity)] {
        let expected = number(source, row, key)?;
        report.check_close(&source.name, &row.id, key, expected, got, TOLERANCE * expected.abs());
    }
    Ok(())
}

fn cleanup(report: &mut Folder, source: &Source, row: &Row) -> Result<(), CertifyError> {
    let line = Some(row.line);
    source.only_keys(&row.fields, &["text", "cleaned"], line)?;
    let got = clean_up_tokenization(source.text_of(&row.fields, "text", line)?);
    report.check_text(&source.name, &row.id, "cleaned", source.text_of(&row.fields, "cleaned", line)?, &got);
    Ok(())
}

/// What MGSM's answers go through.
fn last_number(report: &mut Folder, source: &Source, row: &Row) -> Result<(), CertifyError> {
    let line = Some(row.line);
    source.only_keys(&row.fields, &["completion", "extracted", "is_integer_answer"], line)?;
    let got = steps::apply(&[Step::LastNumber], source.text_of(&row.fields, "completion", line)?);
    report.check_text(&source.name, &row.id, "extracted", source.text_of(&row.fields, "extracted", line)?, &got);
    let is_integer = source.value_of(&row.fields, "is_integer_answer", line)?;
    report.check_value(&source.name, &row.id, "is_integer_answer", is_integer, &json!(got.parse::<f64>().is_ok()));
    Ok(())
}

fn rouge_bootstrap(report: &mut Folder, source: &Source, row: &Row) -> Result<(), CertifyError> {
    let line = Some(row.line);
    source.only_keys(&row.fields, &["fmeasures", "numpy_seed", "low", "mid", "high", "plain_mean"], line)?;
    let values = source.array_of(&row.fields, "fmeasures", line)?.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>();
    let values = values.ok_or_else(|| source.shape(line, "'fmeasures' must be numbers"))?;
    let seed = source.value_of(&row.fields, "numpy_seed", line)?.as_u64().and_then(|seed| u32::try_from(seed).ok());
    let seed = seed.ok_or_else(|| source.shape(line, "'numpy_seed' must be an integer below 2^32"))?;
    let got = bootstrap::of_mean(&values, seed).ok_or_else(|| source.shape(line, "'fmeasures' is empty"))?;
    for (key, got) in [("low", got.low), ("mid", got.mid), ("high", got.high)] {
        report.check_value(&source.name, &row.id, key, source.value_of(&row.fields, key, line)?, &json!(got));
    }
    // The harness reports no mean; numpy's has another order of additions.
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let expected = number(source, row, "plain_mean")?;
    report.check_close(&source.name, &row.id, "plain_mean", expected, mean, TOLERANCE * expected.abs());
    Ok(())
}

fn words_13a(report: &mut Folder, source: &Source, row: &Row) -> Result<(), CertifyError> {
    let line = Some(row.line);
    source.only_keys(&row.fields, &["text", "tokenized", "rstripped_first"], line)?;
    let got = tokenizer_13a::tokenize(source.text_of(&row.fields, "text", line)?);
    report.check_text(&source.name, &row.id, "tokenized", source.text_of(&row.fields, "tokenized", line)?, &got);
    // `corpus_bleu` strips the end of every segment, so our tokenizer always does.
    let stripped = source.value_of(&row.fields, "rstripped_first", line)?;
    report.check_value(&source.name, &row.id, "rstripped_first", stripped, &json!(true));
    Ok(())
}

/// Words of two tokenizers are compared, those of MeCab and of rouge_score itself belong to no table.
fn rouge_file(report: &mut Folder, source: &Source, folder: &Path) -> Result<(), CertifyError> {
    let tokenizer = Tokenizer::from_dir(&tokenizer_dir(folder)).map_err(|e| CertifyError::Data(e.to_string()))?;
    let whitespace = |text: &str| Ok(text.split(is_space).filter(|t| !t.is_empty()).map(str::to_owned).collect());
    let model = |text: &str| tokenizer.tokens(text).map_err(|e| CertifyError::Data(e.to_string()));
    let rows = source.rows()?;
    for row in &rows {
        let line = Some(row.line);
        source.only_keys(
            &row.fields,
            &["reference", "prediction", "whitespace", "model_tokenizer", "mecab_unidic_lite", "default_tokenizer"],
            line,
        )?;
        report.rows += 1;
        overlaps(report, source, row, "whitespace", &whitespace)?;
        overlaps(report, source, row, "model_tokenizer", &model)?;
    }
    for variant in ["mecab_unidic_lite", "default_tokenizer"] {
        let count = rows.iter().filter(|row| row.fields.contains_key(variant)).count() as u64;
        report.outside.extend((count > 0).then(|| (format!("{} {variant}", source.name), count)));
    }
    Ok(())
}

/// The tokenizer of the harness' tasks stands in for the evaluated model's here too.
fn tokenizer_dir(folder: &Path) -> PathBuf {
    // The folder may be given as `.`: its parent is that of the resolved path.
    let resolved = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    resolved.parent().unwrap_or(folder).join("ja-harness").join(jp_harness::TOKENIZER)
}

/// `[P, R, F]` of every kind of ROUGE under one tokenizer.
fn overlaps(
    report: &mut Folder,
    source: &Source,
    row: &Row,
    words_of: &str,
    words: &dyn Fn(&str) -> Result<Vec<String>, CertifyError>,
) -> Result<(), CertifyError> {
    let line = Some(row.line);
    let text = |key: &str| words(source.text_of(&row.fields, key, line)?);
    let (reference, prediction) = (text("reference")?, text("prediction")?);
    let expected: &Map<String, Value> = source.object_of(&row.fields, words_of, line)?;
    source.only_keys(expected, &["rouge1", "rouge2", "rougeL", "prediction_tokens"], line)?;
    for (name, rouge) in ROUGES {
        let got = rouge.overlap(&reference, &prediction);
        let expected = source.value_of(expected, name, line)?;
        report.check_value(&source.name, &row.id, &format!("{words_of}.{name}"), expected, &json!([got.precision, got.recall, got.f]));
    }
    if let Some(tokens) = expected.get("prediction_tokens") {
        report.check_value(&source.name, &row.id, &format!("{words_of}.prediction_tokens"), tokens, &json!(prediction));
    }
    Ok(())
}

fn number(source: &Source, row: &Row, key: &str) -> Result<f64, CertifyError> {
    let value = source.value_of(&row.fields, key, Some(row.line))?;
    value.as_f64().ok_or_else(|| source.shape(Some(row.line), format!("'{key}' must be a number")))
}

fn texts(source: &Source, row: &Row, key: &str) -> Result<Vec<String>, CertifyError> {
    let list = source.array_of(&row.fields, key, Some(row.line))?.iter().map(|t| t.as_str().map(str::to_owned)).collect::<Option<_>>();
    list.ok_or_else(|| source.shape(Some(row.line), format!("'{key}' must be texts")))
}
