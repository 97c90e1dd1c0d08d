//! What a person sees while files are downloaded: how much of them is here, rate and time left. Standard error only.
//!
//! On a terminal the line is drawn in place; elsewhere (a log file, CI) a plain line appears now and then.

use super::{
    output,
    progress::{INTERVAL, Show, clock},
};
use crate::dataset::fetch::Progress;
use indicatif::{DecimalBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Shows the downloads of one data set or model.
pub(super) struct Downloads {
    show: Show,
    name: String,
    state: RefCell<State>,
    bar: ProgressBar,
}

struct State {
    files: BTreeMap<String, File>,
    /// Bytes that came in this process; what an earlier one left is no part of the rate.
    received: u64,
    started: Instant,
    told: Instant,
}

#[derive(Clone, Copy, Debug)]
struct File {
    have: u64,
    /// `None` where only the end will tell.
    bytes: Option<u64>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    UnderWay,
    Here,
}

impl Downloads {
    /// Downloads that have not begun, and may never: nothing is shown until there is one.
    pub(super) fn new(show: Show, name: &str) -> Self {
        let now = Instant::now();
        let state = State { files: BTreeMap::new(), received: 0, started: now, told: now };
        Downloads { show, name: name.to_owned(), state: RefCell::new(state), bar: ProgressBar::hidden() }
    }

    /// Takes in an event.
    pub(super) fn see(&self, event: Progress) {
        if self.show == Show::Nothing {
            return;
        }
        let mut state = self.state.borrow_mut();
        match event {
            Progress::Waiting { cache } => self.tell(&format!("another process downloads into {}: waiting for it", cache.display())),
            Progress::Cached { why } => self.tell(&format!("{why}; what is in the cache is used")),
            Progress::Retrying { file, why, pause } => {
                self.tell(&format!("{file}: {why}; again in {} s", pause.as_secs_f64().ceil()));
            }
            Progress::Started { file, bytes, have } => {
                if state.files.is_empty() {
                    self.begin(&mut state);
                }
                state.files.insert(file, File { have, bytes, stage: Stage::UnderWay });
            }
            Progress::Received { file, have } => state.receive(&file, have),
            Progress::Finished { file, bytes } => {
                state.files.insert(file, File { have: bytes, bytes: Some(bytes), stage: Stage::Here });
            }
        }
        self.draw(&mut state);
    }

    /// Says how much came. Nothing, when nothing had to.
    pub(super) fn end(self) {
        let state = self.state.into_inner();
        self.bar.finish_and_clear();
        if self.show != Show::Nothing && state.files.values().any(|file| file.stage == Stage::Here) {
            output::complain(&format!("{}: {}", self.name, state.summary(state.started.elapsed())));
        }
    }

    fn begin(&self, state: &mut State) {
        let now = Instant::now();
        (state.started, state.told) = (now, now);
        if self.show == Show::Bar {
            self.bar.set_style(ProgressStyle::with_template("{prefix:16} {bar:24} {msg}").expect("the template is a constant"));
            self.bar.set_prefix(self.name.clone());
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    fn draw(&self, state: &mut State) {
        match self.show {
            Show::Bar => {
                let (have, bytes) = state.bytes();
                self.bar.set_length(bytes.max(1));
                self.bar.set_position(have);
                self.bar.set_message(state.line(state.started.elapsed()));
            }
            Show::Lines if state.told.elapsed() >= INTERVAL => {
                state.told = Instant::now();
                self.tell(&state.line(state.started.elapsed()));
            }
            Show::Lines | Show::Nothing => {}
        }
    }

    /// A line that stays, above the one that is drawn in place.
    fn tell(&self, text: &str) {
        self.bar.suspend(|| output::complain(&format!("{}: {text}", self.name)));
    }
}

impl State {
    fn receive(&mut self, file: &str, have: u64) {
        if let Some(file) = self.files.get_mut(file) {
            // A file that starts anew has less than before.
            self.received += if have > file.have { have - file.have } else { have };
            file.have = have;
        }
    }

    /// Here, and in all as far as it is known.
    fn bytes(&self) -> (u64, u64) {
        let have = self.files.values().map(|file| file.have).sum();
        let bytes = self.files.values().map(|file| file.bytes.unwrap_or(file.have).max(file.have)).sum();
        (have, bytes)
    }

    fn here(&self) -> usize {
        self.files.values().filter(|file| file.stage == Stage::Here).count()
    }

    /// Bytes a second; `None` before anything came.
    fn rate(&self, elapsed: Duration) -> Option<f64> {
        (self.received > 0 && !elapsed.is_zero()).then(|| self.received as f64 / elapsed.as_secs_f64())
    }

    /// `2 files done  3.00 MB of 12.00 MB  1.50 MB/s  6s left`
    fn line(&self, elapsed: Duration) -> String {
        let (have, bytes) = self.bytes();
        let mut text = format!("{} done  {} of {}", files(self.here()), DecimalBytes(have), DecimalBytes(bytes));
        if let Some(rate) = self.rate(elapsed) {
            text += &format!("  {}/s", DecimalBytes(rate as u64));
            if self.files.values().all(|file| file.bytes.is_some()) {
                text += &format!("  {} left", clock((bytes - have) as f64 / rate));
            }
        }
        text
    }

    /// `53 files, 1.50 MB in 3s  500.00 kB/s`
    fn summary(&self, elapsed: Duration) -> String {
        let here = self.files.values().filter(|file| file.stage == Stage::Here).map(|file| file.have).sum();
        let rate = self.rate(elapsed).map_or(String::new(), |rate| format!("  {}/s", DecimalBytes(rate as u64)));
        format!("{}, {} in {}{rate}", files(self.here()), DecimalBytes(here), clock(elapsed.as_secs_f64()))
    }
}

/// `1 file`, `2 files`
pub(super) fn files(count: usize) -> String {
    format!("{count} file{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let downloads = Downloads::new(Show::Lines, "toy");
        let line = |seconds| downloads.state.borrow().line(Duration::from_secs(seconds));
        let file = |name: &str| name.to_owned();
        downloads.see(Progress::Started { file: file("a"), bytes: Some(9_000_000), have: 1_000_000 });
        assert_eq!(line(3), "0 files done  1.00 MB of 9.00 MB");
        downloads.see(Progress::Received { file: file("a"), have: 3_000_000 });
        // The million that was here before must not make the connection look fast.
        assert_eq!(line(2), "0 files done  3.00 MB of 9.00 MB  1.00 MB/s  6s left");
        downloads.see(Progress::Retrying { file: file("a"), why: "broken".into(), pause: Duration::ZERO });
        downloads.see(Progress::Received { file: file("a"), have: 1_000_000 });
        assert_eq!(line(3), "0 files done  1.00 MB of 9.00 MB  1.00 MB/s  8s left");
        downloads.see(Progress::Received { file: file("a"), have: 9_000_000 });
        downloads.see(Progress::Finished { file: file("a"), bytes: 9_000_000 });
        downloads.see(Progress::Started { file: file("b"), bytes: None, have: 0 });
        downloads.see(Progress::Received { file: file("b"), have: 1_000_000 });
        assert_eq!(line(6), "1 file done  10.00 MB of 10.00 MB  2.00 MB/s");
        let summary = downloads.state.borrow().summary(Duration::from_secs(6));
        assert_eq!(summary, "1 file, 9.00 MB in 6s  2.00 MB/s");
    }
}
