//! Vectors of the functions that the English tasks rest on: random draws, filters, comparisons, text clean-up, aggregation.

use crate::answer;
use crate::certify::report::Folder;
use crate::certify::source::{CertifyError, Row, Source, entries};
use crate::metric::{
    self, Evidence, Reference, Resources,
    aggregate::{self, Part},
    squad,
};
use crate::prompt::pyrandom::PyRandom;
use crate::task::{Task, load};
use crate::text::{python, wikihow};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;

/// Folder, beside those of the tasks.
pub const UNITS: &str = "units";

/// Relative error of standard errors.
const CLOSE: f64 = 1e-12;

/// Replays the folder.
///
/// # Errors
/// When something in it is not understood.
pub fn folder(path: &Path, tasks: &[Task]) -> Result<Folder, CertifyError> {
    let mut report = Folder::new("");
    for name in entries(path)? {
        let source = Source::new(path, &name);
        match name.as_str() {
            "rng_sample.json" => draws(&mut report, &source)?,
            "filters.jsonl" => each(&mut report, &source, &|report, row| filter(report, &source, row, tasks))?,
            "exact_match.jsonl" => each(&mut report, &source, &|report, row| exact_match(report, &source, row, tasks))?,
            "hellaswag_text.jsonl" => each(&mut report, &source, &|report, row| clean_up(report, &source, row))?,
            "squad_v2_pairs.jsonl" => each(&mut report, &source, &|report, row| squad_pair(report, &source, row))?,
            "aggregation.jsonl" => each(&mut report, &source, &|report, row| aggregation(report, &source, row))?,
            _ => return Err(CertifyError::UnknownFile { path: path.join(name), kind: "en-harness/units".into() }),
        }
    }
    Ok(report)
}

type Compare<'c> = &'c dyn Fn(&mut Folder, &Row) -> Result<(), CertifyError>;

fn each(report: &mut Folder, source: &Source, compare: Compare<'_>) -> Result<(), CertifyError> {
    for row in source.rows()? {
        report.rows += 1;
        compare(report, &row)?;
    }
    Ok(())
}

/// The task that a vector names by its short name.
fn task<'t>(source: &Source, row: &Row, tasks: &'t [Task], name: &str) -> Result<&'t Task, CertifyError> {
    load::find(tasks, name).map_err(|_| source.shape(Some(row.line), format!("'{name}' is no task")))
}

fn filter(report: &mut Folder, source: &Source, row: &Row, tasks: &[Task]) -> Result<(), CertifyError> {
    let line = Some(row.line);
    source.only_keys(&row.fields, &["filter", "text", "out"], line)?;
    let name = source.text_of(&row.fields, "filter", line)?;
    let unknown = || source.shape(line, format!("unknown filter '{name}'"));
    let (of_task, filter) = name.split_once(' ').ok_or_else(unknown)?;
    let task = task(source, row, tasks, of_task)?;
    let readings = answer::readings(task);
    let found = readings.iter().find(|(reading, _)| reading.or(task.file.filter.as_deref()) == Some(filter));
    let got = answer::steps::apply(found.ok_or_else(unknown)?.1, source.text_of(&row.fields, "text", line)?);
    report.check_text(&source.name, &row.id, &format!("out ({name})"), source.text_of(&row.fields, "out", line)?, &got);
    Ok(())
}

fn exact_match(report: &mut Folder, source: &Source, row: &Row, tasks: &[Task]) -> Result<(), CertifyError> {
    let line = Some(row.line);
    source.only_keys(&row.fields, &["kind", "reference", "prediction", "exact_match"], line)?;
    let kind = source.text_of(&row.fields, "kind", line)?;
    let task = task(source, row, tasks, kind)?;
    let golds: Vec<&str> = match source.value_of(&row.fields, "reference", line)? {
        Value::Array(golds) => golds.iter().filter_map(Value::as_str).collect(),
        gold => gold.as_str().into_iter().collect(),
    };
    let reference = Reference::of(golds.iter().map(|gold| answer::comparable(task, gold)));
    let prediction = answer::comparable(task, source.text_of(&row.fields, "prediction", line)?);
    let metric = metric::by_name("exact_match").expect("it is in the table");
    let got = metric.score(&Resources::default(), &reference, &[Evidence::Text(prediction)]).value;
    let expected = source.value_of(&row.fields, "exact_match", line)?;
    report.check_value(&source.name, &row.id, &format!("exact_match ({kind})"), expected, &json!(got));
    Ok(())
}

