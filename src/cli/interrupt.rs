//! Ctrl-C (and SIGTERM, SIGHUP): the first asks the run to stop at the next step, the second stops the process.

use super::{
    exit::{Exit, Failure},
    output::complain,
};
use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Takes over the signals for the rest of the process, once, and returns the flag that they set.
///
/// # Errors
/// Exit 70: the handler cannot be set.
pub fn install() -> Result<&'static AtomicBool, Failure> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if !TAKEN.swap(true, Ordering::SeqCst) {
        ctrlc::set_handler(on_signal).map_err(|e| Failure::new(Exit::Bug, format!("cannot handle Ctrl-C: {e}")))?;
    }
    Ok(&INTERRUPTED)
}

fn on_signal() {
    if INTERRUPTED.swap(true, Ordering::SeqCst) {
        stop_now();
    }
    complain("stopping: what is answered is kept; once more stops at once");
}

#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "the second Ctrl-C must end the process whatever its threads are doing; the journal is flushed line by line"
)]
fn stop_now() -> ! {
    std::process::exit(Exit::Interrupted as i32)
}
