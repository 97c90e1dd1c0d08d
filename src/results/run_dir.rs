//! The run directory `results/runs/<id>/`: its files, who may write them, and how.
//!
//! [`RunDir`] reads, [`RunWriter`] writes; a writer holds a lock, so that two processes never write one run. Everything a writer will write is
//! tried when it is made, before the first request costs anything. All files but the journal are replaced as a whole (written beside, then
//! renamed): a reader never sees half a file, and a kill leaves the old one.

use super::{
    ResultsError, atomic,
    batches::{self, Batches},
    check_format, clock,
    journal::{self, Journal, Recovered},
    jsonl,
    requests::{self, PlannedRequest},
    samples::{self, Sample},
    scores::{self, Scores},
    spec::{self, RunSpec},
    verdicts::{self, Verdict},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// The spec.
pub const RUN: &str = "run.json";
/// The prompts.
pub const REQUESTS: &str = "requests.jsonl";
/// The journal.
pub const RESPONSES: &str = "responses.jsonl";
/// A line a document.
pub const SAMPLES: &str = "samples.jsonl";
/// A line an executed program, where a task has programs.
pub const VERDICTS: &str = "verdicts.jsonl";
/// What held executed programs.
pub const SANDBOX: &str = "sandbox.json";
/// The numbers.
pub const SCORES: &str = "scores.json";
/// The table, for people.
pub const REPORT: &str = "report.md";

/// The radar chart of a suite whose columns are parts of one benchmark.
pub const RADAR: &str = "radar.svg";

/// The evaluated model's tokenizer, in a run whose scoring needs its tokens; a directory.
pub const TOKENIZER: &str = "tokenizer";

/// Every file of a run, in the order they come to be.
pub const FILES: [&str; 6] = [RUN, REQUESTS, RESPONSES, SAMPLES, SCORES, REPORT];

/// Letters, digits, `.`, `_` and `-` of a judge's name.
fn plain(judge: &str) -> String {
    judge.chars().map(|c| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '_' }).collect()
}

/// A judge's journal, in the format of `responses.jsonl`.
fn judgements_file(judge: &str) -> String {
    format!("judgements-{}.jsonl", plain(judge))
}

/// What was handed to a judge's server as batches.
fn batches_file(judge: &str) -> String {
    format!("batches-{}.json", plain(judge))
}

/// Held while a process writes the run. The lock is the kernel's and dies with the process; the file stays.
const LOCK: &str = ".lock";

/// A run on disk, for reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
}

/// A run on disk that this process alone writes.
#[derive(Debug)]
pub struct RunWriter {
    dir: RunDir,
    /// Unlocked when dropped; `None` on a file system without locks.
    lock: Option<File>,
}

impl RunDir {
    /// A new run `<output>/runs/<id>/`. Without `id` it gets the time and four random characters, `20261124T110203Z-a1b2`.
    ///
    /// # Errors
    /// When the id is not a plain name or taken, or the directory cannot be made or written.
    pub fn create(output: &Path, id: Option<&str>) -> Result<RunWriter, ResultsError> {
        let runs = output.join("runs");
        fs::create_dir_all(&runs).map_err(ResultsError::io("create", &runs))?;
        let path = match id {
            Some(id) => {
                let path = runs.join(checked(id)?);
                fs::create_dir(&path).map_err(|e| match e.kind() {
                    io::ErrorKind::AlreadyExists => ResultsError::Exists { path: path.clone() },
                    _ => ResultsError::io("create", &path)(e),
                })?;
                path
            }
            None => {
                let prefix = format!("{}-", clock::compact_utc_now());
                let dir = tempfile::Builder::new().prefix(&prefix).rand_bytes(4).tempdir_in(&runs);
                dir.map_err(ResultsError::io("create a directory in", &runs))?.keep()
            }
        };
        RunDir { path }.into_writer()
    }

    /// An existing run, for reading.
    ///
    /// # Errors
    /// [`ResultsError::NotARun`].
    pub fn open(path: &Path) -> Result<RunDir, ResultsError> {
        if path.join(RUN).is_file() { Ok(RunDir { path: path.to_owned() }) } else { Err(ResultsError::NotARun { path: path.to_owned() }) }
    }

    /// An existing run, named by its path or by its id under `<output>/runs/`.
    ///
    /// # Errors
    /// [`ResultsError::NotARun`].
    pub fn find(run: &Path, output: &Path) -> Result<RunDir, ResultsError> {
        RunDir::open(run).or_else(|error| RunDir::open(&output.join("runs").join(run)).map_err(|_| error))
    }

