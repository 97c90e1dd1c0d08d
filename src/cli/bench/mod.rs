//! `bench`: how fast the parts are, for side-by-side measurements by anyone. Each prints one JSON line a measurement, loading apart; what was
//! computed goes to `--output`, so that a fast wrong answer shows.

mod lines;
mod segment;

use super::{
    exit::{Exit, Failure, Verdict},
    output,
};
use crate::run::measure::Measurement;
use segment::SegmentArgs;

/// `bench` and what follows it.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum BenchCommand {
    /// Time nagisa's word segmentation of given texts
    Segment(SegmentArgs),
}

/// Runs the verb.
///
/// # Errors
/// Exit 2: unreadable input, unwritable output. Exit 4 and 5: what the part needs is not at hand.
pub(super) fn run(command: &BenchCommand) -> Verdict {
    match command {
        BenchCommand::Segment(args) => segment::run(args),
    }
}

/// Prints a measurement.
fn tell(measured: &Measurement) -> Result<(), Failure> {
    let line = serde_json::to_string(measured).map_err(|e| Failure::new(Exit::Bug, e.to_string()))?;
    output::print(&format!("{line}\n"))
}

/// As many threads as asked for, or all cores, for the work inside.
fn with_threads<T: Send>(threads: Option<std::num::NonZeroUsize>, work: impl FnOnce() -> T + Send) -> Result<T, Failure> {
    let Some(threads) = threads else { return Ok(work()) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build();
    pool.map(|pool| pool.install(work)).map_err(|e| Failure::new(Exit::Usage, format!("--threads {threads}: {e}")))
}
