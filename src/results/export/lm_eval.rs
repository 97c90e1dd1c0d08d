//! The result files of lm-evaluation-harness 0.4.13: `<model>/results_<date>.json` and a `samples_<task>_<date>.jsonl` a task.
//!
//! Keys, their order and the hashes are that program's (its `loggers/evaluation_tracker.py`); what it would know and a run of ours does not is
//! `null` or `N/A`, and the key `swallow_eval` holds what it has no place for. The document's own fields are not part of a run: `doc` has its id,
//! group and references.
//!
//! A number is in its harness's unit (SQuAD, ROUGE and BLEU in percent) and stands under the filter that read the answer; a document has a
//! line a filter.

use super::ExportFile;
use crate::engine::{ContinuationScore, Output, RequestKind};
use crate::metric::{self, aggregate};
use crate::results::{recorded::Recorded, requests::PlannedRequest, samples::Sample, scores::TaskScore};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Standard errors in half the width of a 95 % interval.
const HALF_WIDTH: f64 = 1.959_963_984_540_054;

/// Name of the filter where a task names none.
const FILTER: &str = "none";

/// A number's name there, `METRIC` and filter, and what it is multiplied by. Ours is `METRIC`, or `METRIC,READING` for another reading.
struct Place<'n> {
    metric: &'n str,
    filter: &'n str,
    in_full: f64,
}

impl<'n> Place<'n> {
    /// `of_headline` is the filter of numbers that name none.
    fn of(number: &'n str, of_headline: &'n str) -> Self {
        let (metric, filter) = number.split_once(',').unwrap_or((number, of_headline));
        Place { metric, filter, in_full: metric::by_name(metric).map_or(1.0, |metric| metric.in_full()) }
    }
}

/// The filter of a task's headline.
fn headline_filter<'r>(run: &'r Recorded, task: &str) -> &'r str {
    let scored = run.scores.tasks.iter().find(|scored| scored.task == task);
    scored.and_then(|scored| scored.filter.as_deref()).unwrap_or(FILTER)
}

/// All files of a run, below the output folder.
pub fn files(run: &Recorded) -> Vec<ExportFile> {
    let model = sanitized(&run.scores.model);
    let date = date(run);
    let samples = samples(run);
    let hashes: Map<String, Value> = samples.iter().map(|(task, lines)| ((*task).to_owned(), json!(task_hash(lines)))).collect();
    let results = ExportFile { path: format!("{model}/results_{date}.json"), text: format!("{:#}", results(run, &model, hashes)) };
    let logged = samples.iter().map(|(task, lines)| ExportFile {
        path: format!("{model}/samples_{task}_{date}.jsonl"),
        text: lines.iter().map(|line| format!("{line}\n")).collect(),
    });
    std::iter::once(results).chain(logged).collect()
}

/// A model's name as a folder: every run of characters that some file system refuses becomes two underscores.
pub fn sanitized(model: &str) -> String {
    let mut name = String::new();
    let mut refused = false;
    for character in model.chars() {
        let refuses = matches!(character, '"' | '<' | '>' | ':' | '/' | '|' | '\\' | '?' | '*' | '[' | ']');
        match (refuses, refused) {
            (true, false) => name.push_str("__"),
            (false, _) => name.push(character),
            (true, true) => {}
        }
        refused = refuses;
    }
    name
}

/// SHA-256 of a document as Python's `json.dumps(indent=2, ensure_ascii=False)` writes it, hexadecimal.
pub fn doc_hash(doc: &Value) -> String {
    sha256(&format!("{doc:#}"))
}

/// SHA-256 over the hashes of all lines of a samples file, in their order, hexadecimal.
pub fn task_hash(lines: &[Value]) -> String {
    let part = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let all: String = lines.iter().flat_map(|line| ["doc_hash", "prompt_hash", "target_hash"].map(|name| part(line, name))).collect();
    sha256(&all)
}

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect()
}

/// When the run began, as that program names its files. UTC.
fn date(run: &Recorded) -> String {
    let started = run.spec.timing.sessions.first().map_or("1970-01-01T00:00:00Z", |session| session.started.as_str());
    format!("{}.000000", started.trim_end_matches('Z').replace(':', "-"))
}

