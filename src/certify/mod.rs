//! Replays recorded goldens of the original harnesses through this program: the same functions that a run uses, no rule of its own.
//!
//! A golden's kind is the name of its folder; a folder or file that is not understood is an error, never a skip.

mod asked;
pub mod code;
pub mod en_harness;
pub mod jmt_bench;
pub mod jp_harness;
pub mod llm_jp;
pub mod metrics;
pub mod models;
pub mod pyrandom;
pub mod report;
pub mod sandbox;
pub mod source;
pub mod tokens;

use crate::task::{Task, load};
use report::Folder;
use source::{CertifyError, entries};
use std::path::Path;

/// Recorded exchanges and export targets: fixtures of other tests, never replayed.
const FIXTURES: [&str; 3] = ["endpoints", "lm_eval_export", "swallow_export"];

/// What certify did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One entry a folder replayed.
    pub folders: Vec<Folder>,
    /// Folders of fixtures.
    pub fixtures: Vec<String>,
}

impl Report {
    /// Adds what another replay did.
    pub fn extend(&mut self, other: Report) {
        self.folders.extend(other.folders);
        self.fixtures.extend(other.fixtures);
    }

    /// Rows over all folders.
    pub fn rows(&self) -> u64 {
        self.folders.iter().map(|f| f.rows).sum()
    }

    /// Compared fields over all folders.
    pub fn fields(&self) -> u64 {
        self.folders.iter().map(Folder::fields).sum()
    }

    /// Mismatches over all folders.
    pub fn mismatches(&self) -> usize {
        self.folders.iter().map(|f| f.mismatches.len()).sum()
    }
}

/// A word segmenter.
pub type Words<'w> = &'w (dyn Fn(&str) -> Vec<String> + Sync);

/// What the replay may use.
pub struct Inputs<'i> {
    /// Raw records, where they are at hand.
    pub data: Option<llm_jp::Data<'i>>,
    /// nagisa's words, where its model is at hand.
    pub segment: Option<Words<'i>>,
    /// Executes programs.
    pub programs: code::Programs<'i>,
    /// Called with each folder before it is replayed.
    pub progress: &'i dyn Fn(&str),
}

/// Replays `dir`: a folder of golden kinds, one kind, or one folder of a kind.
///
/// # Errors
/// When something is not understood, or its data is missing.
pub fn run(dir: &Path, inputs: &Inputs<'_>) -> Result<Report, CertifyError> {
    if !dir.is_dir() {
        return Err(CertifyError::Missing { path: dir.to_owned() });
    }
    let mut report = Report::default();
    let name = dir_name(dir);
    let parent = dir.canonicalize().ok().and_then(|d| d.parent().map(dir_name)).unwrap_or_default();
    match (name.as_str(), parent.as_str()) {
        (kind, _) if FIXTURES.contains(&kind) => return Err(CertifyError::Fixture { kind: name }),
        (kind, _) if is_replayed(kind) => replay_kind(&mut report, kind, dir, inputs)?,
        (_, kind) if is_replayed(kind) => replay_one(&mut report, kind, dir, inputs)?,
        _ => replay_root(&mut report, dir, inputs)?,
    }
    if report.folders.is_empty() {
        return Err(CertifyError::UnknownFolder { path: dir.to_owned() });
    }
    Ok(report)
}

fn is_replayed(kind: &str) -> bool {
    const KINDS: [&str; 10] =
        ["code", "en-harness", "ja-harness", "ja-llmjp", "jmt-bench", "metrics", "models", "pyrandom", "sandbox", "tokenizer"];
    KINDS.contains(&kind)
}

