//! The run directory: every format this program writes, and reads again.
//!
//! One directory a run: `run.json` (`spec`), `requests.jsonl` (`requests`), `responses.jsonl` (`journal`), `samples.jsonl` (`samples`),
//! `scores.json` (`scores`), `report.md`; of a judge `judgements-<judge>.jsonl`, a journal too, and `batches-<judge>.json` (`batches`). All
//! are UTF-8 JSON (one object a line in `.jsonl`), each carries the number of its format, and pandas, polars or jq read them without us.
//! Published rows stand in `reference`.
//!
//! Not here: statistics, printing, and the decision which exit code an error has.

pub mod atomic;
pub mod baseline;
pub mod batches;
pub mod clock;
pub mod command_line;
pub mod export;
pub mod frame;
pub mod journal;
mod jsonl;
pub mod recorded;
pub mod reference;
pub mod requests;
pub mod run_dir;
pub mod samples;
pub mod scores;
pub mod signature;
pub mod spec;
pub mod verdicts;

use crate::engine::RequestId;
use std::{
    io,
    path::{Path, PathBuf},
};

/// What can go wrong with our own files.
///
/// Before a run every one of these is exit code 2, during a run 3 (the output became unwritable).
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// Infinitive: "create", "read", "append to".
        action: &'static str,
        /// File or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file of ours does not hold what it must.
    #[error("{}{}: {message}", path.display(), line.map(|n| format!(":{n}")).unwrap_or_default())]
    Corrupt {
        /// File.
        path: PathBuf,
        /// Line, from 1, in `.jsonl` files.
        line: Option<usize>,
        /// What is wrong with it.
        message: String,
    },
    /// A file was written by a later swallow-eval.
    #[error("{}{}: format {found} is newer than {supported}, the newest this build reads", path.display(), line.map(|n| format!(":{n}")).unwrap_or_default())]
    Newer {
        /// File.
        path: PathBuf,
        /// Line, from 1, in `.jsonl` files.
        line: Option<usize>,
        /// Format number in the file.
        found: u32,
        /// Newest format number this build knows.
        supported: u32,
    },
    /// Another process writes this run.
    #[error("another process is writing the run {}", path.display())]
    Locked {
        /// Run directory.
        path: PathBuf,
    },
    /// A new run must not overwrite an old one.
    #[error("the run {} exists already", path.display())]
    Exists {
        /// Run directory.
        path: PathBuf,
    },
    /// A run id becomes a directory name.
    #[error("run id {id:?} is not a plain name: use 1 to 100 of the characters A-Z a-z 0-9 . _ - and do not begin with a dot")]
    BadId {
        /// As given.
        id: String,
    },
    /// A run that has no scores yet.
    #[error("the run {} has no scores yet", path.display())]
    NotScored {
        /// Run directory.
        path: PathBuf,
    },
    /// The path holds no run.
    #[error("{} is not a run directory: it has no run.json", path.display())]
    NotARun {
        /// As given.
        path: PathBuf,
    },
    /// JSON has no infinities, and a score made from one would be a silent wrong number.
    #[error("the engine gave request {id} a log-probability that is not a finite number")]
    NotFinite {
        /// Which request.
        id: RequestId,
    },
    /// A batch is with another server than the one named.
    #[error("{} holds a batch that is open at {recorded}, and {given} is named now", path.display())]
    OtherServer {
        /// File of the batches.
        path: PathBuf,
        /// Where the batch is.
        recorded: String,
        /// Where it was looked for.
        given: String,
    },
    /// No published table of that suite.
    #[error("there is no published table for suite {suite:?}; there is one for: {}", reference::SUITES.join(", "))]
    NoTable {
        /// As given.
        suite: String,
    },
    /// No published row of that name.
    #[error("the published {suite} table has no row {name:?}; its rows are: {}", names.join(", "))]
    NoRow {
        /// Suite.
        suite: String,
        /// As given.
        name: String,
        /// Names that do exist, in the card's order.
        names: Vec<String>,
    },
}

impl ResultsError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            ResultsError::Io { action: "read", .. } => None,
            ResultsError::Io { .. } => Some("check that the directory exists, is writable and has room, or choose another with --output"),
            ResultsError::Corrupt { line: Some(_), .. } => {
                Some("nothing was changed; restore the file, or delete that line (a request without a line is asked again on --resume)")
            }
            ResultsError::Newer { .. } => Some("use the swallow-eval that wrote it, or a later one"),
            ResultsError::Locked { .. } => Some("wait for it or stop it; two processes must not write one run"),
            ResultsError::Exists { .. } => Some("go on with it with --resume, or choose another id"),
            ResultsError::NotScored { .. } => {
                Some("finish it with `swallow-eval run --resume`, or score what it has with `swallow-eval score`")
            }
            ResultsError::OtherServer { .. } => Some("name the server that has it, or judge without --judge-batch"),
            ResultsError::NotARun { .. } => Some("name a directory under results/runs/"),
            _ => None,
        }
    }

    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ResultsError {
        move |source| ResultsError::Io { action, path: path.to_owned(), source }
    }

    fn corrupt(path: &Path, line: Option<usize>, message: impl Into<String>) -> ResultsError {
        ResultsError::Corrupt { path: path.to_owned(), line, message: message.into() }
    }
}

/// Refuses what a later build wrote; `found` is the format number in the file.
fn check_format(path: &Path, line: Option<usize>, found: u32, supported: u32) -> Result<(), ResultsError> {
    match found {
        0 => Err(ResultsError::corrupt(path, line, "format number 0 does not exist")),
        _ if found > supported => Err(ResultsError::Newer { path: path.to_owned(), line, found, supported }),
        _ => Ok(()),
    }
}
