//! `run.json`: what was run, on what, with what. Everything a number of the run depends on stands here.
//!
//! Clocks and rates stand under `timing` and nowhere else, so that two runs of the same thing differ there only.

use super::command_line::CommandLine;
use crate::engine::{Identity, Stats};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, fmt};

/// Number of the `run.json` format.
pub const FORMAT: u32 = 1;

/// The whole of `run.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Format number, [`FORMAT`].
    pub version: u32,
    /// Name of the run directory.
    pub id: String,
    /// `swallow-202407`.
    pub protocol: String,
    /// `ja`, `en`, `mt-bench`.
    pub suite: String,
    /// Whether this is the bundled samples and the toy model, whose numbers mean nothing.
    pub demo: bool,
    /// The tasks of this run, in the suite's order.
    pub tasks: Vec<TaskSpec>,
    /// Tasks that were to run and could not, with the reason (`--skip-missing`, a demo). Not compared on resume.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<String, String>,
    /// Who answered.
    pub engine: Identity,
    /// Who rates the answers of judged tasks, where one does. Not compared on resume: another judge has a journal of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<Identity>,
    /// How conversations are written (`llama-3`, `model`, a file), where any are held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// What is done about upstream defects.
    pub defects: Defects,
    /// `--limit`, where given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// `--samples`, where given: task to document indices.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub samples: BTreeMap<String, Vec<usize>>,
    /// `--shard`, where given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// Seeds by what they seed (`jemhopqa.shots`).
    #[serde(default)]
    pub seeds: BTreeMap<String, u64>,
    /// Which build wrote this.
    pub tool: Tool,
    /// Where it ran. Not compared on resume.
    pub machine: Machine,
    /// How it was called, without secrets. Not compared on resume.
    pub command: CommandLine,
    /// Clocks, rates and counts of work. Not compared on resume.
    #[serde(default)]
    pub timing: Timing,
}

/// One task of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// Name in the suite.
    pub task: String,
    /// SHA-256 of the task file.
    pub task_sha256: String,
    /// SHA-256 over the data files used.
    pub data_sha256: String,
    /// Number of shots in force.
    pub shots: u32,
    /// Documents asked in this run.
    pub documents: u64,
    /// Documents of the full set.
    pub documents_in_full: u64,
    /// What differs from the task file, by field: `num_fewshot` to `2`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overrides: BTreeMap<String, Value>,
}

/// What is done about defects of the original harness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Defects {
    /// Reproduced: the numbers are the published protocol's.
    #[default]
    Faithful,
    /// Avoided.
    Clean,
}

impl fmt::Display for Defects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Defects::Faithful => "faithful",
            Defects::Clean => "clean",
        })
    }
}

/// How much of each task is asked: a whole number of documents, or a fraction below 1 of them. A plain number in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Limit {
    /// The first so many documents.
    Count(u64),
    /// The first part of the documents, above 0 and below 1.
    Fraction(f64),
}

/// Part `index` (from 1) of `count` parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// From 1.
    pub index: u32,
    /// Number of parts.
    pub count: u32,
}

/// Which build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// Version of the crate.
    pub version: String,
    /// Commit it was built from, or `unknown`: `SWALLOW_EVAL_COMMIT` in the environment of the build.
    pub commit: String,
}

impl Tool {
    /// This build.
    pub fn current() -> Self {
        Tool { version: env!("CARGO_PKG_VERSION").to_owned(), commit: option_env!("SWALLOW_EVAL_COMMIT").unwrap_or("unknown").to_owned() }
    }
}

/// Where a run took place; what a reader of its rates wants to know, and nothing that names the owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// `linux`, `macos`, ...
    pub os: String,
    /// `x86_64`, `aarch64`, ...
    pub arch: String,
    /// Processor model, where the system says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Threads that may run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Main memory in KiB, where the system says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_kib: Option<u64>,
}

impl Machine {
    /// This machine. Where `/proc` is absent, processor model and memory stay unknown.
    pub fn current() -> Self {
        let field = |file: &str, name: &str| {
            let text = std::fs::read_to_string(file).ok()?;
            let line = text.lines().find(|l| l.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        Machine {
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            cpu: field("/proc/cpuinfo", "model name"),
            threads: std::thread::available_parallelism().ok().map(usize::from),
            memory_kib: field("/proc/meminfo", "MemTotal").and_then(|m| m.split(' ').next()?.parse().ok()),
        }
    }
}

/// Clocks, rates and counts of work: one entry for the first start and one for each resume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// In the order they happened.
    pub sessions: Vec<Session>,
}

/// One process that worked on a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Start, UTC, RFC 3339.
    pub started: String,
    /// End of the work, UTC, RFC 3339; absent while it runs and for ever after a kill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// Seconds between the two, by the monotonic clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Requests that got a response in this session.
    #[serde(default)]
    pub answered: u64,
    /// What serving cost.
    #[serde(default)]
    pub stats: Stats,
    /// Prompt tokens a second of prefill steps, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefill_tokens_per_second: Option<f64>,
    /// New tokens a second of decode steps, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode_tokens_per_second: Option<f64>,
}

