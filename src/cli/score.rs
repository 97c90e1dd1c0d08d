//! `score`: a recorded run's answers again, without model and data set.

use super::{
    args::ScoreArgs,
    data_source,
    exit::{Exit, Failure, Verdict},
    output::{complain, note},
    run::{load_tasks, results_failure, tool_failure, write_table},
};
use crate::{
    dataset::Network,
    metric::Need,
    results::{reference, run_dir::RunDir, spec::RunSpec},
    run::{
        grade::GradeError,
        rescore,
        resources::{Tools, needing},
    },
    task::{Task, load},
};
use std::path::Path;

/// Runs the verb.
///
/// # Errors
/// Exit 2: the run cannot be read, or its task is not known; exit 3: documents have no answer, or a file cannot be written.
pub(super) fn run(args: &ScoreArgs) -> Verdict {
    let usage = |e| results_failure(Exit::Usage, &e);
    let dir = RunDir::find(&args.run, Path::new("results")).map_err(usage)?;
    let spec = dir.spec().map_err(usage)?;
    let published = match &args.against {
        Some(name) => Some(reference::row(&spec.suite, name).map_err(usage)?),
        None => reference::row(&spec.suite, &spec.engine.model).ok().filter(|_| !spec.demo),
    };
    let suite = load::suite(&spec.suite).map_err(data_source::task_failure)?;
    let tasks = load_tasks(args.include_path.as_deref())?;
    for recorded in &spec.tasks {
        let task = load::find(&tasks, &recorded.task).map_err(data_source::task_failure)?;
        if task.sha256 != recorded.task_sha256 && !args.quiet {
            note(&format!("task '{}' has changed since this run was recorded; its answers are scored by the file of today", recorded.task));
        }
    }
    let writer = dir.clone().into_writer().map_err(usage)?;
    let tools = recorded_tools(&dir, &spec, &tasks)?;
    let finished = rescore(&dir, &suite, &tasks, &writer, &tools, &|| args.programs.choose()).map_err(|e| unscored(&e))?;
    if let Some(torn) = &finished.torn {
        note(torn);
    }
    let scores = finished.scores.as_ref().ok_or_else(|| Failure::new(Exit::Bug, "scoring gave no scores"))?;
    write_table(scores, &writer, published.as_ref())?;
    if finished.failed > 0 {
        complain(&format!("incomplete: {} of {} documents have no answer", finished.failed, finished.documents));
        return Ok(Exit::Incomplete);
    }
    Ok(Exit::Ok)
}

/// A recorded run that cannot be scored.
pub(super) fn unscored(error: &GradeError) -> Failure {
    match error {
        GradeError::Results(e) => results_failure(Exit::Usage, e),
        GradeError::Sandbox(e) => super::sandbox::failure(e),
    }
}

/// What scoring this run needs.
fn recorded_tools(dir: &RunDir, spec: &RunSpec, tasks: &[Task]) -> Result<Tools, Failure> {
    let of_run = || tasks.iter().filter(|task| spec.tasks.iter().any(|t| t.task == task.name));
    let segmenter = needing(of_run(), Need::Nagisa).map(|_| data_source::nagisa(&data_source::files(Network::Allowed, None)));
    let tools = Tools::recorded(dir, segmenter.transpose().map_err(|e| tool_failure(&e))?).map_err(|e| tool_failure(&e))?;
    tools.check(of_run()).map_err(|e| tool_failure(&e))?;
    Ok(tools)
}