/// The lines of each task with samples, in the order of the run.
fn samples(run: &Recorded) -> Vec<(&str, Vec<Value>)> {
    let key = |planned: &PlannedRequest| (planned.task.clone(), planned.doc_id.clone());
    let asked: BTreeMap<(String, String), &[PlannedRequest]> =
        run.requests.chunk_by(|a, b| key(a) == key(b)).map(|asked| (key(&asked[0]), asked)).collect();
    let of_filter = |filter: &str, samples: &[Sample]| -> Vec<Value> {
        let line = |(number, sample): (usize, &Sample)| {
            let asked = asked.get(&(sample.task.clone(), sample.doc_id.clone())).copied().unwrap_or_default();
            sample_line(run, number, sample, asked, filter)
        };
        samples.iter().enumerate().map(line).collect()
    };
    let of_task = |samples: &[Sample]| {
        let of_headline = headline_filter(run, &samples[0].task);
        let others: BTreeSet<&str> = samples.iter().flat_map(|sample| sample.readings.keys().map(String::as_str)).collect();
        [of_headline].into_iter().chain(others).flat_map(|filter| of_filter(filter, samples)).collect()
    };
    run.samples.chunk_by(|a, b| a.task == b.task).map(|samples| (samples[0].task.as_str(), of_task(samples))).collect()
}

fn sample_line(run: &Recorded, number: usize, sample: &Sample, asked: &[PlannedRequest], filter: &str) -> Value {
    let mut doc = Map::from_iter([("id".to_owned(), json!(sample.doc_id))]);
    doc.extend(sample.group.iter().map(|group| ("group".to_owned(), json!(group))));
    doc.insert("references".to_owned(), json!(sample.reference));
    let doc = Value::Object(doc);
    let target = sample.reference.first().map_or("", String::as_str);
    let arguments: Vec<(String, Value)> = asked.iter().flat_map(|planned| arguments(&planned.request.kind)).collect();
    let prompt = arguments.first().map_or("", |(prompt, _)| prompt.as_str());
    let (doc_hash, prompt_hash, target_hash) = (doc_hash(&doc), sha256(prompt), sha256(target));
    let numbered = arguments.iter().enumerate();
    let arguments: Map<String, Value> =
        numbered.map(|(i, (prompt, with))| (format!("gen_args_{i}"), json!({ "arg_0": prompt, "arg_1": with }))).collect();
    let responses: Vec<Value> = asked.iter().flat_map(|planned| responses(run, planned)).collect();
    let filtered = match sample.readings.get(filter).or(sample.answer.as_ref()) {
        Some(answer) => vec![json!(answer)],
        None => responses.iter().filter_map(|response| response.get(0).cloned()).collect(),
    };
    let of_headline = headline_filter(run, &sample.task);
    let numbers = sample.scores.iter().map(|(number, score)| (Place::of(number, of_headline), score));
    let numbers: Vec<(&str, f64)> =
        numbers.filter(|(place, _)| place.filter == filter).map(|(place, score)| (place.metric, score * place.in_full)).collect();
    let metrics: Vec<&str> = numbers.iter().map(|(metric, _)| *metric).collect();
    let mut line = json!({
        "doc_id": number,
        "doc": doc,
        "target": target,
        "arguments": arguments,
        "resps": responses,
        "filtered_resps": filtered,
        "filter": filter,
        "metrics": metrics,
        "doc_hash": doc_hash,
        "prompt_hash": prompt_hash,
        "target_hash": target_hash,
    });
    if let Value::Object(fields) = &mut line {
        fields.extend(numbers.iter().map(|(metric, score)| ((*metric).to_owned(), json!(score))));
        fields.extend(sample.failure.iter().map(|why| ("failure".to_owned(), json!(why))));
    }
    line
}

/// A request's prompts, each with what is asked about it: generation settings, or a continuation.
fn arguments(kind: &RequestKind) -> Vec<(String, Value)> {
    let prompt = kind.text().to_owned();
    match kind {
        RequestKind::Generate(_) | RequestKind::Chat(_) => vec![(prompt, generation(kind))],
        RequestKind::LogLikelihood(scored) => scored.continuations.iter().map(|c| (prompt.clone(), json!(c))).collect(),
    }
}

/// Generation settings under that program's names.
fn generation(kind: &RequestKind) -> Value {
    let RequestKind::Generate(generate) = kind else { return json!({}) };
    let temperature = generate.sampling.temperature;
    json!({ "until": generate.stop, "max_gen_toks": generate.max_new_tokens, "do_sample": temperature > 0.0, "temperature": temperature })
}