impl Session {
    /// A session that begins now.
    pub fn begin() -> Self {
        Session { started: super::clock::utc_now(), ..Session::default() }
    }

    /// Ends the session now, `elapsed` after its beginning, with what it did.
    pub fn end(&mut self, elapsed: std::time::Duration, answered: u64, stats: &Stats) {
        let rate = |tokens: u64, seconds: f64| (tokens > 0 && seconds > 0.0).then(|| tokens as f64 / seconds);
        self.finished = Some(super::clock::utc_now());
        self.seconds = Some(elapsed.as_secs_f64());
        self.answered = answered;
        self.prefill_tokens_per_second = rate(stats.prefill_tokens, stats.prefill_seconds);
        self.decode_tokens_per_second = rate(stats.decode_tokens, stats.decode_seconds);
        self.stats = stats.clone();
    }
}

/// Fields of `run.json` that may differ between the run and its resumption.
const NOT_COMPARED: [&str; 6] = ["id", "left_out", "machine", "command", "timing", "judge"];

/// How many differences are worth telling.
const DIFFERENCES_TOLD: usize = 8;

impl RunSpec {
    /// Where this run differs from a recorded one in anything its numbers depend on: one line a field, `engine.dtype: "f32" now, "bf16"
    /// recorded`, the first eight. Empty when answers of the one may stand in the other.
    ///
    /// Compares everything but id, machine, command line and timing.
    pub fn differs_from(&self, recorded: &RunSpec) -> Vec<String> {
        let comparable = |spec: &RunSpec| {
            let mut value = serde_json::to_value(spec).expect("a run spec is plain data with string keys");
            if let Value::Object(fields) = &mut value {
                fields.retain(|name, _| !NOT_COMPARED.contains(&name.as_str()));
            }
            // Of an endpoint only what it is must agree: measured properties (repeatability on a busy GPU) may differ from day to day.
            if let Some(Value::Object(found)) = value.pointer_mut("/engine/capabilities") {
                found.retain(|name, _| matches!(name.as_str(), "kind" | "version"));
            }
            // How many whole models answer is the company of requests in a batch, which every resumption changes.
            if let Some(Value::Object(engine)) = value.get_mut("engine") {
                engine.remove("data_parallel_size");
            }
            value
        };
        let mut differences = Vec::new();
        compare("", Some(&comparable(self)), Some(&comparable(recorded)), &mut differences);
        differences.truncate(DIFFERENCES_TOLD);
        differences
    }
}

/// Collects the paths at which two JSON values differ.
fn compare(path: &str, now: Option<&Value>, recorded: Option<&Value>, differences: &mut Vec<String>) {
    match (now, recorded) {
        (now, recorded) if now == recorded => {}
        (Some(Value::Object(now)), Some(Value::Object(recorded))) => {
            for name in names(now, recorded) {
                let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                compare(&path, now.get(name), recorded.get(name), differences);
            }
        }
        (Some(Value::Array(now)), Some(Value::Array(recorded))) if now.len() == recorded.len() => {
            for (i, (now, recorded)) in now.iter().zip(recorded).enumerate() {
                // An element that has a name is named by it: `tasks[jemhopqa].shots`.
                let name = now.get("task").and_then(Value::as_str).map_or_else(|| i.to_string(), str::to_owned);
                compare(&format!("{path}[{name}]"), Some(now), Some(recorded), differences);
            }
        }
        (now, recorded) => differences.push(format!("{path}: {} now, {} recorded", shown(now), shown(recorded))),
    }
}

fn names<'v>(a: &'v Map<String, Value>, b: &'v Map<String, Value>) -> impl Iterator<Item = &'v str> {
    a.keys().map(String::as_str).chain(b.keys().filter(|k| !a.contains_key(*k)).map(String::as_str))
}

