//! What the rows and the summary of an English golden record of answers and scores.

use super::{Replay, Scored};
use crate::answer::{self, Answer};
use crate::certify::report::Folder;
use crate::certify::source::{CertifyError, Row, Source};
use crate::metric::{self, Evidence, Metric, Reference, Resources, Score, aggregate::Part, parts, squad, squad::Squad};
use crate::task::{RequestKindName, Whole, document::Document};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Relative error of standard errors and exponentials, as the goldens' contract allows it.
const CLOSE: f64 = 1e-12;

/// The harness's name of a number without filters.
const NO_FILTER: &str = "none";

/// The response of a row.
enum Response {
    Text { decoded: String, no_answer: Option<f64> },
    LogLikelihoods(Vec<f64>),
}

impl Replay {
    /// Compares one row and gives its scores.
    pub(super) fn scored_row(&self, report: &mut Folder, source: &Source, row: &Row, document: &Document) -> Result<Scored, CertifyError> {
        let response = self.response(report, source, row)?;
        self.extracted(report, source, row, &response)?;
        let reference = source.value_of(&row.fields, "reference", Some(row.line))?;
        let got = match reference {
            Value::Array(_) => json!(document.golds),
            Value::Number(_) => json!(document.right),
            _ if self.chooses() => json!(document.output),
            _ => json!(document.gold),
        };
        report.check_value(&source.name, &row.id, "reference", reference, &got);
        let scored = self.scores_of(document, &response);
        for (key, expected) in source.object_of(&row.fields, "scores", Some(row.line))? {
            let (metric, scored) =
                self.number(&scored, key).ok_or_else(|| source.shape(Some(row.line), format!("unknown score '{key}'")))?;
            let got = harness_number(metric, std::slice::from_ref(scored));
            report.check_value(&source.name, &row.id, &format!("scores.{key}"), expected, &json!(got));
        }
        Ok(scored)
    }

    fn chooses(&self) -> bool {
        self.task.file.request.kind == RequestKindName::Choose
    }

    fn response(&self, report: &mut Folder, source: &Source, row: &Row) -> Result<Response, CertifyError> {
        let line = Some(row.line);
        if self.chooses() {
            let recorded = source.object_of(&row.fields, "response", line)?;
            source.only_keys(recorded, &["logprobs", "is_greedy"], line)?;
            let values = source.array_of(recorded, "logprobs", line)?.iter().map(Value::as_f64).collect::<Option<_>>();
            return Ok(Response::LogLikelihoods(values.ok_or_else(|| source.shape(line, "'logprobs' must be numbers"))?));
        }
        let decoded = self.after_stop(source.text_of(&row.fields, "response", line)?);
        report.check_text(&source.name, &row.id, "after_stop", source.text_of(&row.fields, "after_stop", line)?, &decoded);
        let no_answer = row.fields.get("na_logprob").and_then(Value::as_f64);
        if let Some(logprob) = no_answer {
            let expected = source.value_of(&row.fields, "no_answer_probability", line)?.as_f64();
            let expected = expected.ok_or_else(|| source.shape(line, "'no_answer_probability' must be a number"))?;
            let got = squad::no_answer_probability(logprob);
            report.check_close(&source.name, &row.id, "no_answer_probability", expected, got, CLOSE * expected.abs());
        }
        Ok(Response::Text { decoded, no_answer })
    }

    /// The harness's name of a reading.
    fn filter<'n>(&'n self, reading: Option<&'n str>) -> &'n str {
        reading.or(self.task.file.filter.as_deref()).unwrap_or(NO_FILTER)
    }

    /// `extracted`: null for a multiple choice, the text where there is no filter, else a text a filter.
    fn extracted(&self, report: &mut Folder, source: &Source, row: &Row, response: &Response) -> Result<(), CertifyError> {
        let expected = source.value_of(&row.fields, "extracted", Some(row.line))?;
        let Response::Text { decoded, .. } = response else {
            report.check_value(&source.name, &row.id, "extracted", expected, &Value::Null);
            return Ok(());
        };
        let Value::Object(filters) = expected else {
            let Answer::Text(got) = answer::extract(&self.task, decoded);
            report.check_value(&source.name, &row.id, "extracted", expected, &json!(got));
            return Ok(());
        };
        let readings = answer::readings(&self.task);
        for (name, expected) in filters {
            let steps = readings.iter().find(|(reading, _)| self.filter(*reading) == name).map(|(_, steps)| *steps);
            let steps = steps.ok_or_else(|| source.shape(Some(row.line), format!("extracted has an unknown filter '{name}'")))?;
            let got = answer::steps::apply(steps, decoded);
            report.check_value(&source.name, &row.id, &format!("extracted.{name}"), expected, &json!(got));
        }
        Ok(())
    }

