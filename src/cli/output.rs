//! Standard output and error. The verbs write through here, so that a reader who has seen enough (`| head`) is no error.

use super::{
    exit::{Exit, Failure},
    report::look_of_stdout,
};
use crate::report::terminal;
use std::io::{self, Write};

/// Writes text to standard output, and flushes it.
///
/// # Errors
/// Standard output is closed or full: see [`Failure::from`].
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::from)
}

/// Writes prose: as `print`, wrapped between words where standard output is a terminal. What follows on is indented by so many columns.
///
/// # Errors
/// Standard output is closed or full: see [`Failure::from`].
pub fn tell(text: &str, indent: usize) -> Result<(), Failure> {
    print(&terminal::wrapped(text, look_of_stdout().width, indent))
}

/// Writes a line to standard error: `note: ...`. What a person should know, and no result.
pub fn note(text: &str) {
    complain(&format!("note: {text}"));
}

/// Writes a line to standard error. There is nowhere left to tell that it failed.
pub(super) fn complain(line: &str) {
    drop(writeln!(io::stderr().lock(), "{line}"));
}

impl From<io::Error> for Failure {
    /// Trouble with standard output. A pipe whose reader left ends the program without a word and with success; anything else is told.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::new(Exit::Ok, ""),
            _ => Failure::new(Exit::Usage, format!("cannot write to standard output: {error}")),
        }
    }
}
