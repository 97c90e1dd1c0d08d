//! Conversations in-process: every turn is generated, read, and put into the prompt of the next one.

use super::Llama;
use super::batch::{Listener, TokenFinish, TokenOutput, TokenRequest};
use crate::engine::chat::{ChatTemplate, Ending, fastchat, turn};
use crate::engine::{
    Chat, EndTokens, EngineError, Finish, Generated, Note, Output, Request, RequestFailure, RequestKind, Response, Sink, Stats, Template,
    Turn,
};
use crate::text::tokenizer::{Special, Specials, Tokenizer};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

/// Conversations that are held at once: a killed run loses the turns of these, and no more.
const AT_ONCE: usize = 64;

/// Why a conversation cannot be written for this tokenizer.
pub(super) fn refusal(tokenizer: &Tokenizer, chat: &Chat) -> Option<EngineError> {
    let hint = "choose another with --chat-template: a family of FastChat's (llama-3, qwen-7b-chat, swallow, one_shot) or a Jinja file";
    let hopeless = match &chat.template {
        Template::Messages { .. } | Template::FastChat(fastchat::Family::Chatgpt) => {
            "the conversation is written as messages of an API, and an in-process model reads text".to_owned()
        }
        _ => prompt(tokenizer, chat, &[]).err()?,
    };
    Some(EngineError::with_hint(hopeless, hint))
}

/// Token ids of the prompt for the turn after `answers`.
fn prompt(tokenizer: &Tokenizer, chat: &Chat, answers: &[&str]) -> Result<Vec<u32>, String> {
    let users = chat.users();
    let users = &users[..=answers.len().min(users.len() - 1)];
    let own = |template: ChatTemplate| {
        let messages = fastchat::messages("", users, answers);
        template.encode(tokenizer, &messages, Ending::AssistantTurn).map_err(|e| e.to_string())
    };
    match &chat.template {
        Template::FastChat(family) => {
            let text = family.prompt(users, answers).ok_or("this family has messages and no text")?;
            // `tokenizer([prompt])`: the tokenizer's own special tokens come before those that the text has.
            tokenizer.encode(&text, Special::Add).map_err(|e| e.to_string())
        }
        Template::Model => own(ChatTemplate::of(tokenizer).map_err(|e| e.to_string())?),
        Template::Jinja(source) => own(ChatTemplate::written_in(source, tokenizer).map_err(|e| e.to_string())?),
        Template::Messages { .. } => Err("messages have no text".to_owned()),
    }
}

/// The answer in new tokens. Templates other than FastChat's have no stop ids and no stop string; the rest is the protocol's.
fn read(tokenizer: &Tokenizer, template: &Template, tokens: &[u32]) -> String {
    let specials = tokenizer.special_tokens();
    match template {
        Template::FastChat(family) => {
            turn::answer(*family, &tokenizer.decode(turn::before_stop_id(*family, tokens), Specials::Keep), specials)
        }
        _ => turn::answer(fastchat::Family::Chatgpt, &tokenizer.decode(tokens, Specials::Keep), specials),
    }
}

/// A conversation under way.
struct Held<'r> {
    request: &'r Request,
    chat: &'r Chat,
    turns: Vec<Turn>,
}

impl Held<'_> {
    fn answers(&self) -> Vec<&str> {
        self.turns.iter().map(|t| t.answer.as_str()).collect()
    }

    fn is_over(&self) -> bool {
        self.turns.len() > self.chat.follow_ups.len()
    }
}

impl Llama {
    /// Holds the conversations among `requests`.
    pub(super) fn serve_chats(&mut self, requests: &[Request], sink: &mut Sink<'_>) -> Result<Stats, EngineError> {
        let mut stats = Stats::default();
        let chats = requests.iter().filter_map(|request| match &request.kind {
            RequestKind::Chat(chat) => Some(Held { request, chat, turns: Vec::new() }),
            _ => None,
        });
        let mut all: Vec<Held<'_>> = chats.collect();
        while !all.is_empty() {
            let mut group: Vec<Held<'_>> = all.drain(..all.len().min(AT_ONCE)).collect();
            while !group.is_empty() {
                stats.add(&self.next_turn(&mut group, sink)?);
                if sink.cancelled() {
                    return Ok(stats);
                }
                for over in group.extract_if(.., |held| held.is_over()) {
                    let response = Response { id: over.request.id.clone(), output: Output::Dialogue { turns: over.turns } };
                    if sink.push(Ok(response)).is_break() {
                        return Ok(stats);
                    }
                }
            }
        }
        Ok(stats)
    }

    /// One more turn of every conversation; those that cannot be written are pushed as failures and leave the group.
    fn next_turn(&mut self, group: &mut Vec<Held<'_>>, sink: &mut Sink<'_>) -> Result<Stats, EngineError> {
        let end = self.end_ids(EndTokens::GenerationConfig);
        let (mut tokens, mut failed) = (Vec::new(), Vec::new());
        group.retain(|held| match prompt(&self.tokenizer, held.chat, &held.answers()) {
            Ok(prompt) if !prompt.is_empty() => {
                let (max_new, sample) = (held.chat.max_new_tokens as usize, held.chat.sample);
                tokens.push(TokenRequest::Generate { prompt, max_new, end: end.clone(), sampling: held.chat.sampling.clone(), sample });
                true
            }
            Ok(_) => {
                failed.push((held.request.id.clone(), "the prompt has no token".to_owned()));
                false
            }
            Err(message) => {
                failed.push((held.request.id.clone(), message));
                false
            }
        });
        for (id, message) in failed {
            if sink.push(Err(RequestFailure { id, message, attempts: 1 })).is_break() {
                return Ok(Stats::default());
            }
        }
        let (tokenizer, limit, cancel) = (self.tokenizer.clone(), self.config().max_position_embeddings, sink.cancel_flag());
        let mut done = |at: usize, output: TokenOutput| {
            if let TokenOutput::Generated { tokens: new, finish, near_ties, .. } = output {
                let held = &mut group[at];
                let answer = read(&tokenizer, &held.chat.template, &new);
                let prompt = tokens[at].prompt().len();
                let beyond = prompt + new.len() > limit + 1;
                let notes = [(beyond, Note::BeyondContext), (near_ties > 0, Note::NearTie)];
                let raw = Generated {
                    text: tokenizer.decode(&new, Specials::Keep),
                    finish: if finish == TokenFinish::Length { Finish::Length } else { Finish::EndToken },
                    prompt_tokens: u32::try_from(prompt).ok(),
                    new_tokens: u32::try_from(new.len()).ok(),
                    token_ids: Some(new),
                    notes: notes.into_iter().filter(|(applies, _)| *applies).map(|(_, note)| note).collect(),
                };
                held.turns.push(Turn { answer, raw });
            }
            ControlFlow::Continue(())
        };
        let mut listener = Listener { stops: &|_, _| false, done: &mut done, go_on: &|| !cancel.load(Ordering::Relaxed) };
        self.run(&tokens, &mut listener)
    }
}