    /// Makes this process the one that writes the run, and tries everything that it will write. Temporary files of a killed predecessor go.
    ///
    /// # Errors
    /// [`ResultsError::Locked`], or when a file cannot be written.
    pub fn into_writer(self) -> Result<RunWriter, ResultsError> {
        let lock = lock(&self.path)?;
        atomic::remove_leftovers(&self.path).map_err(ResultsError::io("clean up", &self.path))?;
        for name in FILES {
            let path = self.path.join(name);
            if path.exists() && !path.is_file() {
                let source = io::Error::from(io::ErrorKind::IsADirectory);
                return Err(ResultsError::Io { action: "write", path, source });
            }
        }
        atomic::probe(&self.path)?;
        let responses = self.path.join(RESPONSES);
        OpenOptions::new().append(true).create(true).open(&responses).map_err(ResultsError::io("append to", &responses))?;
        Ok(RunWriter { dir: self, lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name of the directory.
    pub fn id(&self) -> String {
        // `.` and `x/..` have no last component of their own.
        let absolute = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        absolute.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Reads `run.json`.
    ///
    /// # Errors
    /// When it cannot be read, is corrupt or of a later format.
    pub fn spec(&self) -> Result<RunSpec, ResultsError> {
        read_json(&self.path.join(RUN), spec::FORMAT)
    }

    /// Where the tokenizer is, in a run that keeps one.
    pub fn tokenizer(&self) -> Option<PathBuf> {
        Some(self.path.join(TOKENIZER)).filter(|path| path.is_dir())
    }

    /// Reads `scores.json`.
    ///
    /// # Errors
    /// [`ResultsError::NotScored`]; when it cannot be read, is corrupt or of a later format.
    pub fn scores(&self) -> Result<Scores, ResultsError> {
        let path = self.path.join(SCORES);
        if !path.exists() {
            return Err(ResultsError::NotScored { path: self.path.clone() });
        }
        read_json(&path, scores::FORMAT)
    }

    /// Reads `samples.jsonl`.
    ///
    /// # Errors
    /// When it cannot be read, or a line is corrupt or of a later format.
    pub fn samples(&self) -> Result<Vec<Sample>, ResultsError> {
        jsonl::read(&self.path.join(SAMPLES), samples::FORMAT)
    }

    /// Reads `verdicts.jsonl`; empty where no program was executed.
    ///
    /// # Errors
    /// When it cannot be read, or a line is corrupt or of a later format.
    pub fn verdicts(&self) -> Result<Vec<Verdict>, ResultsError> {
        let path = self.path.join(VERDICTS);
        if path.exists() { jsonl::read(&path, verdicts::FORMAT) } else { Ok(Vec::new()) }
    }

    /// Reads `sandbox.json`, where there is one.
    ///
    /// # Errors
    /// When it cannot be read or is not of its shape.
    pub fn sandbox<T: DeserializeOwned>(&self) -> Result<Option<T>, ResultsError> {
        let path = self.path.join(SANDBOX);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = fs::read(&path).map_err(ResultsError::io("read", &path))?;
        serde_json::from_slice(&bytes).map(Some).map_err(|e| ResultsError::corrupt(&path, None, e.to_string()))
    }

    /// Reads `requests.jsonl`.
    ///
    /// # Errors
    /// See [`requests::read`].
    pub fn requests(&self) -> Result<Vec<PlannedRequest>, ResultsError> {
        requests::read(&self.path.join(REQUESTS))
    }

    /// Reads what a judge said of this run's answers; nothing where it has not been asked.
    ///
    /// # Errors
    /// See [`journal::read`].
    pub fn judgements(&self, judge: &str) -> Result<Recovered, ResultsError> {
        let path = self.path.join(judgements_file(judge));
        if path.exists() { journal::read(&path) } else { Ok(Recovered::default()) }
    }

    /// Reads what was handed to a judge's server as batches; nothing where none was.
    ///
    /// # Errors
    /// When it cannot be read, is corrupt or of a later format.
    pub fn batches(&self, judge: &str) -> Result<Batches, ResultsError> {
        let path = self.batches_path(judge);
        if path.exists() { read_json(&path, batches::FORMAT) } else { Ok(Batches::default()) }
    }

    /// Where that is written down.
    pub fn batches_path(&self, judge: &str) -> PathBuf {
        self.path.join(batches_file(judge))
    }

    /// Reads `responses.jsonl`.
    ///
    /// # Errors
    /// See [`journal::read`].
    pub fn responses(&self) -> Result<Recovered, ResultsError> {
        journal::read(&self.path.join(RESPONSES))
    }
}

impl RunWriter {
    /// The run, for reading.
    pub fn dir(&self) -> &RunDir {
        &self.dir
    }

    /// Whether another process is kept out. `false` on file systems without locks (some Lustre mounts), where the run goes on all the same.
    pub fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// Opens a judge's journal, giving back what it holds.
    ///
    /// # Errors
    /// See [`Journal::open_append`].
    pub fn judgements(&self, judge: &str) -> Result<(Journal, Recovered), ResultsError> {
        Journal::open_append(&self.dir.path.join(judgements_file(judge)))
    }

    /// Replaces what was handed to a judge's server as batches; without a batch there is no such file.
    ///
    /// # Errors
    /// When it cannot be written or removed.
    pub fn write_batches(&self, judge: &str, batches: &Batches) -> Result<(), ResultsError> {
        if !batches.batches.is_empty() {
            return self.write_json(&batches_file(judge), batches);
        }
        let path = self.dir.batches_path(judge);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(ResultsError::io("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    /// Opens the journal, giving back what it holds.
    ///
    /// # Errors
    /// See [`Journal::open_append`].
    pub fn journal(&self) -> Result<(Journal, Recovered), ResultsError> {
        Journal::open_append(&self.dir.path.join(RESPONSES))
    }

    /// Replaces `run.json`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_spec(&self, spec: &RunSpec) -> Result<(), ResultsError> {
        self.write_json(RUN, spec)
    }

    /// Keeps the files of a tokenizer, once.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write_tokenizer(&self, files: &[(&str, Vec<u8>)]) -> Result<(), ResultsError> {
        let path = self.dir.path.join(TOKENIZER);
        fs::create_dir_all(&path).map_err(ResultsError::io("create", &path))?;
        for (name, content) in files.iter().filter(|(name, _)| !path.join(name).exists()) {
            atomic::write(&path.join(name), |out| out.write_all(content))?;
        }
        Ok(())
    }

    /// Replaces `requests.jsonl`; prompts with the same shots should stand together.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_requests(&self, planned: &[PlannedRequest]) -> Result<(), ResultsError> {
        atomic::write(&self.dir.path.join(REQUESTS), |out| requests::write(out, planned))
    }

    /// Replaces `samples.jsonl`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_samples<'s>(&self, samples: impl IntoIterator<Item = &'s Sample>) -> Result<(), ResultsError> {
        atomic::write(&self.dir.path.join(SAMPLES), |out| {
            samples.into_iter().try_for_each(|sample| jsonl::write_line(&mut *out, samples::FORMAT, sample))
        })
    }

    /// Replaces `verdicts.jsonl`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_verdicts<'v>(&self, verdicts: impl IntoIterator<Item = &'v Verdict>) -> Result<(), ResultsError> {
        atomic::write(&self.dir.path.join(VERDICTS), |out| {
            verdicts.into_iter().try_for_each(|verdict| jsonl::write_line(&mut *out, verdicts::FORMAT, verdict))
        })
    }

    /// Replaces `sandbox.json`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_sandbox<T: Serialize>(&self, identity: &T) -> Result<(), ResultsError> {
        self.write_json(SANDBOX, identity)
    }

    /// Replaces `scores.json`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_scores(&self, scores: &Scores) -> Result<(), ResultsError> {
        self.write_json(SCORES, scores)
    }

