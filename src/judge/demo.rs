//! A rule in a judge's place, for demonstrations and tests: it reads nothing, and says so in every line.
//!
//! Its numbers follow from the hash of what it is shown, so that a table has something to show and equal runs are equal. They are below 1 and
//! above 0, where no model that follows the instruction rates, and every result made with it is marked as a demo.

use crate::engine::{
    Engine, EngineError, Finish, Generated, Identity, Output, Request, RequestFailure, RequestKind, Response, Sink, Stats, Turn,
};

/// Its name in files and tables.
pub const NAME: &str = "demo-rule";

/// The rule.
#[derive(Debug)]
pub struct DemoJudge {
    identity: Identity,
}

impl Default for DemoJudge {
    fn default() -> Self {
        DemoJudge { identity: Identity { engine: "demo".into(), model: NAME.into(), ..Identity::default() } }
    }
}

impl Engine for DemoJudge {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn refusal(&self, request: &Request) -> Option<EngineError> {
        (!matches!(request.kind, RequestKind::Chat(_))).then(|| EngineError::new("the demo judge answers conversations only"))
    }

    fn serve(&mut self, requests: &[Request], sink: &mut Sink<'_>) -> Result<Stats, EngineError> {
        for request in requests {
            let outcome = match self.refusal(request) {
                Some(error) => Err(RequestFailure { id: request.id.clone(), message: error.message, attempts: 0 }),
                None => Ok(Response { id: request.id.clone(), output: Output::Dialogue { turns: vec![turn(words(request))] } }),
            };
            if sink.cancelled() || sink.push(outcome).is_break() {
                break;
            }
        }
        Ok(Stats::default())
    }
}

/// What it says: a number from the first hexadecimal digit of the request's id.
fn words(request: &Request) -> String {
    let digit = request.id.0.chars().next().and_then(|c| c.to_digit(16)).unwrap_or(0);
    format!("デモの規則による数です。評価ではありません。(a rule, not a judgement) [[0.{:02}]]", digit + 1)
}

fn turn(text: String) -> Turn {
    let raw =
        Generated { text: text.clone(), token_ids: None, finish: Finish::EndToken, prompt_tokens: None, new_tokens: None, notes: vec![] };
    Turn { answer: text, raw }
}
