//! FastChat's conversation templates, as the Swallow protocol used them: chosen by the model's name, never by the model's own template.
//!
//! Texts and rules: `fastchat/conversation.py` and `fastchat/model/model_adapter.py` of swallow-llm/swallow-evaluation, tag v202407
//! (FastChat 0.2.35, Apache-2.0). Only the families of the published table are here, the API models of it, and FastChat's fallback.

use super::Message;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A template, under the name FastChat gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// `llama-3` (`conversation.py:1610-1621`): every Llama 3, 3.1 and 3.3, with a Japanese system line.
    #[serde(rename = "llama-3")]
    Llama3,
    /// `qwen-7b-chat` (`conversation.py:1176-1190`): Qwen, Qwen2, Qwen2.5.
    #[serde(rename = "qwen-7b-chat")]
    Qwen7bChat,
    /// `swallow`: Llama 2 Swallow and Swallow-MS.
    Swallow,
    /// `chatgpt` (`conversation.py:326-339`): messages for an API; it has no prompt text.
    Chatgpt,
    /// `one_shot`: what FastChat takes for a name it does not know; an English conversation stands before the question.
    OneShot,
}

/// How a family was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// The model's name has the family's mark in it.
    ByName(Family),
    /// No mark known here: FastChat's fallback. FastChat itself has more families than this program.
    Fallback,
}

impl Chosen {
    /// The family.
    pub fn family(self) -> Family {
        match self {
            Chosen::ByName(family) => family,
            Chosen::Fallback => Family::OneShot,
        }
    }
}

/// The system line of the Japanese families.
const JAPANESE_SYSTEM: &str = "あなたは誠実で優秀な日本人のアシスタントです。";
/// The system line of the API models and of Qwen.
const ENGLISH_SYSTEM: &str = "You are a helpful assistant.";
/// System line and example of `one_shot`, up to where the question's role stands.
const ONE_SHOT: &str = include_str!("one_shot.txt");

impl Family {
    /// Every family.
    pub const ALL: [Family; 5] = [Family::Llama3, Family::Qwen7bChat, Family::Swallow, Family::Chatgpt, Family::OneShot];

