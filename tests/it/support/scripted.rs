//! A tiny deterministic "language model": the next token is a hash of everything before it. Every setting that a sampler has changes its
//! text in the way a real one would (top_k 1 and a small top_p are greedy, seeds differ, a repetition penalty shows).

use std::ops::ControlFlow;
use swallow_eval::engine::{
    Bos, Engine, EngineError, Finish, Generate, Generated, Identity, Outcome, Output, Request, RequestFailure, RequestKind, Response,
    Sampling, Sink, Stats,
};
use swallow_eval::text::stop::cut_at_stop;

/// Tokens, some longer than a character, some that only together make a stop string; the first ends a text.
const TOKENS: [&str; 16] = ["", "a", "b", "\n", "\n", "def ", "cl", "ass", "東", "京", "。", " x", "#", "if", "Q", ":"];

/// The engine.
pub(crate) struct Scripted {
    identity: Identity,
}

impl Scripted {
    pub(crate) fn new() -> Self {
        Scripted { identity: Identity { engine: "scripted".into(), model: "scripted".into(), ..Identity::default() } }
    }
}

/// FNV-1a, so that the texts do not depend on a library's version.
fn hash(parts: &[&[u8]]) -> u64 {
    parts.iter().copied().flatten().fold(0xcbf2_9ce4_8422_2325, |h, byte| (h ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What the settings make of the choice at each step.
fn salt(sampling: &Sampling) -> Vec<u8> {
    let greedy = sampling.temperature == 0.0 || sampling.top_k == 1 || sampling.top_p < 0.01;
    let seed = if greedy { String::new() } else { format!("seed {} at {}", sampling.seed, sampling.temperature) };
    format!("{seed}, penalty {}", sampling.repetition_penalty).into_bytes()
}

/// The answer of the model.
pub(crate) fn complete(request: &Generate) -> Generated {
    let salt = salt(&request.sampling);
    let mut text = String::new();
    let (mut new_tokens, mut finish) = (0, Finish::Length);
    while new_tokens < request.max_new_tokens {
        let step = hash(&[request.prompt.as_bytes(), b"|", text.as_bytes(), &salt, &new_tokens.to_le_bytes()]);
        // High bits: the low ones of FNV-1a barely change with the last byte. One token in 48 ends the text.
        let token = match (step >> 32) % 48 {
            0 => 0,
            other => 1 + (other as usize) % 15,
        };
        new_tokens += 1;
        if token == 0 {
            finish = Finish::EndToken;
            break;
        }
        text.push_str(TOKENS[token]);
        let stops: Vec<&String> = request.stop.iter().chain(&request.enough).collect();
        if let (cut, true) = cut_at_stop(&text, &stops) {
            text.truncate(cut.len());
            finish = Finish::Stop;
            break;
        }
    }
    let bos = u32::from(request.rules.bos == Bos::Tokenizer);
    let prompt_tokens = Some(request.prompt.chars().count() as u32 + bos);
    Generated { text, token_ids: None, finish, prompt_tokens, new_tokens: Some(new_tokens), notes: vec![] }
}

impl Engine for Scripted {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn refusal(&self, request: &Request) -> Option<EngineError> {
        match request.kind {
            RequestKind::Generate(_) => None,
            RequestKind::LogLikelihood(_) | RequestKind::Chat(_) => Some(EngineError::new("the scripted engine only completes prompts")),
        }
    }

    fn serve(&mut self, requests: &[Request], sink: &mut Sink<'_>) -> Result<Stats, EngineError> {
        for request in requests {
            let outcome: Outcome = match &request.kind {
                RequestKind::Generate(g) => Ok(Response { id: request.id.clone(), output: Output::Generated(complete(g)) }),
                RequestKind::LogLikelihood(_) | RequestKind::Chat(_) => {
                    Err(RequestFailure { id: request.id.clone(), message: "only prompts are completed".into(), attempts: 1 })
                }
            };
            if sink.cancelled() || sink.push(outcome) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(Stats::default())
    }
}
