//! `--threads` of verbs whose work shares one pool.

use super::exit::{Exit, Failure};
use std::num::NonZeroUsize;

/// As many threads as asked for, or all cores, for the work inside.
///
/// # Errors
/// Threads that the system does not give (exit 2).
pub(super) fn with_threads<T: Send>(threads: Option<NonZeroUsize>, work: impl FnOnce() -> T + Send) -> Result<T, Failure> {
    let Some(threads) = threads else { return Ok(work()) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build();
    pool.map(|pool| pool.install(work)).map_err(|e| Failure::new(Exit::Usage, format!("--threads {threads}: {e}")))
}
