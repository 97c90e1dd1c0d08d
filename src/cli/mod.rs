//! Verbs, flags, messages, exit codes. The only room that prints.
//!
//! `args`, `run_args`, `values` say what may be typed; `layers` adds what is set elsewhere; a file a verb does it; [`main`] turns the outcome
//! into a message and an exit code.

pub mod args;
pub mod baseline;
pub mod bench;
mod certify;
mod chat_template;
pub mod compare;
mod completions;
pub mod data;
mod data_source;
pub mod devices;
mod doctor;
mod downloads;
mod dry_run;
mod engines;
pub mod exit;
pub mod export;
pub mod gate;
pub mod interrupt;
pub mod judge;
pub mod layers;
pub mod leaderboard;
pub mod merge;
pub mod model_choice;
pub mod output;
pub mod progress;
pub mod report;
mod run;
pub mod run_args;
pub mod sandbox;
mod score;
mod setting_files;
pub mod settings;
mod sides;
mod suites;
mod tasks;
mod threads;
pub mod values;

use crate::results::command_line::redact;
use args::Command;
use exit::{Exit, Failure, Verdict};
use layers::{Invocation, Stop, Surroundings};
use std::{any::Any, backtrace::Backtrace, panic, process::ExitCode};

/// The whole program: parse, do, say how it went.
pub fn main() -> ExitCode {
    panic::set_hook(Box::new(report_bug));
    let outcome = panic::catch_unwind(|| {
        settings::load()?;
        let invocation = layers::parse(std::env::args_os(), &Surroundings::of_process())?;
        invocation.notes.iter().for_each(|note| output::note(note));
        dispatch(invocation).map_err(Stop::from)
    });
    let exit = match outcome {
        Ok(Ok(exit)) => exit,
        Ok(Err(Stop::Failure(failure))) => tell(&failure),
        Ok(Err(Stop::Clap(error))) => show(&error),
        Err(panic) if reader_left(panic.as_ref()) => Exit::Ok,
        Err(_) => Exit::Bug,
    };
    ExitCode::from(exit as u8)
}

fn dispatch(invocation: Invocation) -> Verdict {
    match invocation.cli.command {
        Command::Report(args) => report::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Gate(args) => gate::run(&args),
        Command::Baseline(args) => baseline::run(&args),
        Command::Leaderboard(args) => leaderboard::run(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Run(args) => run::run(&args, invocation.command_line),
        Command::Score(args) => score::run(&args),
        Command::Judge(args) => judge::run(&args),
        Command::Certify(args) => certify::run(&args),
        Command::Data(command) => data::run(&command),
        Command::Tasks(command) => tasks::run(&command),
        Command::Sandbox => sandbox::help(),
    }
}

/// What failed, then what to do.
fn tell(failure: &Failure) -> Exit {
    if !failure.message.is_empty() {
        output::complain(&format!("swallow-eval: {}", failure.message));
    }
    if let Some(hint) = &failure.hint {
        output::complain(&format!("hint: {hint}"));
    }
    failure.exit
}

/// clap's own words: help and version on standard output, usage errors on standard error.
fn show(error: &clap::Error) -> Exit {
    match error.print() {
        Err(e) if !error.use_stderr() => tell(&Failure::from(e)),
        _ if error.use_stderr() => Exit::Usage,
        _ => Exit::Ok,
    }
}

/// A panic is a bug of ours: one line, and the stack only for those who ask.
fn report_bug(info: &panic::PanicHookInfo<'_>) {
    if reader_left(info.payload()) {
        return;
    }
    let place = info.location().map_or(String::new(), |at| format!(" ({}:{})", at.file(), at.line()));
    let message = info.payload_as_str().unwrap_or("no message").replace('\n', " ");
    output::complain(&format!("swallow-eval: this is a bug: {}{place}", redact(&message)));
    output::complain("hint: please report it with the command line; RUST_BACKTRACE=1 shows the stack");
    let stack = Backtrace::capture();
    if stack.status() == std::backtrace::BacktraceStatus::Captured {
        output::complain(&stack.to_string());
    }
}

/// `println!` panics when its reader is gone (`| head`), which is no bug.
fn reader_left(payload: &(dyn Any + Send)) -> bool {
    let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    text.is_some_and(|text| text.starts_with("failed printing to stdout") && text.contains("Broken pipe"))
}
