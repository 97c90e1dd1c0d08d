//! `completions SHELL`: the script for a shell, made from the same definition that parses the flags.

use super::{
    args::{Cli, CompletionsArgs},
    exit::{Exit, Verdict},
    output,
};
use clap::CommandFactory;

/// Prints the script.
pub(super) fn run(args: &CompletionsArgs) -> Verdict {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "swallow-eval", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