/// What came back for each argument of a request: one list each, of a text or of log-probability and greediness as text. Empty where nothing
/// came.
fn responses(run: &Recorded, planned: &PlannedRequest) -> Vec<Value> {
    let scored = |one: &ContinuationScore| json!([[json!(one.logprob).to_string(), if one.is_greedy { "True" } else { "False" }]]);
    match run.answers.responses.get(&planned.request.id).map(|response| &response.output) {
        Some(Output::Generated(generated)) => vec![json!([generated.text])],
        Some(Output::LogLikelihoods { continuations }) => continuations.iter().map(scored).collect(),
        Some(Output::Dialogue { turns }) => vec![json!(turns.iter().map(|turn| &turn.answer).collect::<Vec<_>>())],
        None => arguments(&planned.request.kind).iter().map(|_| json!([])).collect(),
    }
}

fn results(run: &Recorded, model: &str, hashes: Map<String, Value>) -> Value {
    let (spec, scores) = (&run.spec, &run.scores);
    let scored: Vec<&TaskScore> = scores.tasks.iter().filter(|task| task.value.is_some()).collect();
    let each = |value: &dyn Fn(&TaskScore) -> Value| -> Map<String, Value> {
        scored.iter().map(|task| (task.task.clone(), value(task))).collect()
    };
    let shots = |task: &TaskScore| json!(spec.tasks.iter().find(|t| t.task == task.task).map(|t| t.shots));
    let mut table = each(&|task| result(run, task));
    let suite = format!("{}_{}", spec.protocol, spec.suite);
    let group = scores.average.map(|average| {
        let n: u64 = scored.iter().map(|task| task.n).sum();
        let row = json!({ "alias": suite, "name": suite, "sample_len": n, "average,none": average, "average_stderr,none": "N/A" });
        Map::from_iter([(suite.clone(), row)])
    });
    table.extend(group.clone().unwrap_or_default());
    let versions: Map<String, Value> = scored.iter().map(|task| (task.task.clone(), json!(spec.protocol))).collect();
    let mut whole = Map::from_iter([("results".to_owned(), json!(table))]);
    whole.extend(group.map(|group| ("groups".to_owned(), json!(group))));
    let rest = json!({
        "group_subtasks": { (suite.clone()): scored.iter().map(|task| &task.task).collect::<Vec<_>>() },
        "configs": each(&|task| config(run, task)),
        "versions": versions,
        "n-shot": each(&shots),
        "higher_is_better": each(&|task| json!(metric_names(task).into_iter().map(|name| (name.to_owned(), json!(true))).collect::<Map<_, _>>())),
        "n-samples": each(&|task| json!({ "original": task.documents_in_full.unwrap_or(task.n), "effective": task.n })),
    });
    if let Value::Object(rest) = rest {
        whole.extend(rest);
    }
    if let Value::Object(rest) = circumstances(run, model, hashes) {
        whole.extend(rest);
    }
    Value::Object(whole)
}

/// Metrics of a task with their values, the headline first.
fn metrics(task: &TaskScore) -> impl Iterator<Item = (&str, f64)> {
    let headline = task.value.map(|value| (task.metric.as_str(), value));
    headline.into_iter().chain(task.others.iter().map(|(name, value)| (name.as_str(), *value)))
}

