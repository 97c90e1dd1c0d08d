//! What the rows and the summary of a JP harness golden record of a score: tokens, counts, precisions, aggregates.

use super::{Replay, Scored, text_of};
use crate::certify::report::Folder;
use crate::certify::source::{CertifyError, Row, Source};
use crate::metric::{
    self, Metric, Score, aggregate,
    bleu::{self, Counts},
    rouge::Rouge,
    tokenizer_13a,
};
use crate::text::tokenizer::{Special, Tokenizer};
use serde_json::{Map, Value, json};

/// Relative error of logarithm sums, as the goldens' contract allows it.
const CLOSE: f64 = 1e-12;

/// The texts of one row.
pub(super) struct Texts<'t> {
    /// What the harness read.
    pub(super) completion: &'t str,
    /// What was extracted from it.
    pub(super) extracted: &'t str,
    /// What it is compared with.
    pub(super) gold: &'t str,
    /// Completion and gold as BLEU counts them, before `13a`; `None` where the segmenter that it needs is not at hand.
    pub(super) segmented: Option<[String; 2]>,
}

impl Texts<'_> {
    /// BLEU's counts of this row alone.
    pub(super) fn counts(&self) -> Option<Counts> {
        let [completion, gold] = self.segmented.as_ref()?;
        Some(Counts::of(gold, completion))
    }
}

