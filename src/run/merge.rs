//! Shards into one run: the requests in protocol order, every journal, the sessions of all. Scoring it is `rescore`'s.

use crate::results::{
    ResultsError,
    command_line::CommandLine,
    requests::PlannedRequest,
    run_dir::{RunDir, RunWriter},
    spec::{RunSpec, Shard, Timing},
};
use std::{collections::BTreeMap, fs, path::Path};

/// Why runs do not make one run. Always exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// Not made with `--shard`.
    #[error("{run} is no shard: it was not run with --shard")]
    NotAShard {
        /// Its id.
        run: String,
    },
    /// Parts of different runs.
    #[error("{one} and {other} are not shards of one run: {}", differences.join("; "))]
    Differ {
        /// Id of the first shard.
        one: String,
        /// Id of the shard that differs.
        other: String,
        /// One a field.
        differences: Vec<String>,
    },
    /// The same part twice.
    #[error("{one} and {other} are both shard {}/{}", shard.index, shard.count)]
    Twice {
        /// Id of one.
        one: String,
        /// Id of the other.
        other: String,
        /// Which part.
        shard: Shard,
    },
    /// Parts are not there.
    #[error("not all shards are given: {} are missing", missing.join(", "))]
    Missing {
        /// `3/8`.
        missing: Vec<String>,
    },
    /// A file.
    #[error(transparent)]
    Results(#[from] ResultsError),
}

/// Writes a new run under `output` that holds everything of the shards but scores.
///
/// # Errors
/// [`MergeError`]; nothing is written unless the shards are all there and belong together.
pub fn merge(shards: &[RunDir], output: &Path) -> Result<RunWriter, MergeError> {
    let shards = in_order(shards)?;
    let mut spec = whole(&shards);
    let mut by_shard = Vec::new();
    for (dir, ..) in &shards {
        by_shard.push(dir.requests()?);
    }
    let requests = interleave(&spec, &by_shard);
    let writer = RunDir::create(output, None)?;
    spec.id = writer.dir().id();
    writer.write_requests(&requests)?;
    writer.write_spec(&spec)?;
    let (mut journal, _) = writer.journal()?;
    for (dir, ..) in &shards {
        for outcome in &dir.responses()?.outcomes {
            journal.append(outcome)?;
        }
        if let Some(tokenizer) = dir.tokenizer() {
            copy_tokenizer(&tokenizer, &writer)?;
        }
    }
    journal.sync()?;
    Ok(writer)
}

/// The shards by their number, once it is sure that they are all of one run.
fn in_order(shards: &[RunDir]) -> Result<Vec<(RunDir, RunSpec, Shard)>, MergeError> {
    let mut parts: BTreeMap<u32, (RunDir, RunSpec, Shard)> = BTreeMap::new();
    for dir in shards {
        let spec = dir.spec()?;
        let shard = spec.shard.ok_or_else(|| MergeError::NotAShard { run: dir.id() })?;
        if let Some((first, of_first, _)) = parts.values().next() {
            let differences = comparable(&spec, shard).differs_from(&comparable(of_first, shard));
            let counts = (shard.count, of_first.shard.map_or(0, |s| s.count));
            if !differences.is_empty() || counts.0 != counts.1 {
                let counted = (counts.0 != counts.1).then(|| format!("shards of {} and of {}", counts.1, counts.0));
                let differences = differences.into_iter().chain(counted).collect();
                return Err(MergeError::Differ { one: first.id(), other: dir.id(), differences });
            }
        }
        if let Some((known, ..)) = parts.insert(shard.index, (dir.clone(), spec, shard)) {
            return Err(MergeError::Twice { one: known.id(), other: dir.id(), shard });
        }
    }
    let count = parts.values().next().map_or(0, |(.., shard)| shard.count);
    let missing: Vec<String> = (1..=count).filter(|i| !parts.contains_key(i)).map(|i| format!("{i}/{count}")).collect();
    if missing.is_empty() { Ok(parts.into_values().collect()) } else { Err(MergeError::Missing { missing }) }
}

/// A spec without what shards of one run differ in.
fn comparable(spec: &RunSpec, shard: Shard) -> RunSpec {
    let mut spec = RunSpec { shard: Some(shard), ..spec.clone() };
    spec.tasks.iter_mut().for_each(|task| task.documents = 0);
    spec
}

/// The spec of the whole: no shard, the documents of all, every session.
fn whole(shards: &[(RunDir, RunSpec, Shard)]) -> RunSpec {
    let mut spec = shards.first().map(|(_, spec, _)| spec.clone()).expect("in_order gives at least one");
    for (i, task) in spec.tasks.iter_mut().enumerate() {
        task.documents = shards.iter().filter_map(|(_, spec, _)| spec.tasks.get(i)).map(|task| task.documents).sum();
    }
    spec.shard = None;
    spec.timing = Timing { sessions: shards.iter().flat_map(|(_, spec, _)| spec.timing.sessions.clone()).collect() };
    spec.command = without_shard(&spec.command);
    spec
}

/// The command that the whole would have been made with, so that `--resume` asks again what failed.
fn without_shard(command: &CommandLine) -> CommandLine {
    let mut words = Vec::new();
    let mut rest = command.arguments().iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "--shard" => drop(rest.next()),
            other if other.starts_with("--shard=") => {}
            other => words.push(other.to_owned()),
        }
    }
    CommandLine::redacted(words)
}

/// Documents as a run without shards asks them. Shard i of n has every n-th document from the i-th on, so taking one of each in turn gives
/// the order back.
fn interleave(spec: &RunSpec, by_shard: &[Vec<PlannedRequest>]) -> Vec<PlannedRequest> {
    let mut all = Vec::new();
    for task in &spec.tasks {
        let of_task = |requests: &'_ Vec<PlannedRequest>| -> Vec<Vec<PlannedRequest>> {
            let mine: Vec<PlannedRequest> = requests.iter().filter(|r| r.task == task.task).cloned().collect();
            mine.chunk_by(|a, b| a.doc_id == b.doc_id).map(<[_]>::to_vec).collect()
        };
        let mut turns: Vec<_> = by_shard.iter().map(|requests| of_task(requests).into_iter()).collect();
        let longest = turns.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        for _ in 0..longest {
            all.extend(turns.iter_mut().filter_map(Iterator::next).flatten());
        }
    }
    all
}

fn copy_tokenizer(from: &Path, writer: &RunWriter) -> Result<(), ResultsError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| ResultsError::Io { action: "read", path, source }
    };
    for entry in fs::read_dir(from).map_err(io(from))? {
        let path = entry.map_err(io(from))?.path();
        let content = fs::read(&path).map_err(io(&path))?;
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            writer.write_tokenizer(&[(name, content)])?;
        }
    }
    Ok(())
}
