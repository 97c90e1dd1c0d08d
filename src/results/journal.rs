//! `responses.jsonl`: the journal. Left of it things cost GPU hours or money, right of it everything can be repeated.
//!
//! Append-only, a line an [`Outcome`], handed to the operating system at once, so that `kill -9` loses at most the requests in flight:
//! `{"v":1,"id":"<32 hex>","output":"generated","text":"...","finish":"stop"}` for an answer,
//! `{"v":1,"id":"<32 hex>","failure":{"message":"...","attempts":3}}` for a request that got none. No line carries a clock, so the journals of
//! two equal runs are equal as sets.

use super::{ResultsError, jsonl};
use crate::engine::{Outcome, Output, RequestFailure, RequestId, Response};
use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Number of the `responses.jsonl` format.
pub const FORMAT: u32 = 1;

/// A journal open for appending.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Bytes of whole lines in the file: where to cut when a write fails half way.
    whole: u64,
}

/// What an opened journal held.
#[derive(Debug, Default, PartialEq)]
pub struct Recovered {
    /// Every whole line, in file order.
    pub outcomes: Vec<Outcome>,
    /// The last line, when a kill cut it short. It was dropped from the file; its request is asked again.
    pub torn: Option<Torn>,
}

/// A last line without its line feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Number of the line, from 1.
    pub line: usize,
    /// Bytes dropped.
    pub bytes: usize,
}

impl fmt::Display for Torn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Torn { line, bytes } = self;
        write!(f, "line {line} of the journal was cut short ({bytes} bytes): dropped, its request is asked again")
    }
}

/// What is known about each request: the last answer wins, and a failure stands only where there is no answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// Answered requests.
    pub responses: BTreeMap<RequestId, Response>,
    /// Requests that failed and were never answered. A resumed run asks them again.
    pub failures: BTreeMap<RequestId, RequestFailure>,
}

impl Answers {
    /// Sorts out the lines of a journal, given in file order.
    pub fn of(outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        let mut answers = Answers::default();
        for outcome in outcomes {
            answers.add(outcome);
        }
        answers
    }

    /// Takes in one more line.
    pub fn add(&mut self, outcome: Outcome) {
        match outcome {
            Ok(response) => {
                self.failures.remove(&response.id);
                self.responses.insert(response.id.clone(), response);
            }
            Err(failure) if !self.responses.contains_key(&failure.id) => {
                self.failures.insert(failure.id.clone(), failure);
            }
            Err(_) => {}
        }
    }
}

/// A line that says why there is no answer.
#[derive(Serialize, Deserialize)]
struct FailureLine {
    id: RequestId,
    failure: FailureBody,
}

#[derive(Serialize, Deserialize)]
struct FailureBody {
    message: String,
    attempts: u32,
}

/// What tells the two kinds of lines apart.
#[derive(Deserialize)]
struct Kind {
    failure: Option<IgnoredAny>,
}

impl Journal {
    /// Opens `path` for appending, creating it if need be, and gives back what it holds. A last line without line feed is cut off.
    ///
    /// # Errors
    /// When the file cannot be read or written, or a line is corrupt or of a later format; the file is untouched then.
    pub fn open_append(path: &Path) -> Result<(Journal, Recovered), ResultsError> {
        let open = OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = open.map_err(ResultsError::io("append to", path))?;
        let bytes = fs::read(path).map_err(ResultsError::io("read", path))?;
        let (recovered, whole) = parse(path, &bytes)?;
        if recovered.torn.is_some() {
            file.set_len(whole).map_err(ResultsError::io("truncate", path))?;
        }
        Ok((Journal { file, path: path.to_owned(), whole }, recovered))
    }

    /// Appends one line. When this returns, the operating system has it.
    ///
    /// # Errors
    /// When the file cannot be written (a half-written line is taken back), or a log-probability is not a finite number.
    pub fn append(&mut self, outcome: &Outcome) -> Result<(), ResultsError> {
        let line = render(outcome)?;
        // One write for the whole line: a kill between two writes would tear every line, not just an unlucky one.
        if let Err(source) = self.file.write_all(&line) {
            // Best effort: should this fail too, the next opening cuts the torn line off.
            let _ = self.file.set_len(self.whole);
            return Err(ResultsError::Io { action: "append to", path: self.path.clone(), source });
        }
        self.whole += line.len() as u64;
        Ok(())
    }

    /// Waits until the disk has every line; some file systems report a failed write only here.
    ///
    /// # Errors
    /// When the system cannot promise that.
    pub fn sync(&self) -> Result<(), ResultsError> {
        match self.file.sync_all() {
            // Pipes and special files have no disk to wait for.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
            other => other.map_err(ResultsError::io("write", &self.path)),
        }
    }
}

