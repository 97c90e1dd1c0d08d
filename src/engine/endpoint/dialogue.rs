//! Conversations over `/v1/completions`: every turn is a prompt in FastChat's template, sent as text. The server's tokenizer puts its special
//! tokens before it, as `tokenizer([prompt])` does upstream; Llama 3 thus gets the second BOS here too.

use super::capabilities::Capabilities;
use super::serve::{Asker, Done, failed};
use super::wire;
use crate::engine::chat::turn;
use crate::engine::{
    Bos, Chat, EndTokens, EngineError, Generate, ModelFacts, Output, Request, RequestKind, Response, Stats, Template, TokenRules, Turn,
};

/// Why this server cannot hold the conversation.
pub(super) fn refusal(chat: &Chat, capabilities: &Capabilities, facts: &ModelFacts) -> Option<EngineError> {
    match generation(chat, &[]) {
        None => Some(EngineError::with_hint(
            "over /v1/completions a conversation needs one of FastChat's templates",
            "name one with --chat-template (llama-3, qwen-7b-chat, swallow, one_shot); --chat-template model uses the server's chat route",
        )),
        Some(generate) => super::refusal(&Request::new(RequestKind::Generate(generate)), capabilities, facts),
    }
}

/// The turn after `answers` as a prompt.
fn generation(chat: &Chat, answers: &[&str]) -> Option<Generate> {
    let Template::FastChat(family) = &chat.template else { return None };
    let users = chat.users();
    Some(Generate {
        prompt: family.prompt(&users[..=answers.len()], answers)?,
        sample: chat.sample,
        max_new_tokens: chat.max_new_tokens,
        stop: Vec::new(),
        enough: Vec::new(),
        sampling: chat.sampling.clone(),
        rules: TokenRules { bos: Bos::Tokenizer, end: EndTokens::GenerationConfig, ..TokenRules::default() },
    })
}

impl Asker {
    /// Plays all turns of one request.
    pub(super) async fn converse(&self, request: &Request, chat: &Chat) -> Done {
        let Template::FastChat(family) = &chat.template else { unreachable!("refusal() lets only FastChat's templates pass") };
        let specials = self.options.facts.tokenizer.as_ref().map(|t| t.special_tokens()).unwrap_or_default();
        let (mut turns, mut stats): (Vec<Turn>, Stats) = (Vec::new(), Stats::default());
        while turns.len() <= chat.follow_ups.len() {
            let answers: Vec<&str> = turns.iter().map(|t| t.answer.as_str()).collect();
            let generate = generation(chat, &answers).expect("a family that has text, as refusal() made sure");
            let answer = match self.ask(&generate, 1).await {
                Ok(answer) => answer,
                Err((fault, attempts)) => {
                    return match self.dead(&fault).await {
                        Some(error) => Done::Dead(error),
                        None => Done::Answered { outcomes: vec![failed(request, fault.message, attempts)], stats, rest: vec![] },
                    };
                }
            };
            stats.prefill_tokens += u64::from(answer.usage.prompt_tokens.unwrap_or(0));
            stats.decode_tokens += u64::from(answer.usage.completion_tokens.unwrap_or(0));
            let choice = answer.choices.into_iter().next().expect("an answer has at least one choice");
            let raw = wire::generated(choice, &answer.usage, &generate, &self.capabilities);
            turns.push(Turn { answer: turn::answer(*family, &raw.text, specials.iter().copied()), raw });
        }
        let response = Response { id: request.id.clone(), output: Output::Dialogue { turns } };
        Done::Answered { outcomes: vec![Ok(response)], stats, rest: vec![] }
    }
}
