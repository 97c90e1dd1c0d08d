//! The lines of batch files: requests going in, answers and errors coming back in any order. Pure functions.

use super::super::chat_server::{ATTEMPTS, ChatOptions, body, hopeless, read, silent};
use super::super::http::{Class, Fault, Server};
use super::super::probe;
use super::super::retry::Again;
use super::{Batch, Stage};
use crate::engine::{EngineError, Finish, Outcome, Output, Request, RequestFailure, RequestId, RequestKind, Response, Turn};
use reqwest::{StatusCode, header::HeaderMap};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

/// Where each request of a batch goes: the API's own path, whatever the base URL is.
pub(super) const ROUTE: &str = "/v1/chat/completions";

/// What one batch may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests.
    pub requests: usize,
    /// Bytes of the uploaded file.
    pub bytes: usize,
}

/// OpenAI's limits.
pub const LIMITS: Limits = Limits { requests: 50_000, bytes: 200_000_000 };

/// What became of the requests of a batch.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Answers, and failures that would come again.
    pub outcomes: Vec<Outcome>,
    /// Failures that may pass.
    pub again: Vec<RequestFailure>,
    /// A failure that every further request would meet too.
    pub hopeless: Option<EngineError>,
    /// What the files hold that they should not; a sentence a kind.
    pub oddities: Vec<String>,
}

/// The line that asks for a one-turn conversation, with its line feed.
pub(super) fn line(options: &ChatOptions, request: &Request) -> String {
    let RequestKind::Chat(chat) = &request.kind else { unreachable!("refusal() lets only conversations pass") };
    let body = body(options, chat, &[&chat.prompt], &[]);
    let line = json!({ "custom_id": request.id.0, "method": "POST", "url": ROUTE, "body": body });
    format!("{line}\n")
}

/// Which lines, of these lengths, go into the first file, the second, ...
pub(super) fn ranges(lengths: impl Iterator<Item = usize>, limits: Limits) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for (at, length) in lengths.enumerate() {
        match ranges.last_mut() {
            Some(range) if range.len() < limits.requests && bytes + length <= limits.bytes => {
                range.end += 1;
                bytes += length;
            }
            _ => {
                ranges.push(at..at + 1);
                bytes = length;
            }
        }
    }
    ranges
}

#[derive(Deserialize)]
struct RawLine {
    custom_id: Option<String>,
    response: Option<RawResponse>,
    error: Option<RawError>,
}

#[derive(Deserialize)]
struct RawResponse {
    status_code: Option<u16>,
    body: Option<Value>,
}

#[derive(Deserialize)]
struct RawError {
    code: Option<String>,
    message: Option<String>,
}

/// What one line says: as the answer to the same request would have been read had it been sent alone.
fn said(server: &Server, batch: &Batch, line: RawLine) -> Result<Turn, Fault> {
    let Some(response) = line.response else {
        let (code, message) = line.error.map_or((None, None), |e| (e.code, e.message));
        if code.as_deref() == Some("content_filter") {
            return Ok(silent(Finish::ContentFilter));
        }
        let words = [code, message].into_iter().flatten().collect::<Vec<_>>().join(": ");
        return Err(passing(
            server,
            &format!("batch {}: {}", batch.id, if words.is_empty() { "neither answer nor error" } else { &words }),
        ));
    };
    let body = response.body.map_or(Vec::new(), |body| body.to_string().into_bytes());
    let status = response.status_code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::OK);
    if status.is_success() {
        return read(&body).map_err(|what| server.garbage(&what));
    }
    match server.status(status, &HeaderMap::new(), &body) {
        fault if fault.filtered => Ok(silent(Finish::ContentFilter)),
        fault => Err(fault),
    }
}

/// A fault of the batch, not of the request.
fn passing(server: &Server, what: &str) -> Fault {
    Fault { class: Class::Broken, message: server.say(what), again: Again::Yes, filtered: false }
}

