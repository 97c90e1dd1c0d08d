//! Runs programs that a model wrote, each in a sandbox of its own, and says what became of them.
//!
//! Knows programs and limits, no problems and no scores. [`Sandbox::choose`] finds a level that answers its self-test right;
//! [`Sandbox::execute`] runs programs through it. Every program gets a fresh interpreter, fresh limits and a fresh scratch directory, and
//! everything it started is dead before its verdict counts.
//!
//! The harness never forks: it starts its own binary as a helper (`worker`), which has one thread, no environment and no other
//! descriptors, and which sets up the level (`namespaces`, `confine`) and watches the program.
//!
//! What no sandbox can promise here: program and tests share one interpreter, so a program that inspects the driver's frames, or whose
//! objects equal everything, can still "pass", as in the original protocol.

mod confine;
mod namespaces;
pub mod pool;
mod probe;
mod processes;
pub mod python;
mod system;
pub mod worker;

use python::Python;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{fmt, path::PathBuf};

const DRIVER: &str = include_str!("driver.py");

/// How strangers' programs are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Own user, mount, process, network and IPC namespaces, Landlock where the kernel has it, a system-call filter.
    Namespaces,
    /// Landlock and a system-call filter alone, for machines without user namespaces.
    Landlock,
    /// Limits only. For use inside a disposable container or virtual machine.
    None,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Namespaces => "namespaces",
            Level::Landlock => "landlock",
            Level::None => "none",
        })
    }
}

/// What the caller asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `swallow-eval` program, which serves as helper.
    pub helper: PathBuf,
    /// The interpreter; the first that works unless given.
    pub python: Option<PathBuf>,
    /// Levels that may be used, the preferred first. [`Level::None`] only where the user accepted it.
    pub levels: Vec<Level>,
    /// Bounds of each program.
    pub limits: Limits,
    /// Programs that run at the same time; 0 for one a physical core.
    pub jobs: usize,
}

impl Options {
    /// Both protected levels, the protocol's limits.
    pub fn new(helper: PathBuf) -> Self {
        let levels = vec![Level::Namespaces, Level::Landlock];
        Options { helper, python: None, levels, limits: Limits::default(), jobs: 0 }
    }
}

/// Bounds of one program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Seconds after which the timeout exception is raised inside the program (bigcode-evaluation-harness `execute.py:46`).
    pub soft_seconds: f64,
    /// Seconds after which everything is killed (`execute.py:35`: one more).
    pub hard_seconds: f64,
    /// Seconds of processor time of one process.
    pub cpu_seconds: u64,
    /// Bytes of address space of one process.
    pub address_space: u64,
    /// Bytes of resident memory of all processes together.
    pub resident: u64,
    /// Processes and threads.
    pub processes: u64,
    /// Bytes of one file.
    pub file_size: u64,
    /// Descriptors of one process.
    pub open_files: u64,
    /// Bytes in the scratch directory.
    pub scratch: u64,
    /// Files in the scratch directory.
    pub scratch_files: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            soft_seconds: 3.0,
            hard_seconds: 4.0,
            cpu_seconds: 6,
            address_space: 1 << 30,
            resident: 3 << 29,
            processes: 48,
            file_size: 32 << 20,
            open_files: 256,
            scratch: 32 << 20,
            scratch_files: 4096,
        }
    }
}

/// What became of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It ran to its end.
    Passed,
    /// An exception ended it.
    Failed {
        /// Text of the exception, at most 4 KiB, control characters escaped.
        message: String,
    },
    /// The clock ended it.
    TimedOut,
    /// It ended without a report: `os._exit`, a crash, too much memory.
    Died {
        /// What is known.
        why: String,
    },
}

impl Verdict {
    /// Whether it counts.
    pub fn passed(&self) -> bool {
        *self == Verdict::Passed
    }

    /// The original's word: a program that left no result has "timed out" there (`execute.py:38-39`).
    pub fn class(&self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed { .. } => "failed",
            Verdict::TimedOut | Verdict::Died { .. } => "timed out",
        }
    }
}