/// Reads a journal without touching it; a torn last line is left out and told.
///
/// # Errors
/// When the file cannot be read, or a line is corrupt or of a later format.
pub fn read(path: &Path) -> Result<Recovered, ResultsError> {
    let bytes = fs::read(path).map_err(ResultsError::io("read", path))?;
    parse(path, &bytes).map(|(recovered, _)| recovered)
}

/// The outcomes in the whole lines of `bytes`, and how many bytes those lines are.
fn parse(path: &Path, bytes: &[u8]) -> Result<(Recovered, u64), ResultsError> {
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let lines = jsonl::numbered_lines(&bytes[..whole]);
    let outcomes = lines.map(|(number, line)| parse_outcome(path, number, line)).collect::<Result<Vec<_>, _>>()?;
    let torn = (whole < bytes.len()).then(|| Torn { line: outcomes.len() + 1, bytes: bytes.len() - whole });
    Ok((Recovered { outcomes, torn }, whole as u64))
}

fn parse_outcome(path: &Path, number: usize, line: &[u8]) -> Result<Outcome, ResultsError> {
    fn read<T: DeserializeOwned>(path: &Path, number: usize, line: &[u8]) -> Result<T, ResultsError> {
        jsonl::parse_line(path, number, line, FORMAT)
    }
    match read::<Kind>(path, number, line)?.failure {
        None => read(path, number, line).map(Ok),
        Some(_) => {
            let FailureLine { id, failure: FailureBody { message, attempts } } = read(path, number, line)?;
            Ok(Err(RequestFailure { id, message, attempts }))
        }
    }
}

fn render(outcome: &Outcome) -> Result<Vec<u8>, ResultsError> {
    let mut line = Vec::new();
    let written = match outcome {
        Ok(response) => {
            check_finite(response)?;
            jsonl::write_line(&mut line, FORMAT, response)
        }
        Err(RequestFailure { id, message, attempts }) => {
            let failure = FailureBody { message: message.clone(), attempts: *attempts };
            jsonl::write_line(&mut line, FORMAT, &FailureLine { id: id.clone(), failure })
        }
    };
    written.expect("outcomes are plain data with string keys, and writing to memory succeeds");
    Ok(line)
}