fn dir_name(dir: &Path) -> String {
    let resolved = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    resolved.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn replay_root(report: &mut Report, root: &Path, inputs: &Inputs<'_>) -> Result<(), CertifyError> {
    for name in entries(root)? {
        let path = root.join(&name);
        match name.as_str() {
            kind if is_replayed(kind) => replay_kind(report, kind, &path, inputs)?,
            kind if FIXTURES.contains(&kind) => report.fixtures.push(name),
            _ => return Err(CertifyError::UnknownFolder { path }),
        }
    }
    Ok(())
}

fn replay_kind(report: &mut Report, kind: &str, dir: &Path, inputs: &Inputs<'_>) -> Result<(), CertifyError> {
    match kind {
        "pyrandom" => return replay_pyrandom(report, dir, inputs),
        "metrics" => return replay_metrics(report, dir, inputs),
        "tokenizer" => {
            (inputs.progress)("tokenizer");
            report.folders.push(tokens::folder(dir)?);
            return Ok(());
        }
        "sandbox" => {
            (inputs.progress)("sandbox");
            report.folders.push(sandbox::folder(dir, inputs.programs)?);
            return Ok(());
        }
        _ => {}
    }
    let (folders, files): (Vec<_>, Vec<_>) = entries(dir)?.into_iter().partition(|name| dir.join(name).is_dir());
    for name in &folders {
        let path = dir.join(name);
        if kind == "ja-harness" && name == jp_harness::TOKENIZER {
            continue;
        }
        if kind != "models" || path.join("config.json").exists() {
            replay_one(report, kind, &path, inputs)?;
        } else if name != "chat-templates" {
            return Err(CertifyError::UnknownFolder { path });
        }
    }
    match (kind, files.as_slice()) {
        (_, []) => Ok(()),
        ("models", [file]) if file == "rope_golden.json" => {
            (inputs.progress)("models/rope_golden.json");
            report.folders.push(models::flat(dir, &folders)?);
            Ok(())
        }
        (_, [file, ..]) => Err(CertifyError::UnknownFile { path: dir.join(file), kind: kind.to_owned() }),
    }
}

fn replay_one(report: &mut Report, kind: &str, path: &Path, inputs: &Inputs<'_>) -> Result<(), CertifyError> {
    let name = dir_name(path);
    let label = format!("{kind}/{name}");
    (inputs.progress)(&label);
    let mut folder = match (kind, name.as_str()) {
        ("models", _) => models::folder(path)?,
        ("code", "answer_ratio" | "pass_at_k") => code::formulas(path)?,
        ("code", task) => code::task_folder(path, find(&load::embedded()?, task, path)?, inputs.programs)?,
        ("en-harness", en_harness::units::UNITS) => en_harness::units::folder(path, &load::embedded()?)?,
        ("en-harness", folder) => {
            let tasks = load::embedded()?;
            let task = find(&tasks, folder, path)?;
            if !en_harness::is_of_harness(task) {
                return Err(CertifyError::UnknownFolder { path: path.to_owned() });
            }
            en_harness::task_folder(path, task, inputs)?
        }
        ("ja-harness", folder) => jp_harness::task_folder(path, find_by_folder(&load::embedded()?, folder, path)?, inputs)?,
        ("jmt-bench", _) => jmt_bench::folder(path, &name, find(&load::embedded()?, "japanese_mt_bench", path)?)?,
        ("ja-llmjp", "_metrics") => llm_jp::metrics_folder(path, find(&load::embedded()?, "jemhopqa", path)?)?,
        ("ja-llmjp", task) => llm_jp::task_folder(path, find(&load::embedded()?, task, path)?, inputs.data)?,
        _ => return Err(CertifyError::UnknownFolder { path: path.to_owned() }),
    };
    folder.name = label;
    report.folders.push(folder);
    Ok(())
}

fn find<'t>(tasks: &'t [Task], name: &str, path: &Path) -> Result<&'t Task, CertifyError> {
    load::find(tasks, name).map_err(|_| CertifyError::UnknownFolder { path: path.to_owned() })
}

/// The task whose golden folder has this name; variants of a task have their own folders.
fn find_by_folder<'t>(tasks: &'t [Task], name: &str, path: &Path) -> Result<&'t Task, CertifyError> {
    find(tasks, name.strip_suffix("_truncated").unwrap_or(name), path)
}

fn replay_pyrandom(report: &mut Report, dir: &Path, inputs: &Inputs<'_>) -> Result<(), CertifyError> {
    (inputs.progress)("pyrandom");
    let mut folder = Folder::new("pyrandom");
    for name in entries(dir)? {
        pyrandom::file(&mut folder, dir, &name)?;
    }
    report.folders.push(folder);
    Ok(())
}

fn replay_metrics(report: &mut Report, dir: &Path, inputs: &Inputs<'_>) -> Result<(), CertifyError> {
    (inputs.progress)("metrics");
    let mut folder = Folder::new("metrics");
    for name in entries(dir)? {
        metrics::file(&mut folder, dir, &name, inputs.segment)?;
    }
    report.folders.push(folder);
    Ok(())
}
