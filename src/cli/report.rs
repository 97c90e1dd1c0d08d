//! `report`: recorded runs as a table, on standard output or in a file. Asks no model.

use super::{
    exit::{Exit, Failure, Verdict},
    output,
};
use crate::{
    report::{
        csv,
        html::{self, Subject},
        json, junit, latex,
        many_runs::NamedScores,
        markdown,
        table::Table,
        terminal::{self, Colour, Look},
    },
    results::{
        ResultsError, atomic,
        reference::{self, ReferenceRow},
        run_dir::RunDir,
    },
};
use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

/// Show recorded runs as a table.
#[derive(clap::Args, Clone, Debug)]
pub struct ReportArgs {
    /// Run directories, or their ids under results/runs/
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Form of the table
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// File to write instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Published row to compare with, such as "Llama 3.1 Swallow 70B Instruct"
    ///
    /// Without it one run stands beside the published row of its own model, where there is one, and several runs beside every published row.
    #[arg(long, value_name = "NAME")]
    pub against: Option<String>,
}

/// Form of a table.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For reading in a terminal
    #[default]
    Terminal,
    /// GitHub-flavoured Markdown
    Markdown,
    /// Comma-separated values, numbers with four decimals
    Csv,
    /// JSON, numbers in full
    Json,
    /// A LaTeX tabular with booktabs rules
    Latex,
    /// JUnit XML, a case a column, for CI
    Junit,
    /// One self-contained page with tables, charts, facts and every document
    Html,
}

/// Runs the verb.
///
/// # Errors
/// Exit 2 when a run cannot be read or has no scores, runs are of different suites, no published row has the name, or the file cannot be
/// written.
pub fn run(args: &ReportArgs) -> Verdict {
    let look = if args.output.is_some() { PLAIN } else { look_of_stdout() };
    let text = match args.format {
        Format::Terminal => terminal::render(&table(args)?, look),
        Format::Markdown => markdown::render(&table(args)?),
        Format::Csv => csv::render(&table(args)?),
        Format::Json => json::render(&table(args)?),
        Format::Latex => latex::render(&table(args)?),
        Format::Junit => cases(args)?,
        Format::Html => page(args)?,
    };
    match &args.output {
        Some(path) => write_file(path, &text)?,
        None => output::print(&text)?,
    }
    Ok(Exit::Ok)
}

/// How text looks that does not go to a terminal.
pub const PLAIN: Look = Look { width: None, colour: Colour::Plain };

/// How standard output wants its text: its width when it is a terminal, colours unless `NO_COLOR` is set and not empty.
pub fn look_of_stdout() -> Look {
    if !io::stdout().is_terminal() {
        return PLAIN;
    }
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Look { width: comfy_table::Table::new().width(), colour: if no_colour { Colour::Plain } else { Colour::Ansi } }
}

fn table(args: &ReportArgs) -> Result<Table, Failure> {
    let dirs = found(args)?;
    let runs = dirs.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let suite = runs.first().map(|run| run.scores.suite.clone()).unwrap_or_default();
    if let Some(other) = runs.iter().find(|run| run.scores.suite != suite) {
        let message = format!(
            "runs of different suites do not share a table: {} is of suite {}, {} of {suite}",
            other.run, other.scores.suite, runs[0].run
        );
        return Err(Failure::new(Exit::Usage, message).hint("report one suite at a time"));
    }
    if let ([only], [dir]) = (runs.as_slice(), dirs.as_slice()) {
        let published = match &args.against {
            Some(name) => Some(reference::row(&suite, name).map_err(failure)?),
            None => reference::row(&suite, &only.scores.model).ok(),
        };
        return Ok(Table::of_run(&only.scores, published.as_ref()).footnote(format!("files: {}", dir.path().display())));
    }
    Ok(Table::of_runs(&runs, &published_rows(&suite, args.against.as_deref())?))
}

/// JUnit XML over all runs, whatever their suites.
fn cases(args: &ReportArgs) -> Result<String, Failure> {
    let runs = found(args)?.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    Ok(junit::render("swallow-eval", &runs.iter().flat_map(junit::of_run).collect::<Vec<_>>()))
}

/// One page over all runs, whatever their suites.
fn page(args: &ReportArgs) -> Result<String, Failure> {
    if args.output.is_none() && io::stdout().is_terminal() {
        let failure = Failure::new(Exit::Usage, "a page is for a browser, not for a terminal");
        return Err(failure.hint("name a file: --format html --output report.html"));
    }
    let dirs = found(args)?;
    let runs = dirs.iter().map(|dir| subject(dir, args.against.as_deref()).map_err(failure)).collect::<Result<Vec<_>, _>>()?;
    if let Some(name) = args.against.as_deref().filter(|_| runs.iter().all(|run| run.published.is_none())) {
        runs.first().map_or(Ok(()), |run| reference::row(&run.scores.suite, name).map(drop)).map_err(failure)?;
    }
    Ok(html::render(&runs))
}

/// A run beside its published row: the named one, or that of its own model. A demo is held against nothing unasked.
fn subject(dir: &RunDir, against: Option<&str>) -> Result<Subject, ResultsError> {
    let recorded = dir.recorded()?;
    let scores = &recorded.scores;
    let name = against.or_else(|| (!scores.demo).then_some(scores.model.as_str()));
    let published = name.and_then(|name| reference::row(&scores.suite, name).ok());
    Ok(Subject { recorded, published })
}

fn found(args: &ReportArgs) -> Result<Vec<RunDir>, Failure> {
    args.runs.iter().map(|run| RunDir::find(run, Path::new("results")).map_err(failure)).collect()
}

/// The named row, or every row of the suite.
fn published_rows(suite: &str, against: Option<&str>) -> Result<Vec<ReferenceRow>, Failure> {
    match against {
        Some(name) => reference::row(suite, name).map(|row| vec![row]).map_err(failure),
        None => Ok(reference::rows(suite).unwrap_or_default()),
    }
}

fn read(dir: &RunDir) -> Result<NamedScores, Failure> {
    Ok(NamedScores { run: dir.id(), scores: dir.scores().map_err(failure)? })
}

/// Replaces a file as a whole; what is not a file (`/dev/stdout`, a pipe) is written to.
pub(super) fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    let special = path.metadata().is_ok_and(|m| !m.is_file() && !m.is_dir());
    let written = if special {
        std::fs::write(path, text).map_err(|source| ResultsError::Io { action: "write", path: path.to_owned(), source })
    } else {
        atomic::write(path, |out| out.write_all(text.as_bytes()))
    };
    written.map_err(failure)
}

/// An error about our own files outside a run.
fn failure(error: ResultsError) -> Failure {
    let failure = Failure::new(Exit::Usage, error.to_string());
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
