//! What a person sees while a run asks: one line a task with rate, time left and failures. Standard error only; results go elsewhere.
//!
//! On a terminal the line is drawn in place; elsewhere (a log file, CI) a plain line appears now and then.

use super::output;
use crate::run::ask::Event;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    cell::RefCell,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

/// Time between plain lines: seldom enough for a log, often enough to see that something moves.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);

/// The same while a batch waits at its server, perhaps for a day.
const WAITING_INTERVAL: Duration = Duration::from_secs(300);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Not at all (`--quiet`).
    Nothing,
    /// A plain line now and then, and one at the end of each task.
    Lines,
    /// A line that is drawn in place.
    Bar,
}

impl Show {
    /// What standard error can take.
    pub fn on_stderr() -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if io::stderr().is_terminal() && !dumb && std::env::var_os("CI").is_none() { Show::Bar } else { Show::Lines }
    }
}

/// Shows the events of a run.
pub struct Progress {
    show: Show,
    task: RefCell<Option<Task>>,
}

struct Task {
    name: String,
    count: Count,
    started: Instant,
    told: Instant,
    /// Last status of a batch.
    waits_for: String,
    bar: ProgressBar,
}

/// How far a task is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    total: u64,
    /// Answered by the journal before this run began; no part of the rate.
    known: u64,
    answered: u64,
    failed: u64,
}

impl Progress {
    /// Progress that has not begun.
    pub fn new(show: Show) -> Self {
        Progress { show, task: RefCell::new(None) }
    }

    /// Takes in an event; the `onlooker` of a [`crate::run::Job`].
    pub fn see(&self, event: Event<'_>) {
        if self.show == Show::Nothing {
            return;
        }
        let mut current = self.task.borrow_mut();
        match (event, current.as_mut()) {
            (Event::Task { task, total, known }, _) => *current = Some(self.begin(task, total, known)),
            (Event::Answered, Some(task)) => {
                task.count.answered += 1;
                self.update(task);
            }
            (Event::Failed, Some(task)) => {
                task.count.failed += 1;
                self.update(task);
            }
            (Event::Batch { id, status, through, total }, Some(task)) => {
                self.wait(
                    task,
                    &format!("batch {id}: {status}, {through}/{total}, {}", clock(task.started.elapsed().as_secs_f64())),
                    status,
                );
            }
            (Event::Done, Some(task)) => {
                task.bar.finish_and_clear();
                output::complain(&format!("{}: {}", task.name, summary(task.count, task.started.elapsed())));
                *current = None;
            }
            (Event::Answered | Event::Failed | Event::Batch { .. } | Event::Done, None) => {}
        }
    }

    fn begin(&self, name: &str, total: u64, known: u64) -> Task {
        let bar = match self.show {
            Show::Bar => ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()),
            Show::Nothing | Show::Lines => ProgressBar::hidden(),
        };
        bar.set_style(ProgressStyle::with_template("{prefix:16} {bar:24} {msg}").expect("the template is a constant"));
        bar.set_prefix(name.to_owned());
        bar.set_position(known);
        let now = Instant::now();
        Task {
            name: name.to_owned(),
            count: Count { total, known, ..Count::default() },
            started: now,
            told: now,
            waits_for: String::new(),
            bar,
        }
    }

    fn update(&self, task: &mut Task) {
        let through = task.count.through();
        match self.show {
            Show::Bar => {
                task.bar.set_message(state(task.count, task.started.elapsed()));
                task.bar.set_position(through);
            }
            Show::Lines if task.told.elapsed() >= INTERVAL && through < task.count.total => {
                task.told = Instant::now();
                output::complain(&format!("{}: {}", task.name, state(task.count, task.started.elapsed())));
            }
            Show::Nothing | Show::Lines => {}
        }
    }
}

impl Progress {
    /// A batch is looked at: told when its status is another than before, and now and then.
    fn wait(&self, task: &mut Task, text: &str, status: &str) {
        match self.show {
            Show::Bar => task.bar.set_message(text.to_owned()),
            Show::Lines if task.waits_for != status || task.told.elapsed() >= WAITING_INTERVAL => {
                (task.told, task.waits_for) = (Instant::now(), status.to_owned());
                output::complain(&format!("{}: {text}", task.name));
            }
            Show::Nothing | Show::Lines => {}
        }
    }
}

impl Count {
    fn through(self) -> u64 {
        self.known + self.answered + self.failed
    }

    /// Requests a second in this run; `None` before there is one.
    fn rate(self, elapsed: Duration) -> Option<f64> {
        let through = (self.answered + self.failed) as f64;
        (through > 0.0 && !elapsed.is_zero()).then(|| through / elapsed.as_secs_f64())
    }
}

/// `40/120  12.3/s  6s left  1 failed`
fn state(count: Count, elapsed: Duration) -> String {
    let mut text = format!("{}/{}", count.through(), count.total);
    if let Some(rate) = count.rate(elapsed) {
        let left = count.total.saturating_sub(count.through()) as f64 / rate;
        text += &format!("  {rate:.1}/s  {} left", clock(left));
    }
    text + &failures(count)
}

/// `120/120 in 9s  13.3/s  40 known before  1 failed`
fn summary(count: Count, elapsed: Duration) -> String {
    let mut text = format!("{}/{} in {}", count.through(), count.total, clock(elapsed.as_secs_f64()));
    if let Some(rate) = count.rate(elapsed) {
        text += &format!("  {rate:.1}/s");
    }
    if count.known > 0 {
        text += &format!("  {} known before", count.known);
    }
    text + &failures(count)
}

fn failures(count: Count) -> String {
    if count.failed > 0 { format!("  {} failed", count.failed) } else { String::new() }
}

/// `7s`, `1m05s`, `2h03m`
pub(super) fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let count = |total, known, answered, failed| Count { total, known, answered, failed };
        for (count, seconds, during, after) in [
            (count(120, 0, 0, 0), 3, "0/120", "0/120 in 3s"),
            (count(120, 0, 40, 0), 4, "40/120  10.0/s  8s left", "40/120 in 4s  10.0/s"),
            // What the journal knew before must not make this run look fast.
            (count(120, 80, 19, 1), 10, "100/120  2.0/s  10s left  1 failed", "100/120 in 10s  2.0/s  80 known before  1 failed"),
            (count(7200, 0, 100, 0), 100, "100/7200  1.0/s  1h58m left", "100/7200 in 1m40s  1.0/s"),
            (count(0, 0, 0, 0), 0, "0/0", "0/0 in 0s"),
        ] {
            let elapsed = Duration::from_secs(seconds);
            assert_eq!((state(count, elapsed).as_str(), summary(count, elapsed).as_str()), (during, after));
        }
    }

    #[test]
    fn events_are_counted() {
        let progress = Progress::new(Show::Lines);
        progress.see(Event::Answered);
        progress.see(Event::Task { task: "t", total: 5, known: 1 });
        for event in [Event::Answered, Event::Failed, Event::Answered] {
            progress.see(event);
        }
        assert_eq!(progress.task.borrow().as_ref().map(|t| t.count), Some(Count { total: 5, known: 1, answered: 2, failed: 1 }));
        progress.see(Event::Done);
        assert!(progress.task.borrow().is_none());
    }
}
