//! Everything a number of a run depends on, for people: who answered, under which protocol, on which machine, for how long; signatures,
//! warnings and the parts of benchmarks.

use super::Subject;
use crate::report::table::{Cell, Mark};
use crate::results::{
    recorded::Recorded,
    scores::GroupScore,
    spec::{Limit, RunSpec, Session},
};
use serde::Serialize;

/// The facts of one run.
#[derive(Debug, Serialize)]
pub(super) struct Facts {
    run: String,
    model: String,
    /// Name and value.
    lines: Vec<(&'static str, String)>,
    /// Title and signature.
    signatures: Vec<(String, String)>,
    /// Title and sentence.
    warnings: Vec<(String, String)>,
    /// Title, part, number, documents.
    groups: Vec<(String, String, String, u64)>,
    withheld: Option<String>,
}

impl Facts {
    pub(super) fn of(recorded: &Subject) -> Facts {
        let Recorded { run, spec, scores, .. } = &recorded.recorded;
        let tasks = &scores.tasks;
        let group = |title: &str, group: &GroupScore| {
            let value = group.value.map_or_else(|| "–".to_owned(), |value| Cell::score(value, Mark::None).shown());
            (title.to_owned(), group.path.clone(), value, group.n)
        };
        Facts {
            run: run.clone(),
            model: scores.model.clone(),
            lines: engine(spec).into_iter().chain(protocol(spec, recorded)).chain(circumstances(spec)).collect(),
            signatures: tasks.iter().filter(|t| !t.signature.is_empty()).map(|t| (t.title.clone(), t.signature.clone())).collect(),
            warnings: tasks.iter().flat_map(|t| t.warnings.iter().map(|w| (t.title.clone(), w.clone()))).collect(),
            groups: tasks.iter().flat_map(|t| t.groups.iter().map(|g| group(&t.title, g))).collect(),
            withheld: scores.average_withheld.clone(),
        }
    }
}

fn engine(spec: &RunSpec) -> Vec<(&'static str, String)> {
    let identity = &spec.engine;
    let known = [
        ("engine", Some(identity.short())),
        ("hardware", identity.hardware.clone()),
        ("tensor parallel", identity.tensor_parallel_size.map(|size| size.to_string())),
        ("data parallel", identity.data_parallel_size.map(|size| size.to_string())),
        ("revision", identity.revision.clone()),
        ("weights", identity.weights_sha256.clone()),
        ("tokenizer", identity.tokenizer_sha256.clone()),
        ("server", identity.capabilities.as_ref().map(ToString::to_string)),
    ];
    known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn protocol(spec: &RunSpec, recorded: &Subject) -> Vec<(&'static str, String)> {
    let limit = spec.limit.map(|limit| match limit {
        Limit::Count(n) => n.to_string(),
        Limit::Fraction(part) => part.to_string(),
    });
    let seeds: Vec<String> = spec.seeds.iter().map(|(what, seed)| format!("{what} {seed}")).collect();
    let chosen: Vec<&str> = spec.samples.keys().map(String::as_str).collect();
    let known = [
        ("protocol", Some(format!("{}, suite {}", spec.protocol, spec.suite))),
        ("held against", recorded.published.as_ref().map(|row| format!("{} (published)", row.model))),
        ("upstream defects", Some(spec.defects.to_string())),
        ("limit", limit),
        ("chosen documents of", (!chosen.is_empty()).then(|| chosen.join(", "))),
        ("shard", spec.shard.map(|shard| format!("{} of {}", shard.index, shard.count))),
        ("seeds", (!seeds.is_empty()).then(|| seeds.join(", "))),
    ];
    known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn circumstances(spec: &RunSpec) -> Vec<(&'static str, String)> {
    let machine = &spec.machine;
    let cpu = machine.cpu.clone().unwrap_or_else(|| machine.arch.clone());
    let threads = machine.threads.map(|n| format!(", {n} threads")).unwrap_or_default();
    let memory = machine.memory_kib.map(|kib| format!(", {:.1} GiB", kib as f64 / f64::from(1 << 20))).unwrap_or_default();
    let mut lines = vec![
        ("program", format!("swallow-eval {} ({})", spec.tool.version, spec.tool.commit)),
        ("machine", format!("{}, {cpu}{threads}{memory}", machine.os)),
        ("command", format!("swallow-eval {}", spec.command.arguments().join(" "))),
    ];
    lines.extend(spec.timing.sessions.iter().map(|s| ("session", session(s))));
    lines
}

fn session(session: &Session) -> String {
    let seconds = session.seconds.map_or_else(|| "not ended by itself".to_owned(), |s| format!("{s:.1} s"));
    let rate = |rate: Option<f64>, what| rate.map(|rate| format!(", {what} {rate:.0} tokens/s")).unwrap_or_default();
    let (prefill, decode) = (rate(session.prefill_tokens_per_second, "prefill"), rate(session.decode_tokens_per_second, "decode"));
    format!("{}: {seconds}, {} answers{prefill}{decode}", session.started, session.answered)
}
