//! The judge's turn, in batches: what `judge` asks one by one is handed over as files, for a lower price and within 24 hours. The judge's
//! journal gets the same lines.
//!
//! Nothing is paid for twice. A batch is written down before it is sent ([`results::batches`](crate::results::batches)), and its server's
//! names for file and batch as soon as they are known; a process that ended between sending and writing is followed by one that asks the
//! server for what carries the batch's key. A failure that may pass is asked again in a next batch, within the limit of retries that holds
//! for single calls. What a batch that was cut short did not answer is a failure, which the next judging asks again.

use super::ask::{AskError, Event};
use super::judge::STAGE;
use super::verdicts::{Budget, Verdicts, bound, distinct};
use crate::engine::endpoint::batch::{self, BatchError, BatchServer, Gathered, LIMITS, Stage};
use crate::engine::{EngineError, Outcome, Request, RequestFailure, RequestId};
use crate::judge::cost;
use crate::results::{
    ResultsError,
    batches::{Batch, Batches},
    journal::{Answers, Journal},
    run_dir::RunWriter,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;

/// One judging in batches.
pub struct Batching<'a> {
    /// Who is asked.
    pub server: &'a BatchServer,
    /// The judge's name.
    pub judge: &'a str,
    /// Where batches are written down.
    pub writer: &'a RunWriter,
    /// The judge's journal.
    pub journal: &'a mut Journal,
    /// What the journal holds; grows with it.
    pub answers: &'a mut Answers,
    /// Limit on money.
    pub budget: Option<&'a Budget>,
    /// Set from outside (Ctrl-C).
    pub cancel: &'a AtomicBool,
    /// Told of progress.
    pub onlooker: &'a dyn Fn(Event<'_>),
}

/// What is to be done, and how far it is.
struct Work<'c> {
    calls: Vec<&'c Request>,
    by_id: BTreeMap<&'c RequestId, &'c Request>,
    recorded: Batches,
    /// Keys of batches that this process began: nobody else can have sent them.
    fresh: BTreeSet<String>,
    /// How often a call was tried whose failure may pass.
    tried: BTreeMap<RequestId, u32>,
    /// Calls that this judging asks no more.
    given_up: BTreeSet<RequestId>,
    verdicts: Verdicts,
}

/// Why the work stops.
enum Stop {
    Cancelled,
    Error(AskError),
}

impl From<AskError> for Stop {
    fn from(error: AskError) -> Self {
        Stop::Error(error)
    }
}

impl From<ResultsError> for Stop {
    fn from(error: ResultsError) -> Self {
        Stop::Error(error.into())
    }
}

impl From<EngineError> for Stop {
    fn from(error: EngineError) -> Self {
        Stop::Error(AskError::Engine { task: STAGE.to_owned(), error })
    }
}

