//! Asks an engine what the journal does not answer yet, and puts every outcome into the journal at once.

use super::{grade::GradeError, plan::PlannedTask};
use crate::engine::{Engine, EngineError, Outcome, Request, RequestId, Sink, Stats};
use crate::results::{
    ResultsError,
    journal::{Answers, Journal},
};
use crate::sandbox::SandboxError;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

/// What an onlooker may want to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'e> {
    /// A task's turn: `total` distinct requests, `known` of which the journal answers.
    Task {
        /// Task name.
        task: &'e str,
        /// Distinct requests.
        total: u64,
        /// Answered before.
        known: u64,
    },
    /// A request was answered.
    Answered,
    /// A request failed for good.
    Failed,
    /// A batch of requests is at a server.
    Batch {
        /// The server's name for it.
        id: &'e str,
        /// In the server's words.
        status: &'e str,
        /// Requests that are through.
        through: u64,
        /// Requests in it.
        total: u64,
    },
    /// The task's requests are through.
    Done,
}

/// Why asking ended early. What the journal has stays valid.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The engine can do no more (exit code 5).
    #[error("task '{task}': {error}")]
    Engine {
        /// Which task was asked.
        task: String,
        /// The engine's own words.
        error: EngineError,
    },
    /// The recorded journal cannot be read, so nothing was asked (exit code 2).
    #[error(transparent)]
    Recorded(ResultsError),
    /// Programs cannot be executed (exit code 5).
    #[error(transparent)]
    Sandbox(SandboxError),
    /// The journal cannot be written (exit code 3).
    #[error(transparent)]
    Output(#[from] ResultsError),
}

impl From<GradeError> for AskError {
    fn from(error: GradeError) -> Self {
        match error {
            GradeError::Sandbox(error) => AskError::Sandbox(error),
            GradeError::Results(error) => AskError::Output(error),
        }
    }
}

/// What asking came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    /// Requests answered now.
    pub answered: u64,
    /// What it cost.
    pub stats: Stats,
    /// Whether the user stopped it.
    pub cancelled: bool,
}

/// Checks every request against what the engine can do, before the first is served.
///
/// # Errors
/// [`AskError::Engine`] with the first refusal.
pub fn check(tasks: &[PlannedTask], engine: &dyn Engine) -> Result<(), AskError> {
    for planned in tasks {
        if let Some(error) = planned.asked.iter().find_map(|a| engine.refusal(&a.request)) {
            return Err(AskError::Engine { task: planned.task.name.clone(), error });
        }
    }
    Ok(())
}

/// One asking: where answers go, who watches, who may stop it.
pub struct Asking<'a> {
    /// Gets every outcome at once.
    pub journal: &'a mut Journal,
    /// What is known so far; grows with the journal.
    pub answers: &'a mut Answers,
    /// Set from outside (Ctrl-C).
    pub cancel: &'a AtomicBool,
    /// Told of progress.
    pub onlooker: &'a dyn Fn(Event<'_>),
}

impl Asking<'_> {
    /// Asks task by task, so that an engine sees all prompts of a task at once and can share what they share.
    ///
    /// # Errors
    /// [`AskError`]; journal and answers hold everything that came before.
    pub fn ask(&mut self, tasks: &[PlannedTask], engine: &mut dyn Engine) -> Result<Asked, AskError> {
        let mut total = Asked::default();
        for planned in tasks {
            let distinct: BTreeSet<&RequestId> = planned.asked.iter().map(|a| &a.request.id).collect();
            let pending = pending(planned, self.answers);
            let known = (distinct.len() - pending.len()) as u64;
            (self.onlooker)(Event::Task { task: &planned.task.name, total: distinct.len() as u64, known });
            if !pending.is_empty() {
                self.serve(&planned.task.name, &pending, engine, &mut total)?;
            }
            (self.onlooker)(Event::Done);
            if total.cancelled {
                break;
            }
        }
        self.journal.sync()?;
        Ok(total)
    }

    fn serve(&mut self, task: &str, pending: &[Request], engine: &mut dyn Engine, total: &mut Asked) -> Result<(), AskError> {
        let mut broken = None;
        let mut push = |outcome: Outcome| {
            if let Err(error) = self.journal.append(&outcome) {
                broken = Some(error);
                return ControlFlow::Break(());
            }
            (self.onlooker)(if outcome.is_ok() { Event::Answered } else { Event::Failed });
            total.answered += u64::from(outcome.is_ok());
            self.answers.add(outcome);
            ControlFlow::Continue(())
        };
        let mut sink = Sink::new(&mut push, self.cancel);
        let served = engine.serve(pending, &mut sink);
        let cancelled = sink.cancelled();
        if let Some(error) = broken {
            return Err(error.into());
        }
        total.cancelled |= cancelled;
        match served {
            Ok(stats) => total.stats.add(&stats),
            // An engine may give up in any way when it is told to stop.
            Err(_) if cancelled => {}
            Err(error) => return Err(AskError::Engine { task: task.to_owned(), error }),
        }
        Ok(())
    }
}

/// Requests without an answer, each once, in protocol order. A recorded failure is asked again.
fn pending(planned: &PlannedTask, answers: &Answers) -> Vec<Request> {
    let mut seen = BTreeSet::new();
    let open = |r: &&Request| !answers.responses.contains_key(&r.id);
    planned.asked.iter().map(|a| &a.request).filter(open).filter(|r| seen.insert(r.id.clone())).cloned().collect()
}
