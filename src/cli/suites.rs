//! Which suites a command line means. Each suite is a run of its own.

use super::{
    data_source,
    exit::{Exit, Failure},
    run::{load_tasks, results_failure},
    run_args::RunArgs,
};
use crate::{
    results::run_dir::RunDir,
    task::{Task, load},
};

/// The named suites; that of the run which is resumed; else the one whose table shows the first of the tasks.
pub(super) fn of(args: &RunArgs) -> Result<Vec<String>, Failure> {
    let mut suites: Vec<String> = Vec::new();
    for suite in &args.suite {
        if !suites.contains(suite) {
            suites.push(suite.clone());
        }
    }
    let several = suites.len() > 1;
    for (given, flag) in [(args.resume.is_some(), "--resume"), (!args.tasks.is_empty(), "--tasks")] {
        if several && given {
            let message = format!("{flag} belongs to one suite, and --suite names {}", suites.join(", "));
            return Err(Failure::new(Exit::Usage, message).hint("each suite is a run of its own: name one"));
        }
    }
    if !suites.is_empty() {
        return Ok(suites);
    }
    if let Some(run) = &args.resume {
        let spec = RunDir::find(run, &args.output).and_then(|dir| dir.spec());
        return Ok(vec![spec.map_err(|e| results_failure(Exit::Usage, &e))?.suite]);
    }
    let tasks = load_tasks(args.include_path.as_deref())?;
    let first = args.tasks.first().map(|name| load::find(&tasks, name)).transpose().map_err(data_source::task_failure)?;
    first.map_or(Ok(OF_OWN_TASKS.to_owned()), shown_in).map(|suite| vec![suite])
}

/// A task of the user's own stands in no published table; any will do.
const OF_OWN_TASKS: &str = "ja";

fn shown_in(task: &Task) -> Result<String, Failure> {
    for name in load::suite_names() {
        let suite = load::suite(&name).map_err(data_source::task_failure)?;
        if suite.columns.iter().any(|column| column.task == task.name) {
            return Ok(name);
        }
    }
    Ok(OF_OWN_TASKS.to_owned())
}
