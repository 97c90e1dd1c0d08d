//! Answers from recorded responses: the model is not asked again.
//!
//! Reading a journal is not done here: `results` does that, and hands the responses over.

use super::{Engine, EngineError, Identity, Request, RequestFailure, RequestId, Response, Sink, Stats};
use std::collections::BTreeMap;

/// An engine that answers from memory.
#[derive(Debug)]
pub struct Replay {
    identity: Identity,
    recorded: BTreeMap<RequestId, Response>,
}

impl Replay {
    /// Replays `recorded`, answers that the model of `identity` gave. Of several responses with one id the last counts, as in a journal
    /// that was resumed.
    pub fn new(identity: Identity, recorded: Vec<Response>) -> Self {
        Replay { identity, recorded: recorded.into_iter().map(|r| (r.id.clone(), r)).collect() }
    }

    /// Number of different requests that can be answered.
    pub fn len(&self) -> usize {
        self.recorded.len()
    }

    /// Whether nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.recorded.is_empty()
    }
}

impl Engine for Replay {
    /// The identity of the recorded run: its numbers are that engine's numbers.
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn refusal(&self, _request: &Request) -> Option<EngineError> {
        None
    }

    fn serve(&mut self, requests: &[Request], sink: &mut Sink<'_>) -> Result<Stats, EngineError> {
        for request in requests {
            let outcome = self.recorded.get(&request.id).cloned().ok_or_else(|| RequestFailure {
                id: request.id.clone(),
                message: format!("request {} is not among the {} recorded responses", request.id, self.recorded.len()),
                attempts: 0,
            });
            if sink.cancelled() || sink.push(outcome).is_break() {
                break;
            }
        }
        Ok(Stats::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Finish, Generate, Generated, Output, RequestKind, Sampling, TokenRules};
    use std::{ops::ControlFlow, sync::atomic::AtomicBool};

    fn request(prompt: &str) -> Request {
        let rules = TokenRules::default();
        let (prompt, sampling) = (prompt.to_owned(), Sampling::GREEDY);
        Request::new(RequestKind::Generate(Generate {
            prompt,
            sample: 0,
            max_new_tokens: 4,
            stop: vec![],
            enough: vec![],
            sampling,
            rules,
        }))
    }

    fn response(request: &Request, text: &str) -> Response {
        let generated =
            Generated { text: text.into(), token_ids: None, finish: Finish::Stop, prompt_tokens: None, new_tokens: None, notes: vec![] };
        Response { id: request.id.clone(), output: Output::Generated(generated) }
    }

    #[test]
    fn known_requests_are_answered_and_unknown_ones_are_failures() {
        let (known, unknown) = (request("known"), request("unknown"));
        let mut replay = Replay::new(Identity::default(), vec![response(&known, "old"), response(&known, "new")]);
        assert_eq!(replay.len(), 1);
        let mut outcomes = Vec::new();
        let mut push = |o| {
            outcomes.push(o);
            ControlFlow::Continue(())
        };
        let cancel = AtomicBool::new(false);
        replay.serve(&[known.clone(), unknown.clone()], &mut Sink::new(&mut push, &cancel)).unwrap();
        assert_eq!(outcomes[0], Ok(response(&known, "new")));
        let failure = outcomes[1].as_ref().unwrap_err();
        assert_eq!(failure.id, unknown.id);
        assert!(failure.message.contains("not among the 1 recorded"), "{}", failure.message);
    }

    #[test]
    fn a_cancelled_sink_gets_nothing() {
        let known = request("known");
        let mut replay = Replay::new(Identity::default(), vec![response(&known, "x")]);
        let mut push = |_| panic!("pushed after cancel");
        replay.serve(&[known], &mut Sink::new(&mut push, &AtomicBool::new(true))).unwrap();
    }
}