/// The metrics of a task, each once whatever readings it has, the headline first.
fn metric_names(task: &TaskScore) -> Vec<&str> {
    let mut names = Vec::new();
    for (number, _) in metrics(task) {
        let name = Place::of(number, FILTER).metric;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// A row of `results`. A standard error is given where the number is the mean of the documents' scores.
fn result(run: &Recorded, task: &TaskScore) -> Value {
    let mut row = Map::from_iter([
        ("name".to_owned(), json!(task.task)),
        ("alias".to_owned(), json!(task.task)),
        ("sample_len".to_owned(), json!(task.n)),
    ]);
    for (metric, value) in metrics(task) {
        let of_task = run.samples.iter().filter(|sample| sample.task == task.task);
        let scores: Vec<f64> = of_task.filter_map(|sample| sample.scores.get(metric).copied()).collect();
        let is_mean = aggregate::exact_mean(scores.iter().copied()).is_some_and(|mean| (mean - value).abs() < 1e-9);
        let error = aggregate::half_width_95(&scores).filter(|_| is_mean).map(|half| half / HALF_WIDTH);
        let Place { metric: name, filter, in_full } = Place::of(metric, task.filter.as_deref().unwrap_or(FILTER));
        let error = task.stderr.filter(|_| metric == task.metric).or(error);
        row.insert(format!("{name},{filter}"), json!(value * in_full));
        row.insert(format!("{name}_stderr,{filter}"), error.map_or_else(|| json!("N/A"), |error| json!(error * in_full)));
    }
    Value::Object(row)
}

/// The task as it was asked, under that program's names.
fn config(run: &Recorded, task: &TaskScore) -> Value {
    let spec = run.spec.tasks.iter().find(|spec| spec.task == task.task);
    let kind = run.requests.iter().find(|planned| planned.task == task.task).map(|planned| &planned.request.kind);
    let output_type = match kind {
        Some(RequestKind::LogLikelihood(_)) => "multiple_choice",
        _ => "generate_until",
    };
    let list: Vec<Value> = metric_names(task).into_iter().map(|name| json!({ "metric": name, "higher_is_better": true })).collect();
    json!({
        "task": task.task,
        "task_alias": task.title,
        "num_fewshot": spec.map(|spec| spec.shots),
        "metric_list": list,
        "output_type": output_type,
        "generation_kwargs": kind.map(generation),
        "repeats": 1,
        "should_decontaminate": false,
        "unsafe_code": false,
        "metadata": {
            "version": run.spec.protocol,
            "signature": task.signature,
            "task_sha256": spec.map(|spec| &spec.task_sha256),
            "data_sha256": spec.map(|spec| &spec.data_sha256),
            "overrides": spec.map(|spec| &spec.overrides),
        },
    })
}

/// Everything after the numbers.
fn circumstances(run: &Recorded, model: &str, hashes: Map<String, Value>) -> Value {
    let (spec, engine) = (&run.spec, &run.spec.engine);
    let source = if engine.engine == "endpoint" { "local-completions".to_owned() } else { format!("swallow-eval-{}", engine.engine) };
    let session = spec.timing.sessions.first();
    let seconds: f64 = spec.timing.sessions.iter().filter_map(|session| session.seconds).sum();
    let machine = &spec.machine;
    json!({
        "config": {
            "model": source,
            "model_args": { "model": engine.model, "revision": engine.revision },
            "model_dtype": engine.dtype,
            "model_revision": engine.revision,
            "model_sha": engine.weights_sha256,
            "batch_size": null,
            "batch_sizes": [],
            "device": engine.device,
            "use_cache": null,
            "limit": spec.limit,
            "bootstrap_iters": 0,
            "gen_kwargs": {},
            "random_seed": null,
            "numpy_seed": null,
            "torch_seed": null,
            "fewshot_seed": null,
        },
        "git_hash": spec.tool.commit,
        "date": session.and_then(|session| unix_seconds(&session.started)),
        "pretty_env_info": format!("{} {} {}", machine.os, machine.arch, machine.cpu.as_deref().unwrap_or_default()).trim_end(),
        "transformers_version": "N/A",
        "lm_eval_version": format!("N/A (swallow-eval {})", spec.tool.version),
        "upper_git_hash": null,
        "task_hashes": hashes,
        "model_source": source,
        "model_name": run.scores.model,
        "model_name_sanitized": model,
        "system_instruction": null,
        "system_instruction_sha": null,
        "fewshot_as_multiturn": null,
        "chat_template": null,
        "chat_template_sha": null,
        "total_evaluation_time_seconds": seconds.to_string(),
        "swallow_eval": {
            "protocol": spec.protocol,
            "run": spec.id,
            "demo": spec.demo,
            "defects": spec.defects,
            "engine": engine,
            "scores": run.scores,
        },
    })
}

/// Seconds since 1970 of a time as our clock writes it, `2026-11-24T11:02:03Z`.
fn unix_seconds(time: &str) -> Option<f64> {
    let fields: Vec<i64> = time.trim_end_matches('Z').split(['-', 'T', ':']).map(|field| field.parse().ok()).collect::<Option<_>>()?;
    let &[year, month, day, hour, minute, second] = fields.as_slice() else { return None };
    // Days of the proleptic Gregorian calendar, years counted from March so that the leap day is the last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some((days * 86_400 + hour * 3600 + minute * 60 + second) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_folders() {
        for (model, expected) in [("org/m", "org__m"), ("a:/b??c", "a__b__c"), ("plain-1.5_x", "plain-1.5_x"), ("[x]", "__x__")] {
            assert_eq!(sanitized(model), expected);
        }
    }

    #[test]
    fn times() {
        // `date -u -d TIME +%s`
        for (time, expected) in [
            ("1970-01-01T00:00:00Z", Some(0.0)),
            ("2000-02-29T23:59:59Z", Some(951_868_799.0)),
            ("2026-11-24T11:02:03Z", Some(1_795_518_123.0)),
            ("yesterday", None),
        ] {
            assert_eq!(unix_seconds(time), expected, "{time}");
        }
    }
}