/// A verdict and how long it took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Execution {
    /// What became of the program.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Seconds from the program's first line to its verdict.
    pub seconds: f64,
}

/// The execution that counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Executed {
    /// The last one.
    #[serde(flatten)]
    pub last: Execution,
    /// An earlier one beside other programs that came too near to its limit: the program was run again, alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crowded: Option<Execution>,
}

/// The answer to one program of the self-test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeAnswer {
    /// `pass`, `fail`, `network`, `file`.
    pub name: String,
    /// What the sandbox said, in the words of [`Verdict::class`].
    pub answer: String,
}

/// What held the programs: everything a verdict depends on besides its program. Stored beside every result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The level.
    pub level: Level,
    /// `3.11.7`.
    pub python: String,
    /// First 12 hex digits of the SHA-256 of the driver.
    pub driver: String,
    /// Bounds.
    pub limits: Limits,
    /// Release of the kernel.
    pub kernel: String,
    /// The self-test.
    pub probes: Vec<ProbeAnswer>,
    /// Levels that were tried before, and why they do not work here.
    pub refused: Vec<String>,
}

impl Identity {
    /// Key of a program's verdict: equal keys, equal circumstances.
    pub fn key(&self, program: &str) -> String {
        let limits = serde_json::to_string(&self.limits).expect("limits are plain data");
        let mut hash = Sha256::new();
        for part in [program, &self.driver, &self.python, &self.level.to_string(), &limits] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        hash.finalize()[..16].iter().map(|b| format!("{b:02x}")).collect()
    }

    /// For signatures: `py3.11.7-namespaces`.
    pub fn short(&self) -> String {
        format!("py{}-{}", self.python, self.level)
    }
}

fn driver_digest() -> String {
    Sha256::digest(DRIVER)[..6].iter().map(|b| format!("{b:02x}")).collect()
}

/// Programs in, verdicts out.
#[derive(Clone, Debug)]
pub struct Sandbox {
    helper: PathBuf,
    python: Python,
    jobs: usize,
    identity: Identity,
}

impl Sandbox {
    /// What holds the programs.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Programs that run at the same time.
    pub fn jobs(&self) -> usize {
        self.jobs
    }
}

/// Why no program can be executed. Always an error of the run, never a failed test.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// No interpreter at all.
    #[error("no python3 was found on PATH; programs of the code tasks need one")]
    NoPython,
    /// An interpreter does not serve.
    #[error("python at {path} does not serve: {why}")]
    Python {
        /// As named or found.
        path: PathBuf,
        /// Its own last words.
        why: String,
    },
    /// No allowed level passed its self-test.
    #[error("no sandbox works here: {}", .0.join("; "))]
    NoLevel(Vec<String>),
    /// The level without protection, without the flag that accepts it (exit code 2).
    #[error("--sandbox none lets programs of strangers see files and network")]
    NotAccepted,
    /// The helper could not be started, or ended.
    #[error("sandbox helper {helper}: {why}")]
    Helper {
        /// The program.
        helper: PathBuf,
        /// What happened.
        why: String,
    },
    /// A level stopped working in the middle.
    #[error("sandbox ({level}): {why}")]
    SetUp {
        /// The level.
        level: Level,
        /// Which step failed, and how.
        why: String,
    },
    /// The user stopped it.
    #[error("stopped before every program was executed")]
    Cancelled,
}

impl SandboxError {
    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            SandboxError::NoPython => Some("install Python 3 or name one with --python"),
            SandboxError::Python { .. } => Some("name another interpreter with --python"),
            SandboxError::NoLevel(_) => Some(
                "allow user namespaces or use a kernel with Landlock; inside a disposable container or virtual machine, \
                 `--sandbox none --i-understand-untrusted-code` runs the programs with limits only",
            ),
            SandboxError::NotAccepted => Some("inside a disposable container or virtual machine, add --i-understand-untrusted-code"),
            _ => None,
        }
    }
}