/// Sorts the lines of a batch's files by the requests `asked`; this was their `attempt`-th try.
pub(super) fn gathered(server: &Server, batch: &Batch, files: &[Vec<u8>], asked: &BTreeSet<&RequestId>, attempt: u32) -> Gathered {
    let mut found: BTreeMap<&RequestId, Result<Turn, Fault>> = BTreeMap::new();
    let (mut unknown, mut doubled, mut unreadable) = (0_u64, 0_u64, 0_u64);
    let lines = files.iter().flat_map(|file| file.split(|b| *b == b'\n')).filter(|line| !line.trim_ascii().is_empty());
    for line in lines {
        let Ok(line) = serde_json::from_slice::<RawLine>(line) else {
            unreadable += 1;
            continue;
        };
        let id = line.custom_id.clone().map(RequestId);
        let Some(id) = id.and_then(|id| asked.get(&id).copied()) else {
            unknown += 1;
            continue;
        };
        let said = said(server, batch, line);
        match found.get(id) {
            // The first answer counts; an error beside an answer is none.
            Some(Ok(_)) => doubled += 1,
            Some(Err(_)) if said.is_err() => doubled += 1,
            known => {
                doubled += u64::from(known.is_some());
                found.insert(id, said);
            }
        }
    }
    let mut gathered = Gathered::default();
    for (count, what) in [
        (unreadable, "lines that are no JSON object of a batch"),
        (unknown, "lines of requests that it was not given"),
        (doubled, "further lines of requests that it had answered, of which the first counts"),
    ] {
        if count > 0 {
            gathered.oddities.push(format!("batch {}: {what}: {count}", batch.id));
        }
    }
    for id in asked {
        let said = found.remove(id).unwrap_or_else(|| Err(passing(server, &format!("batch {} says nothing of this request", batch.id))));
        gathered.take((*id).clone(), said, attempt);
    }
    if batch.stage == Stage::Completed {
        gathered.judge_silence(batch);
    }
    gathered
}

impl Gathered {
    fn take(&mut self, id: RequestId, said: Result<Turn, Fault>, attempt: u32) {
        let fault = match said {
            Ok(turn) => return self.outcomes.push(Ok(Response { id, output: Output::Dialogue { turns: vec![turn] } })),
            Err(fault) => fault,
        };
        let failure = RequestFailure { id, message: fault.message.clone(), attempts: attempt };
        if hopeless(fault.class) {
            self.hopeless = Some(probe::engine_error(&fault));
        }
        if fault.again == Again::No { self.outcomes.push(Err(failure)) } else { self.again.push(failure) }
    }

    /// As many failures as end the asking one by one, and no answer among them, end this too.
    fn judge_silence(&mut self, batch: &Batch) {
        let failures = self.again.len() + self.outcomes.iter().filter(|o| o.is_err()).count();
        let answered = self.outcomes.len() + self.again.len() - failures;
        if answered > 0 || failures < ATTEMPTS as usize || self.hopeless.is_some() {
            return;
        }
        let last = self.again.last().or(self.outcomes.iter().rev().find_map(|o| o.as_ref().err())).map_or("", |f| &f.message);
        self.hopeless = Some(EngineError::with_hint(
            format!("batch {} answered none of its {failures} requests; the last: {last}", batch.id),
            "look at the server's log, then try again",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::chat_server::Service;
    use super::*;
    use crate::engine::{Chat, Sampling, Template};

    #[test]
    fn files_hold_no_more_than_they_may() {
        let limits = Limits { requests: 3, bytes: 10 };
        // Where each file ends.
        for (lengths, expected) in [
            (&[][..], &[][..]),
            (&[1, 1, 1], &[3]),
            (&[1, 1, 1, 1], &[3, 4]),
            (&[4, 6, 1], &[2, 3]),
            (&[4, 7, 3], &[1, 3]),
            // What is too long alone is the server's to refuse.
            (&[99, 1, 1], &[1, 3]),
        ] {
            let ranges = ranges(lengths.iter().copied(), limits);
            assert_eq!(ranges.iter().map(|r| r.end).collect::<Vec<_>>(), expected, "{lengths:?}");
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start), "{ranges:?}");
        }
        assert_eq!((LIMITS.requests, LIMITS.bytes), (50_000, 200_000_000));
    }

    #[test]
    fn a_line_is_a_single_call_with_a_name() {
        let chat = Chat {
            prompt: "評価\nせよ".into(),
            follow_ups: vec![],
            sample: 0,
            max_new_tokens: 9,
            template: Template::Messages { system: "S".into() },
            sampling: Sampling::GREEDY,
        };
        let request = Request::new(RequestKind::Chat(chat));
        let options = ChatOptions::new(Service::OpenAi { base_url: "http://h/team/v1".into() }, "m");
        let expected = format!(
            "{{\"custom_id\":\"{}\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{{\"model\":\"m\",\"messages\":[\
             {{\"role\":\"system\",\"content\":\"S\"}},{{\"role\":\"user\",\"content\":\"評価\\nせよ\"}}],\"n\":1,\"temperature\":0,\
             \"max_tokens\":9}}}}\n",
            request.id
        );
        assert_eq!(line(&options, &request), expected);
    }
}
