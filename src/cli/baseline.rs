//! `baseline`: what a comparison needs of a run, as one small file to commit.

use super::{
    exit::{Exit, Verdict},
    output::print,
    run::results_failure,
    sides::BASELINES,
};
use crate::results::{baseline::Baseline, run_dir::RunDir};
use std::path::{Path, PathBuf};

/// Flags of `baseline`.
#[derive(clap::Args, Clone, Debug)]
pub struct BaselineArgs {
    /// Run directory, or its id under results/runs/
    pub run: PathBuf,
    /// File to write; results/baselines/NAME.json unless given
    #[arg(long, short, value_name = "FILE", conflicts_with = "name")]
    pub output: Option<PathBuf>,
    /// Name under results/baselines/; the model's name and the suite unless given
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// Runs the verb.
///
/// # Errors
/// Exit 2: the run cannot be read, or the file cannot be written.
pub(super) fn run(args: &BaselineArgs) -> Verdict {
    let usage = |e| results_failure(Exit::Usage, &e);
    let dir = RunDir::find(&args.run, Path::new("results")).map_err(usage)?;
    let baseline = Baseline::of_run(&dir).map_err(usage)?;
    let path = args.output.clone().unwrap_or_else(|| {
        let name = args.name.clone().unwrap_or_else(|| format!("{}-{}", plain(&baseline.model), baseline.suite));
        Path::new(BASELINES).join(format!("{name}.json"))
    });
    baseline.write(&path).map_err(usage)?;
    let documents: usize = baseline.tasks.iter().map(|task| task.documents.len()).sum();
    print(&format!("{}: {} tasks, {documents} documents of run {}\n", path.display(), baseline.tasks.len(), baseline.run))?;
    Ok(Exit::Ok)
}

/// The last part of a model's name, as a file name.
fn plain(model: &str) -> String {
    let last = model.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    last.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' }).collect()
}
