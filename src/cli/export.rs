//! `export`: a recorded run in the files of other programs. Asks no model, sends nothing.

use super::{
    exit::{Exit, Failure, Verdict},
    output,
    run::results_failure,
};
use crate::results::{
    export::{self, ExportFile, lm_eval, model_index, swallow},
    recorded::Recorded,
    run_dir::RunDir,
};
use std::path::{Path, PathBuf};

/// Write a recorded run in the files of another program.
#[derive(clap::Args, Clone, Debug)]
pub struct ExportArgs {
    /// Run directory, or its id under results/runs/
    pub run: PathBuf,
    /// Which files
    #[arg(long, value_enum)]
    pub to: Target,
    /// Folder to write into
    #[arg(long, short, value_name = "DIR", default_value = "export")]
    pub output: PathBuf,
}

/// Whose files are written.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// lm-evaluation-harness: results and samples
    LmEval,
    /// The original team's tree, with its aggregated_result.json
    Swallow,
    /// Metadata of a model card on the Hugging Face hub
    ModelIndex,
}

/// Runs the verb; the paths of the written files go to standard output.
///
/// # Errors
/// Exit 2 when the run cannot be read, has nothing to export, or a file cannot be written.
pub(super) fn run(args: &ExportArgs) -> Verdict {
    let usage = |e| results_failure(Exit::Usage, &e);
    let dir = RunDir::find(&args.run, Path::new("results")).map_err(usage)?;
    let recorded = dir.recorded().map_err(usage)?;
    let mut written = export::write(&args.output, &files(&recorded, args.to)?).map_err(usage)?;
    if args.to == Target::Swallow {
        // Over what is there, so that a Japanese and an English run of one model come to one aggregate.
        let folder = args.output.join("results").join(swallow::folder(&recorded.scores.model));
        let read = |path: &str| serde_json::from_slice(&std::fs::read(folder.join(path)).ok()?).ok();
        let aggregate = swallow::aggregated(&recorded.scores.model, read);
        written.extend(export::write(&args.output, &[aggregate]).map_err(usage)?);
    }
    let lines: String = written.iter().map(|path| format!("{}\n", path.display())).collect();
    output::print(&lines)?;
    Ok(Exit::Ok)
}

fn files(recorded: &Recorded, to: Target) -> Result<Vec<ExportFile>, Failure> {
    let files = match to {
        Target::LmEval => lm_eval::files(recorded),
        Target::Swallow => swallow::files(&recorded.scores),
        Target::ModelIndex => model_index::files(recorded),
    };
    if files.is_empty() {
        let why = if recorded.spec.demo { "a demo measures nothing" } else { "no task has a number of a whole measurement" };
        return Err(Failure::new(Exit::Usage, format!("the run {} has nothing to export: {why}", recorded.run)));
    }
    if recorded.spec.demo {
        output::note("this is a demo: its numbers measure nothing");
    }
    Ok(files)
}