impl Replay<'_> {
    pub(super) fn headline(&self) -> &'static dyn Metric {
        metric::by_name(&self.task.file.headline).expect("checked when the task was loaded")
    }

    /// See [`Texts::segmented`].
    pub(super) fn segmented(&self, completion: &str, gold: &str) -> Option<[String; 2]> {
        match self.headline().needs() {
            [metric::Need::Nagisa] => self.resources.segment.map(|words| [completion, gold].map(|text| bleu::segmented(words, text))),
            _ => Some([completion, gold].map(str::to_owned)),
        }
    }

    /// `extracted`: the completion, and what the metric made of it and of the reference.
    pub(super) fn extracted(&self, report: &mut Folder, source: &Source, row: &Row, texts: &Texts<'_>) -> Result<(), CertifyError> {
        let tokens = |text: &str| self.tokenizer.tokens(text).map(|t| json!(t)).map_err(|e| CertifyError::Data(e.to_string()));
        let segmented = |which: usize| texts.segmented.as_ref().map(|both| both[which].as_str());
        let thirteen = |which: usize| segmented(which).map(|text| json!(tokenizer_13a::tokenize(text)));
        for (key, expected) in source.object_of(&row.fields, "extracted", Some(row.line))? {
            let field = format!("extracted.{key}");
            let got = match key.as_str() {
                "completion" => Some(json!(texts.completion)),
                "answer" => {
                    report.check_text(&source.name, &row.id, &field, &text_of(expected), texts.extracted);
                    continue;
                }
                "segmented" => segmented(0).map(Value::from),
                "segmented_reference" => segmented(1).map(Value::from),
                "tokenized_13a" => thirteen(0),
                "tokenized_13a_reference" => thirteen(1),
                "tokens" => Some(tokens(texts.completion)?),
                "reference_tokens" => Some(tokens(texts.gold)?),
                _ => return Err(source.shape(Some(row.line), format!("extracted has an unknown field '{key}'"))),
            };
            match got {
                Some(got) => report.check_value(&source.name, &row.id, &field, expected, &got),
                None => self.no_segmenter(report),
            }
        }
        Ok(())
    }

    /// `scores` of one row.
    pub(super) fn scores(
        &self,
        report: &mut Folder,
        source: &Source,
        row: &Row,
        texts: &Texts<'_>,
        score: Option<&Score>,
    ) -> Result<(), CertifyError> {
        let ids = |text: &str| ids(self.tokenizer, text);
        let counts = || texts.counts();
        let overlap = || Rouge::TWO.overlap(&ids(texts.gold), &ids(texts.completion));
        for (key, expected) in source.object_of(&row.fields, "scores", Some(row.line))? {
            let field = format!("scores.{key}");
            let got = match key.as_str() {
                "acc" => score.map(|s| json!(s.value)),
                "rouge2_f" => score.map(|s| json!(s.value)),
                "rouge2_p" => Some(json!(overlap().precision)),
                "rouge2_r" => Some(json!(overlap().recall)),
                "bleu_one_document_corpus" => match (expected.as_f64(), score) {
                    (Some(expected), Some(score)) => {
                        report.check_close(&source.name, &row.id, &field, expected, 100.0 * score.value, CLOSE * expected);
                        continue;
                    }
                    _ => None,
                },
                "counts" => counts().map(|c| json!(c.correct)),
                "totals" => counts().map(|c| json!(c.total)),
                "sys_len" => counts().map(|c| json!(c.sys_len)),
                "ref_len" => counts().map(|c| json!(c.ref_len)),
                _ => return Err(source.shape(Some(row.line), format!("scores has an unknown field '{key}'"))),
            };
            match got {
                Some(got) => report.check_value(&source.name, &row.id, &field, expected, &got),
                None => self.no_segmenter(report),
            }
        }
        Ok(())
    }

    /// `summary.json`: the aggregate over exactly the rows of the folder, and the settings.
    pub(super) fn summary_file(
        &self,
        report: &mut Folder,
        source: &Source,
        file: &Map<String, Value>,
        rows: &[Scored],
    ) -> Result<(), CertifyError> {
        source.only_keys(file, &["n", "metrics", "settings", "produced_with"], None)?;
        report.check_value(&source.name, "", "n", source.value_of(file, "n", None)?, &json!(rows.len()));
        let scores: Option<Vec<Score>> = rows.iter().map(|(score, _)| score.clone()).collect();
        let value = scores.as_ref().and_then(|s| self.headline().aggregate(s));
        let corpus: Option<Counts> = rows.iter().map(|(_, counts)| *counts).sum();
        for (key, expected) in source.object_of(file, "metrics", None)? {
            let field = format!("metrics.{key}");
            let percent = |value: Option<f64>| value.map(|v| 100.0 * v);
            let close = match key.as_str() {
                "bleu" => percent(value),
                "bp" => corpus.map(|c| c.bleu().brevity),
                _ => None,
            };
            if let (Some(got), Some(expected)) = (close, expected.as_f64()) {
                report.check_close(&source.name, "", &field, expected, got, CLOSE * expected);
                continue;
            }
            let got = match key.as_str() {
                "acc" => value.map(Value::from),
                "rouge2" => percent(value).map(Value::from),
                "rouge2_plain_mean_of_f_times_100" => {
                    let mean = scores.as_ref().and_then(|s| aggregate::exact_mean(s.iter().map(|s| s.value)));
                    let (expected, got) = (expected.as_f64().unwrap_or(f64::NAN), percent(mean).unwrap_or(f64::NAN));
                    report.check_close(&source.name, "", &field, expected, got, CLOSE * expected);
                    continue;
                }
                "counts" => corpus.map(|c| json!(c.correct)),
                "totals" => corpus.map(|c| json!(c.total)),
                "precisions" => corpus.map(|c| json!(c.bleu().precisions)),
                "sys_len" => corpus.map(|c| json!(c.sys_len)),
                "ref_len" => corpus.map(|c| json!(c.ref_len)),
                // Not part of the protocol, nor of the card.
                "rouge2_mecab_variant" => {
                    report.outside.push((format!("{} {key}", source.name), 1));
                    continue;
                }
                // Known, but not without the segmenter.
                "bleu" | "bp" => None,
                _ => return Err(source.shape(None, format!("metrics has an unknown field '{key}'"))),
            };
            match got {
                Some(got) => report.check_value(&source.name, "", &field, expected, &got),
                None => self.no_segmenter(report),
            }
        }
        self.settings(report, source, source.object_of(file, "settings", None)?)
    }

    fn no_segmenter(&self, report: &mut Folder) {
        let what = "words and BLEU: nagisa's model is not at hand".to_owned();
        if !report.left_out.contains(&what) {
            report.left_out.push(what);
        }
    }
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, Special::None).unwrap_or_default()
}
