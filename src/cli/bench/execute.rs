//! `bench execute`: programs in the sandbox.

use super::{
    lines::{self, Line},
    tell,
};
use crate::{
    cli::{
        exit::{Exit, Failure, Verdict},
        interrupt,
        output::note,
        sandbox::{SandboxArgs, failure, told},
    },
    run::measure::measure,
    sandbox::Executed,
};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Time programs in the sandbox.
#[derive(clap::Args, Clone, Debug)]
pub struct ExecuteArgs {
    /// Programs, one JSON value a line: a string, or an object with the key "program"
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Write {"verdict", "seconds"} for each line here
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How they are held
    #[command(flatten)]
    pub programs: SandboxArgs,
}

/// Runs every program once; equal ones are not told apart. `n` counts programs; the self-test stands apart.
pub(super) fn run(args: &ExecuteArgs) -> Verdict {
    let lines = lines::read(&args.input)?;
    let programs = lines.iter().map(|line| program(line, args)).collect::<Result<Vec<&str>, Failure>>()?;
    let sandbox = args.programs.choose().map_err(|e| failure(&e))?;
    note(&told(sandbox.identity()));
    let cancel = interrupt::install()?;
    let mut found: Vec<Option<Executed>> = vec![None; programs.len()];
    let (measured, done) =
        measure("execute", programs.len(), || sandbox.execute(&programs, cancel, &mut |at, executed| found[at] = Some(executed)));
    done.map_err(|e| failure(&e))?;
    if let Some(path) = &args.output {
        let rows = found.iter().flatten().map(|e| json!({"verdict": e.last.verdict.class(), "seconds": e.last.seconds}));
        lines::write(path, rows)?;
    }
    tell(&measured)?;
    Ok(Exit::Ok)
}

fn program<'l>(line: &'l Line, args: &ExecuteArgs) -> Result<&'l str, Failure> {
    let text = line.value.as_str().or_else(|| line.value.get("program").and_then(Value::as_str));
    text.ok_or_else(|| lines::wrong(&args.input, line.number, "must be a string, or an object whose \"program\" is one"))
}