/// A value short enough for a message; lists of tasks by their names.
fn shown(value: Option<&Value>) -> String {
    const LONGEST: usize = 80;
    let text = match value {
        None => return "nothing".to_owned(),
        Some(Value::Array(items)) if items.iter().any(|i| i.get("task").is_some()) => {
            items.iter().filter_map(|i| i.get("task")?.as_str()).collect::<Vec<_>>().join(",")
        }
        Some(value) => value.to_string(),
    };
    if text.chars().count() <= LONGEST { text } else { text.chars().take(LONGEST).chain(['…']).collect() }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A spec of two tasks.
    pub(crate) fn sample_spec() -> RunSpec {
        let task = |task: &str| TaskSpec {
            task: task.to_owned(),
            task_sha256: "3fa9c1".repeat(10),
            data_sha256: "77b0e2".repeat(10),
            shots: 4,
            documents: 40,
            documents_in_full: 120,
            overrides: BTreeMap::new(),
        };
        RunSpec {
            version: FORMAT,
            id: "one".into(),
            protocol: "swallow-202407".into(),
            suite: "ja".into(),
            demo: false,
            tasks: vec![task("jemhopqa"), task("niilc")],
            left_out: BTreeMap::new(),
            engine: Identity { engine: "llama".into(), model: "m".into(), dtype: Some("f32".into()), ..Identity::default() },
            judge: None,
            chat_template: None,
            defects: Defects::Faithful,
            limit: Some(Limit::Count(40)),
            samples: BTreeMap::new(),
            shard: None,
            seeds: BTreeMap::from([("jemhopqa.shots".to_owned(), 42)]),
            tool: Tool::current(),
            machine: Machine::current(),
            command: CommandLine::redacted(["run".to_owned()]),
            timing: Timing::default(),
        }
    }

    #[test]
    fn round_trips() {
        let spec = sample_spec();
        let text = serde_json::to_string(&spec).expect("plain data");
        assert_eq!(serde_json::from_str::<RunSpec>(&text).expect("just written"), spec);
        assert!(text.contains(r#""limit":40"#), "{text}");
        for limit in [Limit::Count(1), Limit::Fraction(0.25)] {
            let text = serde_json::to_string(&limit).expect("a number");
            assert_eq!(serde_json::from_str::<Limit>(&text).expect("just written"), limit);
        }
    }

    #[test]
    fn what_cannot_change_a_number_is_not_compared() {
        let (recorded, mut now) = (sample_spec(), sample_spec());
        now.id = "two".into();
        now.machine.cpu = Some("another".into());
        now.engine.data_parallel_size = Some(2);
        now.command = CommandLine::redacted(["run".to_owned(), "--resume".to_owned()]);
        now.timing.sessions.push(Session::begin());
        assert_eq!(now.differs_from(&recorded), Vec::<String>::new());
    }

    #[test]
    fn an_endpoint_must_be_of_the_same_kind_and_version() {
        let with = |text: &str| {
            let mut spec = sample_spec();
            spec.engine.capabilities = Some(serde_json::from_str(text).expect("JSON"));
            spec
        };
        let recorded = with(r#"{"kind":"vllm","version":"1","greedy":"yes"}"#);
        assert_eq!(with(r#"{"kind":"vllm","version":"1","greedy":"no"}"#).differs_from(&recorded), Vec::<String>::new());
        let other = with(r#"{"kind":"vllm","version":"2","greedy":"yes"}"#).differs_from(&recorded);
        assert_eq!(other, [r#"engine.capabilities.version: "2" now, "1" recorded"#]);
    }

    #[test]
    fn differences_name_field_and_both_values() {
        type Change = fn(&mut RunSpec);
        let cases: [(Change, &str); 8] = [
            (|s| s.engine.dtype = Some("bf16".into()), r#"engine.dtype: "bf16" now, "f32" recorded"#),
            (|s| s.engine.dtype = None, r#"engine.dtype: nothing now, "f32" recorded"#),
            (|s| s.engine.tensor_parallel_size = Some(2), "engine.tensor_parallel_size: 2 now, nothing recorded"),
            (|s| s.tasks[1].shots = 2, "tasks[niilc].shots: 2 now, 4 recorded"),
            (|s| drop(s.tasks.pop()), "tasks: jemhopqa now, jemhopqa,niilc recorded"),
            (|s| s.limit = None, "limit: nothing now, 40 recorded"),
            (|s| s.shard = Some(Shard { index: 1, count: 2 }), r#"shard: {"index":1,"count":2} now, nothing recorded"#),
            (|s| s.engine.model = "x".repeat(200), &format!("engine.model: \"{}… now, \"m\" recorded", "x".repeat(79))),
        ];
        for (change, expected) in cases {
            let mut now = sample_spec();
            change(&mut now);
            assert_eq!(now.differs_from(&sample_spec()), [expected]);
        }
    }
}