fn clean_up(report: &mut Folder, source: &Source, row: &Row) -> Result<(), CertifyError> {
    let line = Some(row.line);
    source.only_keys(&row.fields, &["fn", "text", "out"], line)?;
    let text = source.text_of(&row.fields, "text", line)?;
    let name = source.text_of(&row.fields, "fn", line)?;
    let got = match name {
        "preprocess" => wikihow::without_marks(text),
        "capitalize" => python::capitalize(text),
        _ => return Err(source.shape(line, format!("unknown function '{name}'"))),
    };
    report.check_text(&source.name, &row.id, &format!("out ({name})"), source.text_of(&row.fields, "out", line)?, &got);
    Ok(())
}

fn squad_pair(report: &mut Folder, source: &Source, row: &Row) -> Result<(), CertifyError> {
    let line = Some(row.line);
    source.only_keys(&row.fields, &["gold", "pred", "norm_gold", "norm_pred", "exact", "f1"], line)?;
    let (gold, answer) = (source.text_of(&row.fields, "gold", line)?, source.text_of(&row.fields, "pred", line)?);
    for (key, text) in [("norm_gold", gold), ("norm_pred", answer)] {
        report.check_text(&source.name, &row.id, key, source.text_of(&row.fields, key, line)?, &squad::normalized(text));
    }
    for (key, of) in [("exact", squad::Of::Exact), ("f1", squad::Of::F1)] {
        report.check_value(&source.name, &row.id, key, source.value_of(&row.fields, key, line)?, &json!(of.pair(gold, answer)));
    }
    Ok(())
}

fn aggregation(report: &mut Folder, source: &Source, row: &Row) -> Result<(), CertifyError> {
    let line = Some(row.line);
    let name = source.text_of(&row.fields, "fn", line)?;
    let (value_key, value, stderr) = if name == "group" {
        source.only_keys(&row.fields, &["fn", "metrics", "stderrs", "sizes", "metric", "stderr"], line)?;
        let [values, errors, sizes] = ["metrics", "stderrs", "sizes"].map(|key| numbers(source, row, key));
        let parts: Vec<Part> = values?
            .into_iter()
            .zip(errors?)
            .zip(sizes?)
            .map(|((value, stderr), n)| Part { value, stderr: Some(stderr), n: n as u64 })
            .collect();
        let whole = Part::pooled(&parts);
        ("metric", whole.map(|whole| whole.value), whole.and_then(|whole| whole.stderr))
    } else {
        source.only_keys(&row.fields, &["fn", "items", "mean", "stderr"], line)?;
        let items = numbers(source, row, "items")?;
        ("mean", aggregate::exact_mean(items.iter().copied()), aggregate::standard_error(&items))
    };
    report.check_value(
        &source.name,
        &row.id,
        &format!("{value_key} ({name})"),
        source.value_of(&row.fields, value_key, line)?,
        &json!(value),
    );
    let field = format!("stderr ({name})");
    match (source.value_of(&row.fields, "stderr", line)?, stderr) {
        (Value::Number(expected), Some(got)) => {
            let expected = expected.as_f64().unwrap_or(f64::NAN);
            report.check_close(&source.name, &row.id, &field, expected, got, CLOSE * expected.abs());
        }
        (expected, got) => report.check_value(&source.name, &row.id, &field, expected, &got.map_or_else(|| json!("N/A"), |got| json!(got))),
    }
    Ok(())
}

