//! `compare`: two runs, document by document.

use super::{
    exit::{Exit, Failure, Verdict},
    output::print,
    report::{PLAIN, look_of_stdout, write_file},
    sides,
};
use crate::{
    compare::{CompareError, Incomparable, table},
    report::{csv, json, latex, leaderboard::Columns, markdown, table::Table, terminal},
};
use std::path::PathBuf;

/// Flags of `compare`.
#[derive(clap::Args, Clone, Debug)]
pub struct CompareArgs {
    /// What is compared with: a run, a baseline file or its name under results/baselines/, or a published row's name
    pub base: String,
    /// The run (or baseline) that is judged
    pub cand: String,
    /// List the documents whose score changed, at most N a task; in CSV and JSON instead of the table
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "50")]
    pub show_flips: Option<usize>,
    /// Compare although the runs did not do the same; the table says what differs
    #[arg(long)]
    pub force: bool,
    /// Form of the table
    #[arg(long, value_enum, default_value_t)]
    pub format: Form,
    /// File to write instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Form of a table.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// For reading in a terminal
    #[default]
    Terminal,
    /// GitHub-flavoured Markdown
    Markdown,
    /// Comma-separated values, numbers with four decimals
    Csv,
    /// JSON, numbers in full
    Json,
    /// A LaTeX tabular
    Latex,
}

/// Runs the verb.
///
/// # Errors
/// Exit 2: a run or baseline cannot be read, the two are not comparable, or the output cannot be written.
pub(super) fn run(args: &CompareArgs) -> Verdict {
    let cand = sides::candidate(&args.cand)?;
    let comparison = sides::compare(&args.base, &cand, if args.force { Incomparable::Force } else { Incomparable::Refuse })?;
    let look = if args.output.is_some() { PLAIN } else { look_of_stdout() };
    let rendered = |table: &Table| match args.format {
        Form::Terminal => terminal::render(table, look),
        Form::Markdown => markdown::render(table),
        Form::Csv => csv::render(table),
        Form::Json => json::render(table),
        Form::Latex => latex::render(table),
    };
    let columns = if matches!(args.format, Form::Csv | Form::Json) { Columns::All } else { Columns::Filled };
    let (numbers, flips) = (table::of(&comparison, columns), args.show_flips.map(|most| table::of_flips(&comparison, most)));
    let text = match (&flips, args.format) {
        (None, _) => rendered(&numbers),
        // One file for a program holds one table.
        (Some(flips), Form::Csv | Form::Json) => rendered(flips),
        (Some(flips), _) => format!("{}\n{}", rendered(&numbers), rendered(flips)),
    };
    match &args.output {
        Some(path) => write_file(path, &text)?,
        None => print(&text)?,
    }
    Ok(Exit::Ok)
}

/// Why two runs are not compared, with what to do about it.
pub(super) fn refused(error: &CompareError) -> Failure {
    let failure = Failure::new(Exit::Usage, error.to_string());
    match error {
        CompareError::Differ { .. } => failure.hint("repeat one of the runs as the other was run, or compare what they share with --force"),
        CompareError::NothingShared { .. } => failure,
    }
}