    /// Replaces `report.md`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_report(&self, markdown: &str) -> Result<(), ResultsError> {
        atomic::write(&self.dir.path.join(REPORT), |out| out.write_all(markdown.as_bytes()))
    }

    /// Writes `radar.svg`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_radar(&self, svg: &str) -> Result<(), ResultsError> {
        atomic::write(&self.dir.path.join(RADAR), |out| out.write_all(svg.as_bytes()))
    }

    /// Takes a run back that never began (no `run.json`): its directory goes, unless somebody put a file there.
    ///
    /// # Errors
    /// When the directory cannot be removed.
    pub fn discard(self) -> Result<(), ResultsError> {
        let path = &self.dir.path;
        let empty = fs::metadata(path.join(RESPONSES)).is_ok_and(|m| m.len() == 0);
        if path.join(RUN).exists() || !empty {
            return Ok(());
        }
        for name in [RESPONSES, LOCK] {
            let file = path.join(name);
            fs::remove_file(&file).map_err(ResultsError::io("remove", &file))?;
        }
        match fs::remove_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            other => other.map_err(ResultsError::io("remove", path)),
        }
    }

    fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), ResultsError> {
        atomic::write(&self.dir.path.join(name), |out| {
            serde_json::to_writer_pretty(&mut *out, value)?;
            out.write_all(b"\n")
        })
    }
}

/// Reads a JSON file that carries its format number as `version`.
fn read_json<T: DeserializeOwned>(path: &Path, supported: u32) -> Result<T, ResultsError> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let bytes = fs::read(path).map_err(ResultsError::io("read", path))?;
    let corrupt = |e: serde_json::Error| ResultsError::corrupt(path, None, e.to_string());
    let head: Head = serde_json::from_slice(&bytes).map_err(corrupt)?;
    check_format(path, None, head.version, supported)?;
    serde_json::from_slice(&bytes).map_err(corrupt)
}

/// A run id that is safe as a directory name.
fn checked(id: &str) -> Result<&str, ResultsError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let good = (1..=100).contains(&id.len()) && !id.starts_with('.') && id.chars().all(plain);
    if good { Ok(id) } else { Err(ResultsError::BadId { id: id.to_owned() }) }
}

fn lock(path: &Path) -> Result<Option<File>, ResultsError> {
    let file = path.join(LOCK);
    let open = OpenOptions::new().write(true).create(true).truncate(false).open(&file);
    let handle = open.map_err(ResultsError::io("create", &file))?;
    match handle.try_lock() {
        Ok(()) => Ok(Some(handle)),
        Err(TryLockError::WouldBlock) => Err(ResultsError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(None),
        Err(TryLockError::Error(e)) => Err(ResultsError::io("lock", &file)(e)),
    }
}