fn check_finite(response: &Response) -> Result<(), ResultsError> {
    match &response.output {
        Output::LogLikelihoods { continuations } if continuations.iter().any(|c| !c.logprob.is_finite()) => {
            Err(ResultsError::NotFinite { id: response.id.clone() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::engine::{ContinuationScore, Finish, Generated, Note};
    use proptest::{collection::vec, option, prelude::*};

    /// Any outcome with an id out of few, so that ids repeat.
    pub(crate) fn any_outcome() -> impl Strategy<Value = Outcome> {
        let finish = prop::sample::select(vec![Finish::EndToken, Finish::Stop, Finish::Length, Finish::ContentFilter]);
        let notes = vec(prop::sample::select(vec![Note::BeyondContext, Note::NearTie, Note::CutByServer]), 0..3);
        let generated =
            (any::<String>(), option::of(vec(any::<u32>(), 0..4)), finish, option::of(any::<u32>()), option::of(any::<u32>()), notes)
                .prop_map(|(text, token_ids, finish, prompt_tokens, new_tokens, notes)| {
                    Output::Generated(Generated { text, token_ids, finish, prompt_tokens, new_tokens, notes })
                });
        let score = (-1e6..0.0f64, any::<bool>(), any::<u32>()).prop_map(|(logprob, is_greedy, tokens)| ContinuationScore {
            logprob,
            is_greedy,
            tokens,
        });
        let scores = vec(score, 0..4).prop_map(|continuations| Output::LogLikelihoods { continuations });
        let id = (0..6u8).prop_map(|n| RequestId(format!("{n:032x}")));
        prop_oneof![
            (id.clone(), prop_oneof![generated, scores]).prop_map(|(id, output)| Ok(Response { id, output })),
            (id, any::<String>(), any::<u32>()).prop_map(|(id, message, attempts)| Err(RequestFailure { id, message, attempts })),
        ]
    }

    fn generated(id: &str, text: &str) -> Outcome {
        let generated =
            Generated { text: text.into(), token_ids: None, finish: Finish::Stop, prompt_tokens: None, new_tokens: None, notes: vec![] };
        Ok(Response { id: RequestId(id.into()), output: Output::Generated(generated) })
    }

    fn failed(id: &str) -> Outcome {
        Err(RequestFailure { id: RequestId(id.into()), message: "gone".into(), attempts: 3 })
    }

    fn journal_of(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("responses.jsonl");
        fs::write(&path, content).expect("written");
        (dir, path)
    }

    proptest! {
        #[test]
        fn round_trips(outcomes in vec(any_outcome(), 0..12), cut in any::<prop::sample::Index>()) {
            let cut = cut.index(outcomes.len() + 1);
            let (_dir, path) = journal_of(b"");
            for part in [&outcomes[..cut], &outcomes[cut..]] {
                let (mut journal, _) = Journal::open_append(&path).expect("opens");
                for outcome in part {
                    journal.append(outcome).expect("appends");
                }
            }
            prop_assert_eq!(read(&path).expect("reads"), Recovered { outcomes, torn: None });
        }

        #[test]
        fn any_truncation_keeps_the_whole_lines(outcomes in vec(any_outcome(), 1..8), at in any::<prop::sample::Index>()) {
            let lines: Vec<Vec<u8>> = outcomes.iter().map(|o| render(o).expect("finite")).collect();
            let bytes = lines.concat();
            let at = at.index(bytes.len() + 1);
            let ends: Vec<usize> = lines.iter().scan(0, |end, line| { *end += line.len(); Some(*end) }).collect();
            let kept = ends.iter().filter(|end| **end <= at).count();
            let whole = if kept == 0 { 0 } else { ends[kept - 1] };

            let (_dir, path) = journal_of(&bytes[..at]);
            let (mut journal, recovered) = Journal::open_append(&path).expect("opens");
            prop_assert_eq!(&recovered.outcomes, &outcomes[..kept]);
            prop_assert_eq!(recovered.torn, (at > whole).then(|| Torn { line: kept + 1, bytes: at - whole }));
            // What is appended now stands on a line of its own.
            journal.append(&outcomes[0]).expect("appends");
            let after = read(&path).expect("reads").outcomes;
            prop_assert_eq!((&after[..kept], &after[kept..]), (&outcomes[..kept], &outcomes[..1]));
        }
    }

    #[test]
    fn lines_have_the_documented_form() {
        for (outcome, expected) in [
            (generated("a", "東京\n"), "{\"v\":1,\"id\":\"a\",\"output\":\"generated\",\"text\":\"東京\\n\",\"finish\":\"stop\"}\n"),
            (failed("b"), "{\"v\":1,\"id\":\"b\",\"failure\":{\"message\":\"gone\",\"attempts\":3}}\n"),
        ] {
            assert_eq!(String::from_utf8(render(&outcome).expect("finite")).expect("UTF-8"), expected);
        }
    }

    #[test]
    fn bad_lines_are_named_and_the_file_is_untouched() {
        for (bad, expected) in [
            ("{\"v\":1,\"id\":\"a\"}", ":2: missing field `output`"),
            ("{\"v\":1,\"id\":\"a\",\"failure\":{\"message\":\"m\"}}", ":2: missing field `attempts`"),
            ("{\"v\":2,\"id\":\"a\",\"unheard\":1}", ":2: format 2 is newer than 1"),
            ("not json", ":2: expected ident"),
            ("", ":2: EOF while parsing"),
            ("{\"v\":1,\"id\":\"a\",\"output\":\"painted\"}", ":2: unknown variant `painted`"),
        ] {
            let line = String::from_utf8(render(&generated("x", "y")).expect("finite")).expect("UTF-8");
            let content = format!("{line}{bad}\n{line}torn");
            let (_dir, path) = journal_of(content.as_bytes());
            let message = Journal::open_append(&path).expect_err(bad).to_string();
            assert!(message.contains("responses.jsonl") && message.contains(expected), "{message}");
            assert_eq!(fs::read_to_string(&path).expect("still there"), content);
        }
    }

    #[test]
    fn the_last_answer_wins_over_answers_and_failures() {
        let lines = [failed("a"), generated("a", "1"), generated("b", "1"), failed("a"), generated("b", "2"), failed("c"), failed("c")];
        let answers = Answers::of(lines);
        let texts: Vec<(&str, &Output)> = answers.responses.iter().map(|(id, r)| (id.0.as_str(), &r.output)).collect();
        let text = |text: &str| generated("", text).expect("a response").output;
        assert_eq!(texts, [("a", &text("1")), ("b", &text("2"))]);
        assert_eq!(answers.failures.keys().map(|id| id.0.as_str()).collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn what_json_cannot_hold_is_refused_before_it_is_written() {
        let (_dir, path) = journal_of(b"");
        let (mut journal, _) = Journal::open_append(&path).expect("opens");
        let continuations = vec![ContinuationScore { logprob: f64::NEG_INFINITY, is_greedy: false, tokens: 1 }];
        let outcome = Ok(Response { id: RequestId("a".into()), output: Output::LogLikelihoods { continuations } });
        assert!(matches!(journal.append(&outcome), Err(ResultsError::NotFinite { .. })));
        assert_eq!(fs::read(&path).expect("there"), b"");
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "a test that cannot run says so")]
    fn a_full_disk_is_an_error() {
        let path = Path::new("/dev/full");
        let Ok(file) = OpenOptions::new().append(true).open(path) else {
            println!("skipped: no /dev/full here");
            return;
        };
        let mut journal = Journal { file, path: path.to_owned(), whole: 0 };
        let message = journal.append(&failed("a")).expect_err("no room").to_string();
        assert!(message.starts_with("cannot append to /dev/full: "), "{message}");
    }
}
