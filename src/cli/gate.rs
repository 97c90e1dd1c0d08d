//! `gate`: a comparison judged by a policy, for CI: exit code, JUnit XML, Markdown, and what GitHub shows.

use super::{
    exit::{Exit, Failure, Verdict},
    output::{complain, print},
    report::{look_of_stdout, write_file},
    settings, sides,
};
use crate::{
    compare::{
        Incomparable,
        gate::{self, Decision},
        policy::{Policy, PolicyError},
    },
    report::{junit, markdown, terminal},
};
use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
};

/// Flags of `gate`.
#[derive(clap::Args, Clone, Debug)]
pub struct GateArgs {
    /// What is compared with: a run, a baseline file or its name under results/baselines/, or a published row's name
    pub base: String,
    /// The run (or baseline) that is judged
    pub cand: String,
    /// What loss is tolerated: TOML with tables default and task.NAME
    #[arg(long, value_name = "FILE")]
    pub policy: PathBuf,
    /// Write the verdicts as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Write the table as Markdown, for a comment on a pull request
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Judge although the runs did not do the same; the table says what differs
    #[arg(long)]
    pub force: bool,
}

/// Runs the verb.
///
/// # Errors
/// Exit 2: an unreadable run, baseline or policy, runs that are not comparable, an unwritable output.
pub(super) fn run(args: &GateArgs) -> Verdict {
    let unreadable = |e: std::io::Error| {
        Failure::new(Exit::Usage, format!("cannot read the policy {}: {e}", args.policy.display()))
            .hint("a policy is a small TOML file that you write and commit; docs/gate.md has one to begin with")
    };
    let text = std::fs::read_to_string(&args.policy).map_err(unreadable)?;
    let policy = Policy::parse(&text).map_err(|e| faulty(&args.policy, &e))?;
    let cand = sides::candidate(&args.cand)?;
    let comparison = sides::compare(&args.base, &cand, if args.force { Incomparable::Force } else { Incomparable::Refuse })?;
    let known: Vec<&str> = comparison.tasks.iter().map(|task| task.task.as_str()).collect();
    policy.check_names(&known).map_err(|e| faulty(&args.policy, &e))?;
    let verdict = gate::judge(&comparison, &policy);
    let table = verdict.table();
    if let Some(path) = &args.junit {
        write_file(path, &junit::render("swallow-eval gate", &verdict.cases()))?;
    }
    let as_markdown = markdown::render(&table);
    if let Some(path) = &args.markdown {
        write_file(path, &as_markdown)?;
    }
    if let Some(summary) = settings::env("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty()) {
        append(Path::new(&summary), &as_markdown)?;
    }
    print(&terminal::render(&table, look_of_stdout()))?;
    if settings::env("GITHUB_ACTIONS").is_some_and(|value| value == "true") {
        print(&verdict.annotations())?;
    }
    complain(&format!("gate: {}", verdict.decision));
    Ok(match verdict.decision {
        Decision::Go => Exit::Ok,
        Decision::NoGo => Exit::No,
        Decision::Inconclusive => Exit::Inconclusive,
    })
}

fn faulty(path: &Path, error: &PolicyError) -> Failure {
    Failure::new(Exit::Usage, format!("{}: {error}", path.display())).hint("the keys are max_drop, alpha, min_n and required; docs/gate.md")
}

/// GitHub collects what every step adds to one file.
fn append(path: &Path, text: &str) -> Result<(), Failure> {
    let add = || OpenOptions::new().append(true).create(true).open(path)?.write_all(format!("{text}\n").as_bytes());
    add().map_err(|e| Failure::new(Exit::Usage, format!("cannot append to {} (GITHUB_STEP_SUMMARY): {e}", path.display())))
}
