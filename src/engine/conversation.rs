//! A conversation as a request, and its answers.

use super::chat::fastchat::Family;
use super::{Generated, Sampling};
use serde::{Deserialize, Serialize};

/// Hold a conversation whose user says the same whatever the answers. The engine plays every turn after its own answers to those before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chat {
    /// What the user says first.
    pub prompt: String,
    /// What the user says in the later turns.
    pub follow_ups: Vec<String>,
    /// Index of this conversation among those asked for with the same words; 0 where the protocol asks once.
    pub sample: u32,
    /// Limit of each turn, in tokens of the answering model.
    pub max_new_tokens: u32,
    /// How the conversation is written, and with it what becomes of an answer before the next turn ([`super::chat::turn`] for the text forms;
    /// nothing for messages).
    pub template: Template,
    /// How the next token is chosen, in every turn.
    pub sampling: Sampling,
}

impl Chat {
    /// Everything the user says, turn by turn.
    pub fn users(&self) -> Vec<&str> {
        std::iter::once(&self.prompt).chain(&self.follow_ups).map(String::as_str).collect()
    }
}

/// How a conversation is written. The end tokens are always those of generation_config.json.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    /// One of FastChat's: its text, encoded with the tokenizer's own special tokens around it (a second BOS, for Llama 3).
    FastChat(Family),
    /// The model's own chat template; a server applies it itself.
    Model,
    /// A Jinja template of the user's.
    Jinja(String),
    /// Messages of an API, after this system line.
    Messages {
        /// Left out where it is empty.
        system: String,
    },
}

/// One answer of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// What the next turn's prompt holds, and what is judged.
    pub answer: String,
    /// What the model said: special tokens kept where the engine sees them, nothing cut but by the end token.
    pub raw: Generated,
}
