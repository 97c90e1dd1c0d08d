//! `certify [DIR]`: recorded goldens through this binary.

use super::{
    args::CertifyArgs,
    data_source,
    exit::{Exit, Failure, Verdict},
    output::{note, print},
    sandbox::{SandboxArgs, told as told_of_sandbox},
    threads::with_threads,
};
use crate::certify::{self, Inputs, Report, report::Folder, source::CertifyError};
use crate::dataset::{Network, Record, manifest::Manifest, store::Store};
use crate::sandbox::Sandbox;
use include_dir::{Dir, include_dir};
use std::{cell::OnceCell, fmt::Write as _, path::Path};

/// Goldens written by us, shipped in the binary.
static COMMITTED: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/tests/golden");

/// Mismatches shown for a folder.
const SHOWN: usize = 10;

/// Bytes of a text shown around its first difference.
const AROUND: usize = 40;

/// Replays and reports.
///
/// # Errors
/// A folder that is not understood, threads that the system does not give (2), missing data (4).
pub(super) fn run(args: &CertifyArgs) -> Verdict {
    let report = with_threads(args.threads, || replay_all(args))??;
    print(&told(&report))?;
    Ok(if report.mismatches() == 0 { Exit::Ok } else { Exit::No })
}

fn replay_all(args: &CertifyArgs) -> Result<Report, Failure> {
    let mut report = if args.dirs.is_empty() { replay_committed(&args.programs)? } else { Report::default() };
    for dir in &args.dirs {
        report.extend(replay(dir, &data_source::files(Network::Off, None), &args.programs)?);
    }
    Ok(report)
}

fn replay(dir: &Path, store: &Store, sandbox: &SandboxArgs) -> Result<Report, Failure> {
    let records = |dataset: &str, split: &str| -> Result<Vec<Record>, String> {
        let manifest = Manifest::builtin(dataset).map_err(|e| e.to_string())?;
        store.records(&manifest, split).map_err(|e| e.to_string())
    };
    let data: Option<certify::llm_jp::Data<'_>> = if store.has_mirror() { Some(&records) } else { None };
    let words = store.has_mirror().then(|| data_source::nagisa(store).ok()).flatten();
    let segment: Option<certify::Words<'_>> = words.as_ref().map(|words| &**words as _);
    let chosen = OnceCell::new();
    let programs = || -> Result<Sandbox, CertifyError> {
        if let Some(known) = chosen.get() {
            return Ok(Sandbox::clone(known));
        }
        let found = sandbox.choose().map_err(CertifyError::Sandbox)?;
        note(&told_of_sandbox(found.identity()));
        Ok(chosen.get_or_init(|| found).clone())
    };
    certify::run(dir, &Inputs { data, segment, programs: &programs, progress: &|_| {} }).map_err(failure)
}

/// The committed goldens are unpacked first: certify reads files, whoever wrote them.
fn replay_committed(sandbox: &SandboxArgs) -> Result<Report, Failure> {
    let unpacked = tempfile::tempdir().map_err(|e| Failure::new(Exit::Usage, format!("failed to create a temporary directory: {e}")))?;
    let root = unpacked.path();
    COMMITTED.extract(root).map_err(|e| Failure::new(Exit::Usage, format!("failed to unpack goldens to {}: {e}", root.display())))?;
    replay(root, &Store::samples(), sandbox)
}

fn failure(error: CertifyError) -> Failure {
    let message = error.to_string();
    match error {
        CertifyError::Data(_) => Failure::new(Exit::Data, message).hint("set SWALLOW_EVAL_DATA to a directory that holds the data sets"),
        CertifyError::Engine(e) => Failure { exit: Exit::Engine, message, hint: e.hint },
        CertifyError::UnknownFolder { .. } => {
            Failure::new(Exit::Usage, message).hint("name a folder such as golden/ja-llmjp or its parent")
        }
        CertifyError::Sandbox(e) => super::sandbox::failure(&e),
        _ => Failure::new(Exit::Usage, message),
    }
}

/// The whole report; its last line is the one a script looks at.
fn told(report: &Report) -> String {
    let mut text = String::new();
    for folder in &report.folders {
        let (rows, fields, mismatches) = (folder.rows, folder.fields(), folder.mismatches.len());
        let _ = writeln!(text, "{}: {rows} rows, {fields} fields compared, {mismatches} mismatches", folder.name);
        details(&mut text, folder);
    }
    if !report.fixtures.is_empty() {
        let _ = writeln!(text, "fixtures of other tests, not replayed: {} ({})", report.fixtures.len(), report.fixtures.join(", "));
    }
    let _ = writeln!(text, "{} fields compared", report.fields());
    let _ = writeln!(text, "certified: {} rows, {} mismatches", report.rows(), report.mismatches());
    text
}

fn details(text: &mut String, folder: &Folder) {
    for (file, rows) in &folder.outside {
        let _ = writeln!(text, "  outside the protocol: {rows} rows ({file})");
    }
    for what in &folder.left_out {
        let _ = writeln!(text, "  not compared: {what}");
    }
    for m in folder.mismatches.iter().take(SHOWN) {
        let place = [m.file.as_str(), m.row.as_str(), m.field.as_str()].into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" ");
        let _ = match m.at {
            Some(at) => {
                let (expected, got) = (excerpt(&m.expected, at), excerpt(&m.got, at));
                writeln!(text, "  {place} differs at byte {at}: expected {expected:?}, got {got:?}")
            }
            None => writeln!(text, "  {place} differs: expected {}, got {}", m.expected, m.got),
        };
    }
    if folder.mismatches.len() > SHOWN {
        let _ = writeln!(text, "  and {} more", folder.mismatches.len() - SHOWN);
    }
}

/// The text around a byte.
fn excerpt(text: &str, at: usize) -> &str {
    let (from, to) = (text.floor_char_boundary(at.saturating_sub(AROUND)), text.ceil_char_boundary((at + AROUND).min(text.len())));
    &text[from..to]
}