fn numbers(source: &Source, row: &Row, key: &str) -> Result<Vec<f64>, CertifyError> {
    let values = source.array_of(&row.fields, key, Some(row.line))?.iter().map(Value::as_f64).collect::<Option<_>>();
    values.ok_or_else(|| source.shape(Some(row.line), format!("'{key}' must be numbers")))
}

/// `random.Random(seed)`: raw outputs, and the draws over pools of the real sizes.
fn draws(report: &mut Folder, source: &Source) -> Result<(), CertifyError> {
    let file = source.object()?;
    let known = ["seed", "first_getrandbits32", "cases", "mixed_getrandbits", "xwinograd_en_docs_whose_draw_contains_themselves"];
    source.only_keys(&file, &known, None)?;
    let seed = source.value_of(&file, "seed", None)?.as_u64().ok_or_else(|| source.shape(None, "'seed' must be a whole number"))?;
    report.rows += 1;
    for (key, expected) in file.iter().filter(|(key, _)| ["first_getrandbits32", "mixed_getrandbits"].contains(&key.as_str())) {
        let expected = expected.as_array().ok_or_else(|| source.shape(None, format!("'{key}' must be a list")))?;
        // Each list is the beginning of a generator of its own.
        let mut random = PyRandom::seeded(seed);
        let got: Vec<Value> = expected
            .iter()
            .map(|entry| match entry.get(0).and_then(Value::as_u64) {
                Some(bits) => json!([bits, random.getrandbits(u32::try_from(bits).unwrap_or(0).min(64))]),
                None => json!(random.getrandbits(32)),
            })
            .collect();
        report.check_value(&source.name, "", key, &json!(expected), &json!(got));
    }
    for case in source.array_of(&file, "cases", None)? {
        let case = case.as_object().ok_or_else(|| source.shape(None, "a case must be an object"))?;
        draw_case(report, source, &file, case, seed)?;
    }
    Ok(())
}

/// One pool: the first draws, the last, a digest of all, and for a pool that is asked itself, which documents draw themselves.
fn draw_case(
    report: &mut Folder,
    source: &Source,
    file: &Map<String, Value>,
    case: &Map<String, Value>,
    seed: u64,
) -> Result<(), CertifyError> {
    source.only_keys(case, &["name", "n", "k", "docs", "first", "last", "sha256_of_lines"], None)?;
    let size = |key: &str| {
        let value = source.value_of(case, key, None)?.as_u64().filter(|n| *n < 1 << 24);
        value.map(|n| n as usize).ok_or_else(|| source.shape(None, format!("'{key}' must be a whole number")))
    };
    let (n, k, documents) = (size("n")?, size("k")?, size("docs")?);
    if k > n {
        return Err(source.shape(None, format!("{k} of {n} cannot be drawn")));
    }
    let name = source.text_of(case, "name", None)?;
    let mut random = PyRandom::seeded(seed);
    let draws: Vec<Vec<usize>> = (0..documents).map(|_| random.sample_indices(n, k)).collect();
    report.rows += 1;
    for (key, from_end) in [("first", false), ("last", true)] {
        let expected = source.array_of(case, key, None)?;
        let len = expected.len().min(draws.len());
        let got = if from_end { &draws[draws.len() - len..] } else { &draws[..len] };
        report.check_value(&source.name, name, key, &json!(expected), &json!(got));
    }
    let lines: String = draws.iter().map(|draw| draw.iter().map(usize::to_string).collect::<Vec<_>>().join(",") + "\n").collect();
    let digest: String = Sha256::digest(lines).iter().map(|b| format!("{b:02x}")).collect();
    report.check_text(&source.name, name, "sha256_of_lines", source.text_of(case, "sha256_of_lines", None)?, &digest);
    const THEMSELVES: &str = "xwinograd_en_docs_whose_draw_contains_themselves";
    if name == "xwinograd_en test"
        && let Some(expected) = file.get(THEMSELVES)
    {
        let got: Vec<usize> = (0..documents).filter(|at| draws[*at].contains(at)).collect();
        report.check_value(&source.name, name, THEMSELVES, expected, &json!(got));
    }
    Ok(())
}
