//! Exit codes, an interface: documented in README.md, tested one by one.

/// What the process says to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// `certify` mismatch, or gate NO-GO.
    No = 1,
    /// Bad flag, bad task file, unreadable input of ours, unwritable output before the run.
    Usage = 2,
    /// The run is incomplete: failures beyond `--max-failures`, or the output became unwritable. The average is withheld.
    Incomplete = 3,
    /// Data missing, or a checksum differs.
    Data = 4,
    /// The engine or endpoint cannot do what the task needs.
    Engine = 5,
    /// Gate: the data do not decide.
    Inconclusive = 6,
    /// A bug of ours.
    Bug = 70,
    /// Ctrl-C; the journal is kept.
    Interrupted = 130,
}

/// Why a verb ended early: what failed, what to do, and the code.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub exit: Exit,
    /// First line of the message, completing "swallow-eval: ".
    pub message: String,
    /// Last line of the message, after "hint: ".
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without advice.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failure { exit, message: message.into(), hint: None }
    }

    /// Adds advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What a verb returns.
pub type Verdict = Result<Exit, Failure>;