impl Batching<'_> {
    /// Collects what earlier batches answered, and asks what the journal does not answer yet, and no call twice.
    ///
    /// # Errors
    /// [`AskError`]; the journal holds everything that came before, and what is at the server can be collected by the next judging.
    pub fn judge(&mut self, calls: &[Request]) -> Result<Verdicts, AskError> {
        let recorded = self.writer.dir().batches(self.judge).map_err(AskError::Recorded)?;
        self.check_server(&recorded).map_err(AskError::Recorded)?;
        let mut verdicts = Verdicts::default();
        let calls = distinct(calls, self.answers, &recorded.answered(), &mut verdicts);
        let known = calls.iter().filter(|c| self.answers.responses.contains_key(&c.id)).count() as u64;
        (self.onlooker)(Event::Task { task: STAGE, total: calls.len() as u64, known });
        let by_id = calls.iter().map(|c| (&c.id, *c)).collect();
        let (fresh, given_up) = (BTreeSet::new(), BTreeSet::new());
        let mut work = Work { calls, by_id, recorded, fresh, tried: BTreeMap::new(), given_up, verdicts };
        let before = self.server.sent();
        let ended = self.rounds(&mut work);
        (self.onlooker)(Event::Done);
        self.journal.sync()?;
        work.verdicts.stats.http_requests = self.server.sent() - before;
        work.verdicts.waiting = work.recorded.open().filter_map(|b| b.batch.clone()).collect();
        match ended {
            Ok(()) => {}
            Err(Stop::Cancelled) => work.verdicts.cancelled = true,
            Err(Stop::Error(error)) => return Err(error),
        }
        Ok(work.verdicts)
    }

    fn check_server(&self, recorded: &Batches) -> Result<(), ResultsError> {
        let given = self.server.address();
        match recorded.open().find(|b| b.server != given) {
            Some(elsewhere) => {
                let path = self.writer.dir().batches_path(self.judge);
                Err(ResultsError::OtherServer { path, recorded: elsewhere.server.clone(), given })
            }
            None => Ok(()),
        }
    }

    fn rounds(&mut self, work: &mut Work<'_>) -> Result<(), Stop> {
        let mut looks = 0;
        self.drop_what_cannot_be_sent(work)?;
        loop {
            if work.recorded.open().next().is_none() {
                looks = 0;
                if !self.plan(work)? {
                    return Ok(());
                }
            }
            self.send(work)?;
            if !self.look(work)? {
                if !self.server.pause(looks, self.cancel) {
                    return Err(Stop::Cancelled);
                }
                looks += 1;
            }
        }
    }

    fn write(&self, work: &Work<'_>) -> Result<(), ResultsError> {
        self.writer.write_batches(self.judge, &work.recorded)
    }

    /// Whether a call is still to be asked.
    fn pending(&self, work: &Work<'_>, id: &RequestId) -> bool {
        work.by_id.contains_key(id) && !self.answers.responses.contains_key(id)
    }

    /// Of what an earlier process began and did not make a batch of, some calls may have been answered one by one since: then it is not sent
    /// any more, unless the batch turns out to have been made.
    fn drop_what_cannot_be_sent(&self, work: &mut Work<'_>) -> Result<(), Stop> {
        let mut kept = Vec::new();
        for mut batch in std::mem::take(&mut work.recorded.batches) {
            let unsent = batch.ended.is_none() && batch.batch.is_none();
            if unsent && !batch.requests.iter().all(|id| self.pending(work, id)) {
                let Some(file) = &batch.file else { continue };
                match self.server.find(file, &batch.key, self.cancel).map_err(|e| self.stop(e))? {
                    Some(made) => batch.batch = Some(made.id),
                    None => continue,
                }
            }
            kept.push(batch);
        }
        work.recorded.batches = kept;
        Ok(())
    }

    /// Writes down the next batches. `false` when there is nothing to ask, or no money.
    fn plan(&self, work: &mut Work<'_>) -> Result<bool, Stop> {
        let mut groups: BTreeMap<u32, Vec<&Request>> = BTreeMap::new();
        let mut money = work.verdicts.dollars_left(self.budget);
        let open = work.calls.iter().filter(|c| self.pending(work, &c.id) && !work.given_up.contains(&c.id));
        for call in open {
            let most = self.budget.zip(bound(call)).map_or(0.0, |(budget, tokens)| {
                let price = budget.price.of_batches();
                tokens.dollars(price.as_ref().unwrap_or(&budget.price))
            });
            money -= most;
            if money < 0.0 {
                // What this round leaves of the money may still be enough for it.
                work.verdicts.over_budget = groups.is_empty();
                break;
            }
            groups.entry(work.tried.get(&call.id).unwrap_or(&0) + 1).or_default().push(call);
        }
        let any = !groups.is_empty();
        let run = self.writer.dir().id();
        for (attempt, calls) in groups {
            for part in self.server.split(&calls, LIMITS) {
                let batch = Batch::new(&run, &self.server.address(), attempt, part.iter().map(|c| c.id.clone()).collect());
                work.fresh.insert(batch.key.clone());
                work.recorded.batches.push(batch);
            }
        }
        self.write(work)?;
        Ok(any)
    }

    /// Makes a batch of everything that is none yet.
    fn send(&self, work: &mut Work<'_>) -> Result<(), Stop> {
        for at in 0..work.recorded.batches.len() {
            let entry = &work.recorded.batches[at];
            if entry.ended.is_some() || entry.batch.is_some() {
                continue;
            }
            let sent = self.send_one(work, at);
            if let Err(Refusal { stop, by_server: true }) = sent {
                // Nothing of it is at the server but perhaps a file: it is planned anew when judging goes on.
                work.recorded.batches.remove(at);
                self.write(work)?;
                return Err(stop);
            }
            sent.map_err(|refusal| refusal.stop)?;
        }
        Ok(())
    }

    fn send_one(&self, work: &mut Work<'_>, at: usize) -> Result<(), Refusal> {
        let Batch { key, file, requests, .. } = &work.recorded.batches[at];
        let (key, name, fresh) = (key.clone(), work.recorded.batches[at].file_name(), work.fresh.contains(key));
        let file = match file {
            Some(file) => file.clone(),
            None => {
                let known = if fresh { None } else { self.server.find_file(&name, self.cancel).map_err(|e| self.stop(e))? };
                let calls: Vec<&Request> = requests.iter().filter_map(|id| work.by_id.get(id).copied()).collect();
                let upload = || self.server.upload(&name, self.server.content(&calls), self.cancel);
                let file = known.map_or_else(upload, Ok).map_err(Refusal::of)?;
                work.recorded.batches[at].file = Some(file.clone());
                self.write(work)?;
                file
            }
        };
        // Only an earlier process can have made a batch of it unseen.
        let known = if fresh { None } else { self.server.find(&file, &key, self.cancel).map_err(|e| self.stop(e))? };
        let made = known.map_or_else(|| self.server.create(&file, &key, self.cancel), Ok).map_err(Refusal::of)?;
        work.recorded.batches[at].batch = Some(made.id);
        self.write(work)?;
        Ok(())
    }

    /// Looks at every batch that is open, and collects what has ended. Whether anything had.
    fn look(&mut self, work: &mut Work<'_>) -> Result<bool, Stop> {
        let mut any = false;
        for at in 0..work.recorded.batches.len() {
            let entry = &work.recorded.batches[at];
            let Some(id) = entry.batch.clone().filter(|_| entry.ended.is_none()) else { continue };
            let total = entry.requests.len() as u64;
            let nothing_open = !entry.requests.iter().any(|id| self.pending(work, id));
            let state = self.server.state(&id, self.cancel).map_err(|e| self.stop(e))?;
            (self.onlooker)(Event::Batch { id: &id, status: &state.status, through: state.done + state.failed, total });
            match &state.stage {
                Stage::Waiting if !nothing_open => continue,
                Stage::Waiting => self.end(work, at, "not waited for", None)?,
                Stage::Rejected(why) => {
                    self.end(work, at, &state.status, None)?;
                    let message = format!("{}: batch {id} was not begun ({}): {why}", self.server.address(), state.status);
                    return Err(
                        EngineError::with_hint(message, "nothing of it is paid for; without --judge-batch it is asked directly").into()
                    );
                }
                Stage::Completed | Stage::CutShort => self.collect(work, at, &state)?,
            }
            any = true;
        }
        Ok(any)
    }

    /// Marks a batch as through. `answered` are the calls that it answered; none where `None`.
    fn end(&self, work: &mut Work<'_>, at: usize, status: &str, answered: Option<&BTreeSet<RequestId>>) -> Result<(), ResultsError> {
        let entry = &mut work.recorded.batches[at];
        entry.ended = Some(status.to_owned());
        entry.unanswered = entry.requests.iter().filter(|id| answered.is_none_or(|a| !a.contains(id))).cloned().collect();
        self.write(work)
    }

    fn collect(&mut self, work: &mut Work<'_>, at: usize, state: &batch::Batch) -> Result<(), Stop> {
        let entry = work.recorded.batches[at].clone();
        let asked: BTreeSet<&RequestId> = entry.requests.iter().collect();
        let gathered = self.server.gather(state, &asked, entry.attempt, self.cancel).map_err(|e| self.stop(e))?;
        let Gathered { outcomes, again, hopeless, oddities } = gathered;
        let mut answered = BTreeSet::new();
        for outcome in outcomes {
            if let Ok(response) = &outcome
                && self.answers.responses.get(&response.id).is_none_or(|known| known == response)
            {
                answered.insert(response.id.clone());
            }
            self.take(work, outcome)?;
        }
        let retry = state.stage == Stage::Completed && hopeless.is_none() && entry.attempt <= self.server.max_retries();
        for failure in again {
            if retry {
                work.tried.insert(failure.id, entry.attempt);
            } else {
                self.take(work, Err(failure))?;
            }
        }
        if state.stage == Stage::CutShort {
            let (id, status, n, of) = (&state.id, &state.status, answered.len(), asked.len());
            work.verdicts
                .notes
                .push(format!("batch {id} ended early ({status}): {n} of {of} calls are answered, the next judging asks the rest"));
        }
        work.verdicts.notes.extend(oddities);
        // The journal must be safe before the batch counts as through.
        self.journal.sync()?;
        self.end(work, at, &state.status, Some(&answered))?;
        hopeless.map_or(Ok(()), |error| Err(error.into()))
    }

    /// An outcome into the journal, unless it is there. A failure is not asked again in this judging.
    fn take(&mut self, work: &mut Work<'_>, outcome: Outcome) -> Result<(), Stop> {
        let known = match &outcome {
            Ok(response) => self.answers.responses.contains_key(&response.id),
            Err(RequestFailure { id, .. }) => {
                work.given_up.insert(id.clone());
                self.answers.responses.contains_key(id) || self.answers.failures.get(id) == outcome.as_ref().err()
            }
        };
        if known {
            return Ok(());
        }
        self.journal.append(&outcome)?;
        (self.onlooker)(if outcome.is_ok() { Event::Answered } else { Event::Failed });
        if let Ok(response) = &outcome {
            work.verdicts.answered += 1;
            let most = || self.budget.and_then(|_| work.by_id.get(&response.id).and_then(|call| bound(call)));
            let took = cost::spent(response).or_else(most).unwrap_or_default();
            work.verdicts.count(took, true);
        }
        self.answers.add(outcome);
        Ok(())
    }

    /// What a failed look at the server means for the user: the batch is not lost.
    fn stop(&self, error: BatchError) -> Stop {
        let (BatchError::Refused(mut error) | BatchError::Unsure(mut error)) = error else { return Stop::Cancelled };
        let path = self.writer.dir().batches_path(self.judge);
        let stands = format!("the batch stands in {}; without that file its calls are asked, and paid for, anew", path.display());
        error.hint = Some(error.hint.map_or(stands.clone(), |hint| format!("{hint}; {stands}")));
        error.into()
    }
}

/// Why a batch could not be made, and whether it is the server that does not want it.
struct Refusal {
    stop: Stop,
    by_server: bool,
}

impl Refusal {
    fn of(error: BatchError) -> Self {
        match error {
            BatchError::Cancelled => Refusal { stop: Stop::Cancelled, by_server: false },
            BatchError::Refused(error) => Refusal { stop: error.into(), by_server: true },
            BatchError::Unsure(error) => Refusal { stop: error.into(), by_server: false },
        }
    }
}

impl<E: Into<Stop>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Refusal { stop: error.into(), by_server: false }
    }
}