    /// FastChat's name of the template.
    pub fn name(self) -> &'static str {
        match self {
            Family::Llama3 => "llama-3",
            Family::Qwen7bChat => "qwen-7b-chat",
            Family::Swallow => "swallow",
            Family::Chatgpt => "chatgpt",
            Family::OneShot => "one_shot",
        }
    }

    /// The template of that name.
    pub fn by_name(name: &str) -> Option<Family> {
        Family::ALL.into_iter().find(|f| f.name() == name)
    }

    /// What FastChat takes for a model: marks in the lower-cased name, in the order of its registry, the last path component first
    /// (`model_adapter.py:135-151, 2313-2400`). API models are known by their exact kind of name.
    pub fn of_model(model: &str) -> Chosen {
        let last = model.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        match Family::marked(last).or_else(|| Family::marked(model)) {
            Some(family) => Chosen::ByName(family),
            None if !model.contains('/') && model.starts_with("gpt-") => Chosen::ByName(Family::Chatgpt),
            None => Chosen::Fallback,
        }
    }

    fn marked(name: &str) -> Option<Family> {
        const MARKS: [(&str, Family); 4] =
            [("llama-3", Family::Llama3), ("llama3", Family::Llama3), ("qwen", Family::Qwen7bChat), ("swallow", Family::Swallow)];
        let name = name.to_lowercase();
        MARKS.into_iter().find(|(mark, _)| name.contains(mark)).map(|(_, family)| family)
    }

    /// The system line, as the messages of an API carry it.
    pub fn system(self) -> &'static str {
        match self {
            Family::Llama3 | Family::Swallow => JAPANESE_SYSTEM,
            Family::Qwen7bChat | Family::Chatgpt => ENGLISH_SYSTEM,
            Family::OneShot => ONE_SHOT.split("\n###").next().unwrap_or_default(),
        }
    }

    /// `stop_token_ids`: ids at which the answer is cut after generation.
    pub fn stop_token_ids(self) -> &'static [u32] {
        match self {
            Family::Llama3 => &[128_009],
            Family::Qwen7bChat => &[151_643, 151_644, 151_645],
            Family::Swallow | Family::Chatgpt | Family::OneShot => &[],
        }
    }

    /// `stop_str`: text at which the answer is cut after generation.
    pub fn stop_str(self) -> Option<&'static str> {
        match self {
            Family::Qwen7bChat => Some("<|endoftext|>"),
            Family::OneShot => Some("###"),
            Family::Llama3 | Family::Swallow | Family::Chatgpt => None,
        }
    }

    /// The prompt that asks for the answer to the last of `users`; `answers` are those to the others. `None` where only messages exist.
    ///
    /// An empty answer stands like an open one: its role alone, without the end of the turn (FastChat tests for truth, not for `None`).
    pub fn prompt(self, users: &[&str], answers: &[&str]) -> Option<String> {
        let mut prompt = match self {
            Family::Llama3 => {
                format!("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{JAPANESE_SYSTEM}<|eot_id|>")
            }
            Family::Qwen7bChat => format!("<|im_start|>system\n{ENGLISH_SYSTEM}<|im_end|>\n"),
            Family::Swallow => format!("<s>[INST] <<SYS>>\n{JAPANESE_SYSTEM}\n<</SYS>>\n\n"),
            Family::OneShot => ONE_SHOT.to_owned(),
            Family::Chatgpt => return None,
        };
        for (turn, user) in users.iter().enumerate() {
            prompt += &self.user(turn, user);
            prompt += &self.assistant(answers.get(turn).copied().unwrap_or_default());
        }
        Some(prompt)
    }

    fn user(self, turn: usize, text: &str) -> String {
        match self {
            Family::Llama3 => closed("<|start_header_id|>user<|end_header_id|>\n\n", text, "<|eot_id|>"),
            Family::Qwen7bChat => closed("<|im_start|>user\n", text, "<|im_end|>\n"),
            // The first question follows the system block, which has opened the instruction already.
            Family::Swallow if turn == 0 => format!("{text} "),
            Family::Swallow if text.is_empty() => "[INST]".to_owned(),
            Family::Swallow => format!("[INST] {text} "),
            Family::OneShot if text.is_empty() => "Human:".to_owned(),
            Family::OneShot => format!("Human: {text}\n### "),
            Family::Chatgpt => String::new(),
        }
    }

    fn assistant(self, text: &str) -> String {
        match self {
            Family::Llama3 => closed("<|start_header_id|>assistant<|end_header_id|>\n\n", text, "<|eot_id|>"),
            Family::Qwen7bChat => closed("<|im_start|>assistant\n", text, "<|im_end|>\n"),
            Family::Swallow => closed("[/INST]", text, "</s>"),
            Family::OneShot if text.is_empty() => "Assistant:".to_owned(),
            Family::OneShot => format!("Assistant: {text}\n### "),
            Family::Chatgpt => String::new(),
        }
    }

    /// The conversation as an API takes it: the system line, then users and answers in turn (`to_openai_api_messages`).
    pub fn messages(self, users: &[&str], answers: &[&str]) -> Vec<Message> {
        messages(self.system(), users, answers)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A conversation as messages: the system line (left out where it is empty), then users and answers in turn.
pub fn messages(system: &str, users: &[&str], answers: &[&str]) -> Vec<Message> {
    let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    let mut messages: Vec<Message> = Some(system).filter(|s| !s.is_empty()).map(|s| message("system", s)).into_iter().collect();
    for (turn, user) in users.iter().enumerate() {
        messages.push(message("user", user));
        messages.extend(answers.get(turn).map(|answer| message("assistant", answer)));
    }
    messages
}

/// A message between its role and its end, or the role alone where there is none.
fn closed(role: &str, text: &str, end: &str) -> String {
    if text.is_empty() { role.to_owned() } else { format!("{role}{text}{end}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_choose_families_as_fastchat_does() {
        use Chosen::{ByName, Fallback};
        for (model, expected) in [
            ("tokyotech-llm/Llama-3.1-Swallow-70B-Instruct-v0.1", ByName(Family::Llama3)),
            ("elyza/Llama3-X", ByName(Family::Llama3)),
            ("Qwen/Qwen2.5-72B-Instruct", ByName(Family::Qwen7bChat)),
            ("tokyotech-llm/Swallow-MS-7b-instruct-v0.1", ByName(Family::Swallow)),
            ("gpt-4o-2024-05-13", ByName(Family::Chatgpt)),
            ("models/llama-3/checkpoint-100/", ByName(Family::Llama3)),
            ("models/checkpoint-100", Fallback),
            ("org/gpt-like", Fallback),
        ] {
            assert_eq!(Family::of_model(model), expected, "{model}");
        }
        for family in Family::ALL {
            assert_eq!(Family::by_name(family.name()), Some(family));
        }
    }

    #[test]
    fn an_empty_answer_leaves_its_turn_open() {
        for (family, expected) in [
            (
                Family::Llama3,
                "assistant<|end_header_id|>\n\n<|start_header_id|>user<|end_header_id|>\n\nb<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            ),
            (Family::Qwen7bChat, "<|im_start|>assistant\n<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n"),
            (Family::Swallow, "\n\na [/INST][INST] b [/INST]"),
            (Family::OneShot, "\n### Human: a\n### Assistant:Human: b\n### Assistant:"),
        ] {
            let prompt = family.prompt(&["a", "b"], &[""]).expect("text");
            assert!(prompt.ends_with(expected), "{family}: {prompt}");
        }
        assert_eq!(Family::Chatgpt.prompt(&["a"], &[]), None);
    }

    #[test]
    fn messages_alternate_after_the_system_line() {
        let roles: Vec<String> = Family::Chatgpt.messages(&["a", "b"], &[""]).into_iter().map(|m| m.role).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user"]);
        assert_eq!(messages("", &["a"], &[]).len(), 1);
    }
}