    /// Every number of a document, under the names `METRIC,FILTER`.
    fn scores_of(&self, document: &Document, response: &Response) -> Scored {
        let reference = answer::reference(&self.task, document);
        let texts = reference.texts.iter().map(|text| answer::comparable(&self.task, text)).collect();
        let reference = Reference { texts, right: reference.right };
        let mut scored = BTreeMap::new();
        for (reading, steps) in answer::readings(&self.task) {
            let evidence = match response {
                Response::LogLikelihoods(values) => vec![Evidence::LogLikelihoods(values.clone())],
                Response::Text { decoded, no_answer } => {
                    let text = answer::comparable(&self.task, &answer::steps::apply(steps, decoded));
                    [Evidence::Text(text)].into_iter().chain(no_answer.map(|value| Evidence::LogLikelihoods(vec![value]))).collect()
                }
            };
            for metric in self.task.file.metrics.iter().filter_map(|name| metric::by_name(name)) {
                let score = metric.score(&Resources::default(), &reference, &evidence);
                scored.insert(format!("{},{}", metric.name(), self.filter(reading)), score);
            }
        }
        scored
    }

    fn number<'s>(&self, scored: &'s Scored, key: &str) -> Option<(&'static dyn Metric, &'s Score)> {
        Some((metric::by_name(key.split(',').next()?)?, scored.get(key)?))
    }

    /// Numbers and standard errors of the whole, of groups and of subsets.
    pub(super) fn summary_file(
        &self,
        report: &mut Folder,
        source: &Source,
        file: &Map<String, Value>,
        scores: &[Vec<Scored>],
    ) -> Result<(), CertifyError> {
        source.only_keys(file, &["n", "metrics", "groups", "n_per_task", "settings", "produced_with"], None)?;
        let rows: usize = scores.iter().map(Vec::len).sum();
        report.check_value(&source.name, "", "n", source.value_of(file, "n", None)?, &json!(rows));
        for (name, n) in source.object_of(file, "n_per_task", None)? {
            let got = self.parts.iter().position(|part| part.name == *name).map(|at| scores[at].len());
            report.check_value(&source.name, name, "n_per_task", n, &json!(got));
        }
        for group in ["metrics", "groups"] {
            for (name, numbers) in source.object_of(file, group, None)? {
                let numbers = numbers.as_object().ok_or_else(|| source.shape(None, format!("{group}.{name} must be an object")))?;
                for (key, expected) in numbers.iter().filter(|(key, _)| *key != "alias") {
                    let place = format!("{group}.{name}.{key}");
                    let number = self.number_of(name, key, scores);
                    let (value, stderr) = number.ok_or_else(|| source.shape(None, format!("unknown number '{place}'")))?;
                    let field = format!("{group}.{key}");
                    match (key.contains("_stderr,"), expected.as_f64(), stderr) {
                        (false, ..) => report.check_value(&source.name, name, &field, expected, &json!(value)),
                        (true, Some(expected), Some(got)) => {
                            report.check_close(&source.name, name, &field, expected, got, CLOSE * expected.abs());
                        }
                        (true, _, got) => {
                            let got = got.map_or_else(|| json!("N/A"), |got| json!(got));
                            report.check_value(&source.name, name, &field, expected, &got);
                        }
                    }
                }
            }
        }
        let shots = source.value_of(source.object_of(file, "settings", None)?, "num_fewshot", None)?;
        report.check_value(&source.name, "", "settings.num_fewshot", shots, &json!(self.task.file.shots));
        Ok(())
    }

    /// Value and standard error of `key` (`acc,none` or `acc_stderr,none`) of one of the harness's tasks or groups.
    fn number_of(&self, name: &str, key: &str, scores: &[Vec<Scored>]) -> Option<(Option<f64>, Option<f64>)> {
        let key = key.replace("_stderr,", ",");
        let metric = metric::by_name(key.split(',').next()?)?;
        let column = |at: usize| -> Option<Vec<Score>> { scores[at].iter().map(|scored| scored.get(&key).cloned()).collect() };
        let alias = self.task.file.aliases.first()?;
        if self.task.file.whole == Whole::OfDocuments {
            let all: Vec<Score> = (0..scores.len()).map(column).collect::<Option<Vec<_>>>()?.concat();
            return (name == alias).then(|| (harness_number(metric, &all), metric.stderr(&all)));
        }
        let mut paths = Vec::new();
        let mut all = Vec::new();
        for (at, subset) in self.task.file.subset.iter().enumerate() {
            let path = [subset.group.as_str(), &subset.name].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
            let column = column(at)?;
            paths.extend(column.iter().map(|_| path.clone()));
            all.extend(column);
        }
        let paths: Vec<Option<&str>> = paths.iter().map(|path| Some(path.as_str())).collect();
        let (groups, whole) = parts::pooled(metric, &paths, &all);
        let part: Part = match name.strip_prefix(alias.as_str())?.strip_prefix('_') {
            None => whole?,
            Some(part) => groups.iter().find(|(path, _)| path.rsplit('/').next() == Some(part)).map(|(_, part)| *part)?,
        };
        Some((Some(part.value), part.stderr))
    }
}

/// The number as the harness prints it: SQuAD's as percentages, and 0 where it counts no question.
fn harness_number(metric: &dyn Metric, scores: &[Score]) -> Option<f64> {
    match Squad::ALL.iter().find(|squad| squad.name() == metric.name()) {
        Some(squad) => Some(squad.percent(scores).unwrap_or(0.0)),
        None => metric.aggregate(scores),
    }
}
