//! `bench`: how fast the parts are, for side-by-side measurements by anyone. Each prints one JSON line a measurement, loading apart; what was
//! computed goes to `--output`, so that a fast wrong answer shows.

mod execute;
mod lines;
mod model;
mod recorded;
mod requests;
mod score;
mod segment;

use super::{
    exit::{Exit, Failure, Verdict},
    output,
};
use crate::engine::llama::{batch::Limits, plan::Sharing};
use execute::ExecuteArgs;
use model::ModelArgs;
use requests::RequestsArgs;
use score::ScoreArgs;
use segment::SegmentArgs;
use serde::Serialize;

/// Flags of `bench`: a model is timed, unless another part is named.
#[derive(clap::Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BenchArgs {
    /// What is measured
    #[command(subcommand)]
    pub part: Option<BenchCommand>,
    /// How the model is timed
    #[command(flatten)]
    pub model: ModelArgs,
}

/// What may follow `bench`.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum BenchCommand {
    /// Time programs in the sandbox
    Execute(ExecuteArgs),
    /// Time recorded requests on the in-process engine
    Requests(RequestsArgs),
    /// Time a metric over pairs of prediction and reference
    Score(ScoreArgs),
    /// Time nagisa's word segmentation of given texts
    Segment(SegmentArgs),
}

/// Runs the verb.
///
/// # Errors
/// Exit 2: unreadable input, unwritable output. Exit 4 and 5: what the part needs is not at hand.
pub(super) fn run(args: &BenchArgs) -> Verdict {
    match &args.part {
        None => model::run(&args.model),
        Some(BenchCommand::Execute(args)) => execute::run(args),
        Some(BenchCommand::Requests(args)) => requests::run(args),
        Some(BenchCommand::Score(args)) => score::run(args),
        Some(BenchCommand::Segment(args)) => segment::run(args),
    }
}

/// Prints a measurement.
fn tell(measured: &impl Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(measured).map_err(|e| Failure::new(Exit::Bug, e.to_string()))?;
    output::print(&format!("{line}\n"))
}

/// The limits a run has, with or without sharing.
fn limits(no_prefix_sharing: bool) -> Limits {
    let sharing = if no_prefix_sharing { Sharing::Nothing } else { Sharing::Prefixes };
    Limits { sharing, ..Limits::default() }
}
