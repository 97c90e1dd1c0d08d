//! `merge`: the shards of a run become one run, which is then scored.

use super::{
    args::ScoreArgs,
    exit::{Exit, Failure, Verdict},
    run::results_failure,
    score,
};
use crate::{
    results::run_dir::RunDir,
    run::merge::{self, MergeError},
};
use std::path::{Path, PathBuf};

/// Flags of `merge`.
#[derive(clap::Args, Clone, Debug)]
pub struct MergeArgs {
    /// All shards of one run: run directories, or their ids under DIR/runs/ or results/runs/
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Folder for results; the merged run goes to runs/ID/ in it
    #[arg(long, short = 'o', value_name = "DIR", default_value = "results")]
    pub output: PathBuf,
    /// Show this published row beside ours
    #[arg(long, value_name = "NAME")]
    pub against: Option<String>,
    /// Read task files from this folder too
    #[arg(long, value_name = "DIR")]
    pub include_path: Option<PathBuf>,
    /// How programs are executed
    #[command(flatten)]
    pub programs: super::sandbox::SandboxArgs,
}

/// Runs the verb.
///
/// # Errors
/// Exit 2: a shard cannot be read, or they are not all the shards of one run; then as `score`.
pub(super) fn run(args: &MergeArgs) -> Verdict {
    // Shards may lie where runs lie by default, and the whole go elsewhere.
    let find = |run: &PathBuf| {
        let found = RunDir::find(run, &args.output).or_else(|error| RunDir::find(run, Path::new("results")).map_err(|_| error));
        found.map_err(|e| results_failure(Exit::Usage, &e))
    };
    let shards = args.runs.iter().map(find).collect::<Result<Vec<_>, Failure>>()?;
    let merged = merge::merge(&shards, &args.output).map_err(refused)?.dir().path().to_owned();
    score::run(&ScoreArgs {
        run: merged,
        against: args.against.clone(),
        include_path: args.include_path.clone(),
        quiet: false,
        programs: args.programs.clone(),
    })
}

fn refused(error: MergeError) -> Failure {
    match error {
        MergeError::Results(error) => results_failure(Exit::Usage, &error),
        other => Failure::new(Exit::Usage, other.to_string()).hint("name every run that was made with --shard i/n of the same command"),
    }
}
