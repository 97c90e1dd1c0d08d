//! Between answer and score: programs are executed in the sandbox, once each. What a run recorded is not executed again.

use super::score::program;
use crate::results::{
    ResultsError,
    journal::Answers,
    requests::PlannedRequest,
    run_dir::RunWriter,
    verdicts::{Run, Verdict},
};
use crate::sandbox::{self, Executed, Execution, Identity, Sandbox, SandboxError};
use crate::task::{Grade, Task};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::AtomicBool,
};

/// Where a sandbox comes from, once something must be executed.
pub type Chosen<'c> = &'c dyn Fn() -> Result<Sandbox, SandboxError>;

/// Why programs have no verdicts.
#[derive(Debug, thiserror::Error)]
pub enum GradeError {
    /// They cannot be executed (exit code 5).
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A file of the run.
    #[error(transparent)]
    Results(#[from] ResultsError),
}

/// Verdicts, and what they were made in.
#[derive(Clone, Debug, Default)]
pub struct Graded {
    verdicts: BTreeMap<String, Verdict>,
    identity: Option<Identity>,
}

impl Graded {
    /// The verdict on a program.
    pub fn verdict(&self, program: &str) -> Option<&Verdict> {
        self.verdicts.get(&self.identity.as_ref()?.key(program))
    }

    /// What held the programs; `None` where there were none.
    pub fn sandbox(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }
}

/// Whether a task's answers are executed.
pub fn executes(task: &Task) -> bool {
    task.file.grade == Grade::Execute
}

/// Executes every program among the answers that has no recorded verdict.
///
/// # Errors
/// [`GradeError`]. What was executed until then is recorded.
pub fn grade(
    tasks: &[Task],
    asked: &[PlannedRequest],
    answers: &Answers,
    writer: &RunWriter,
    chosen: Chosen<'_>,
    cancel: &AtomicBool,
) -> Result<Graded, GradeError> {
    let executed = |name: &str| tasks.iter().any(|t| t.name == name && executes(t));
    let programs: BTreeSet<String> =
        asked.iter().filter(|a| executed(&a.task)).filter_map(|a| program(a, answers)).map(|(_, program)| program).collect();
    if programs.is_empty() {
        return Ok(Graded::default());
    }
    let recorded: Option<Identity> = writer.dir().sandbox()?;
    let lines = writer.dir().verdicts()?;
    let mut graded = Graded { verdicts: lines.into_iter().map(|v| (v.key.clone(), v)).collect(), identity: recorded };
    if programs.iter().all(|program| graded.verdict(program).is_some()) {
        return Ok(graded);
    }
    let sandbox = chosen()?;
    graded.identity = Some(sandbox.identity().clone());
    writer.write_sandbox(sandbox.identity())?;
    let open: Vec<&str> = programs.iter().map(String::as_str).filter(|p| graded.verdict(p).is_none()).collect();
    let result = sandbox.execute(&open, cancel, &mut |index, executed| {
        let key = sandbox.identity().key(open[index]);
        graded.verdicts.insert(key.clone(), line(key, &executed));
    });
    writer.write_verdicts(graded.verdicts.values())?;
    result?;
    Ok(graded)
}

fn line(key: String, executed: &Executed) -> Verdict {
    Verdict { key, run: run(&executed.last), crowded: executed.crowded.as_ref().map(run) }
}

fn run(execution: &Execution) -> Run {
    let message = match &execution.verdict {
        sandbox::Verdict::Failed { message } => Some(message.clone()),
        sandbox::Verdict::Died { why } => Some(why.clone()),
        sandbox::Verdict::Passed | sandbox::Verdict::TimedOut => None,
    };
    Run { verdict: execution.verdict.class().to_owned(), message, seconds: execution.seconds }
}
