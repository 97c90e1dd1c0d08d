//! `leaderboard`: many runs in one table, published rows beside them.

use super::{
    exit::{Exit, Failure, Verdict},
    output::print,
    report::{look_of_stdout, write_file},
    run::results_failure,
};
use crate::{
    report::{
        csv,
        html::board,
        latex,
        leaderboard::{self, Columns},
        markdown, terminal,
    },
    results::{
        ResultsError,
        frame::{self, Frame, RowsBy},
        reference,
        run_dir::RunDir,
        scores::Scores,
    },
};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// Flags of `leaderboard`.
#[derive(clap::Args, Clone, Debug)]
pub struct LeaderboardArgs {
    /// Run directories, their ids under results/runs/, or folders of run directories
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Put the published rows beside ours
    #[arg(long)]
    pub published: bool,
    /// What a row is: a run, or a model with mean and deviation over its runs
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = By::Run)]
    pub by: By,
    /// Column to rank by, such as "Ja Avg" or JMMLU; the average that most rows have, unless given
    #[arg(long, value_name = "COLUMN", value_parser = column)]
    pub rank_by: Option<&'static str>,
    /// Write every column as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write the filled columns as Markdown
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Write the filled columns as LaTeX
    #[arg(long, value_name = "FILE")]
    pub latex: Option<PathBuf>,
    /// Write the filled columns as one self-contained page
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write every column, numbers in full, as Parquet
    #[arg(long, value_name = "FILE")]
    pub parquet: Option<PathBuf>,
}

/// What a row is.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// One run
    Run,
    /// All runs of a model
    Model,
}

/// Runs the verb. Without a file to write, the table goes to standard output.
///
/// # Errors
/// Exit 2: a run cannot be read or has no scores, or a file cannot be written.
pub(super) fn run(args: &LeaderboardArgs) -> Verdict {
    let usage = |e: ResultsError| results_failure(Exit::Usage, &e);
    let dirs = dirs(&args.runs)?;
    let read = |dir: &RunDir| Ok((dir.id(), dir.scores()?));
    let runs: Vec<(String, Scores)> = dirs.par_iter().map(read).collect::<Result<_, ResultsError>>().map_err(usage)?;
    let published = if args.published {
        reference::SUITES.into_iter().flat_map(|s| reference::rows(s).unwrap_or_default()).collect()
    } else {
        Vec::new()
    };
    let by = if args.by == By::Model { RowsBy::Model } else { RowsBy::Run };
    let frame = Frame::new(&runs, &published, by, args.rank_by);
    if let Some(path) = &args.csv {
        write_file(path, &csv::render(&leaderboard::of(&frame, Columns::All)))?;
    }
    let filled = leaderboard::of(&frame, Columns::Filled);
    if let Some(path) = &args.markdown {
        write_file(path, &markdown::render(&filled))?;
    }
    if let Some(path) = &args.latex {
        write_file(path, &latex::render(&filled))?;
    }
    if let Some(path) = &args.html {
        write_file(path, &board::render(&filled))?;
    }
    if let Some(path) = &args.parquet {
        frame.write_parquet(path).map_err(usage)?;
    }
    if [&args.csv, &args.markdown, &args.latex, &args.html, &args.parquet].iter().all(|file| file.is_none()) {
        print(&terminal::render(&filled, look_of_stdout()))?;
    }
    Ok(Exit::Ok)
}

/// Runs as named; a folder that is no run stands for the runs in it, by name.
fn dirs(named: &[PathBuf]) -> Result<Vec<RunDir>, Failure> {
    let mut found = Vec::new();
    for path in named {
        match RunDir::find(path, Path::new("results")) {
            Ok(dir) => found.push(dir),
            Err(error) => {
                let mut inside: Vec<PathBuf> = std::fs::read_dir(path).map(|d| d.flatten().map(|e| e.path()).collect()).unwrap_or_default();
                inside.sort();
                let runs: Vec<RunDir> = inside.iter().filter_map(|path| RunDir::open(path).ok()).collect();
                if runs.is_empty() {
                    return Err(results_failure(Exit::Usage, &error));
                }
                found.extend(runs);
            }
        }
    }
    Ok(found)
}

fn column(text: &str) -> Result<&'static str, String> {
    let headings = frame::headings();
    let found = headings.iter().find(|heading| heading.title.eq_ignore_ascii_case(text)).map(|heading| heading.title);
    found.ok_or_else(|| format!("the columns are: {}", headings.iter().map(|h| h.title).collect::<Vec<_>>().join(", ")))
}
