//! The sandbox's helper, which is this program under a hidden verb.

use super::exit::{Exit, Failure, Verdict};
use crate::sandbox::worker;
use std::{io, os::fd::AsFd};

/// Serves programs until the input ends.
pub(super) fn help() -> Verdict {
    let ends = io::stdin().as_fd().try_clone_to_owned().and_then(|input| Ok((input, io::stdout().as_fd().try_clone_to_owned()?)));
    let served = ends.and_then(|(input, output)| worker::serve(input, output));
    served.map(|()| Exit::Ok).map_err(|e| Failure::new(Exit::Engine, format!("sandbox helper: {e}")))
}
