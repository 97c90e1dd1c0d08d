//! Flags of the sandbox, its choice, and its helper, which is this program under a hidden verb.

use super::exit::{Exit, Failure, Verdict};
use crate::sandbox::{Identity, Level, Options, Sandbox, SandboxError, worker};
use clap::{Args, ValueEnum};
use std::{io, os::fd::AsFd, path::PathBuf};

/// How programs that a model wrote are executed.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Programs")]
pub struct SandboxArgs {
    /// How programs of the code tasks are held
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = LevelChoice::Auto)]
    pub sandbox: LevelChoice,
    /// Accept --sandbox none: programs of strangers run with limits, but see files and network
    #[arg(long)]
    pub i_understand_untrusted_code: bool,
    /// The interpreter that executes programs; python3 on PATH unless given
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// Programs executed at the same time; one a physical core unless given
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub sandbox_jobs: usize,
}

/// `--sandbox`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LevelChoice {
    /// The first of namespaces and landlock that passes its self-test
    #[default]
    Auto,
    /// User namespaces, Landlock and a system-call filter
    Namespaces,
    /// Landlock and a system-call filter
    Landlock,
    /// Limits only, inside a disposable container or virtual machine
    None,
}

impl SandboxArgs {
    /// Chooses a sandbox that passes its self-test.
    ///
    /// # Errors
    /// Exit 2: `none` without the flag that accepts it; exit 5: nothing works here.
    pub(super) fn choose(&self) -> Result<Sandbox, SandboxError> {
        let own = |e: io::Error| SandboxError::Helper { helper: "this program".into(), why: e.to_string() };
        let mut options = Options::new(std::env::current_exe().map_err(own)?);
        options.python.clone_from(&self.python);
        options.jobs = self.sandbox_jobs;
        match self.sandbox {
            LevelChoice::Auto => {}
            LevelChoice::Namespaces => options.levels = vec![Level::Namespaces],
            LevelChoice::Landlock => options.levels = vec![Level::Landlock],
            LevelChoice::None if self.i_understand_untrusted_code => options.levels = vec![Level::None],
            LevelChoice::None => return Err(SandboxError::NotAccepted),
        }
        Sandbox::choose(&options)
    }
}

/// What held, for people.
pub(super) fn told(identity: &Identity) -> String {
    let shut = if identity.level == Level::None { "" } else { ", network and files of the host are out of reach" };
    let instead = if identity.refused.is_empty() { String::new() } else { format!("; refused: {}", identity.refused.join("; ")) };
    format!("sandbox {} with Python {} (self-test: right programs pass, wrong ones fail{shut}){instead}", identity.level, identity.python)
}

/// Everything that keeps programs from being executed is an error of the run.
pub(super) fn failure(error: &SandboxError) -> Failure {
    let exit = match error {
        SandboxError::Cancelled => Exit::Interrupted,
        SandboxError::NotAccepted => Exit::Usage,
        _ => Exit::Engine,
    };
    let failure = Failure::new(exit, error.to_string());
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Serves programs until the input ends.
pub(super) fn help() -> Verdict {
    let ends = io::stdin().as_fd().try_clone_to_owned().and_then(|input| Ok((input, io::stdout().as_fd().try_clone_to_owned()?)));
    let served = ends.and_then(|(input, output)| worker::serve(input, output));
    served.map(|()| Exit::Ok).map_err(|e| Failure::new(Exit::Engine, format!("sandbox helper: {e}")))
}
