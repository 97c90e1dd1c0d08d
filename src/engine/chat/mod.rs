//! A model's own chat template, rendered as transformers renders it (`utils/chat_template_utils.py`, v4.57.6: jinja2 with `trim_blocks`,
//! `lstrip_blocks` and loop controls; undefined values are empty; `raise_exception` and a plain `tojson`).
//!
//! Not here: tools, documents, and `strftime_now`. A template that asks for the clock only where there is one takes its fixed date, so that
//! a prompt is the same every day. FastChat's templates, which belong to a protocol and not to a model, are in [`fastchat`]; what becomes of
//! an answer before the next turn is in [`turn`].

pub mod fastchat;
pub mod turn;

use crate::text::tokenizer::{Special, Tokenizer, TokenizerError};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value, context, value::Kwargs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Name under which the one template of an environment is kept; stands in minijinja's messages.
const NAME: &str = "chat_template";

/// Special tokens that a template may name (`SPECIAL_TOKENS_ATTRIBUTES` of transformers, less the list of additional ones).
const SPECIAL_TOKENS: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Why a conversation has no prompt.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The tokenizer has no template: a base model.
    #[error("tokenizer_config.json has no chat_template: the model does not say how a conversation is written")]
    NoTemplate,
    /// The template is not valid Jinja.
    #[error("the model's chat_template is not valid: {0}")]
    Invalid(String),
    /// The template refuses the conversation, or uses something that is not here.
    #[error("the model's chat_template refuses the conversation: {0}")]
    Refused(String),
    /// The prompt cannot be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// `system`, `user`, `assistant`; a template may know more.
    pub role: String,
    /// Its text.
    pub content: String,
}

/// How a rendered conversation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With the opening of the assistant's turn (`add_generation_prompt=True`).
    AssistantTurn,
    /// After the last message.
    LastMessage,
}

/// A compiled chat template with the special tokens it may name.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: BTreeMap<&'static str, String>,
}

impl ChatTemplate {
    /// The template of a tokenizer.
    ///
    /// # Errors
    /// [`ChatError::NoTemplate`], [`ChatError::Invalid`].
    pub fn of(tokenizer: &Tokenizer) -> Result<Self, ChatError> {
        Self::written_in(tokenizer.chat_template().ok_or(ChatError::NoTemplate)?, tokenizer)
    }

    /// A template of one's own with the special tokens of a tokenizer.
    ///
    /// # Errors
    /// [`ChatError::Invalid`].
    pub fn written_in(source: &str, tokenizer: &Tokenizer) -> Result<Self, ChatError> {
        let named = |name: &'static str| Some((name, tokenizer.special_token(name)?.to_owned()));
        Self::new(source, SPECIAL_TOKENS.into_iter().filter_map(named).collect())
    }

    /// A template from its text.
    ///
    /// # Errors
    /// [`ChatError::Invalid`].
    pub fn new(source: &str, special_tokens: BTreeMap<&'static str, String>) -> Result<Self, ChatError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(NAME, source.to_owned()).map_err(|e| ChatError::Invalid(message(&e)))?;
        Ok(ChatTemplate { environment, special_tokens })
    }

    /// The prompt of a conversation.
    ///
    /// # Errors
    /// [`ChatError::Refused`].
    pub fn render(&self, messages: &[Message], ending: Ending) -> Result<String, ChatError> {
        let template = self.environment.get_template(NAME).map_err(|e| ChatError::Invalid(message(&e)))?;
        // transformers passes the tools and documents of a call even when there are none.
        let none = Value::from(());
        let conversation =
            context! { messages, tools => none, documents => none, add_generation_prompt => ending == Ending::AssistantTurn };
        let all = context! { ..conversation, ..Value::from_serialize(&self.special_tokens) };
        template.render(all).map_err(|e| ChatError::Refused(message(&e)))
    }

    /// Token ids of a conversation's prompt. The template writes the special tokens itself, so the tokenizer adds none.
    ///
    /// # Errors
    /// [`ChatError::Refused`], [`ChatError::Tokenizer`].
    pub fn encode(&self, tokenizer: &Tokenizer, messages: &[Message], ending: Ending) -> Result<Vec<u32>, ChatError> {
        Ok(tokenizer.encode(&self.render(messages, ending)?, Special::None)?)
    }
}

/// What went wrong and on which line of the template.
fn message(error: &Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    error.line().map_or(what.clone(), |line| format!("{what} (line {line})"))
}

fn raise_exception(what: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, what))
}

/// Python's `json.dumps(ensure_ascii=False)`: blanks after `,` and `:`, nothing escaped for HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let bad = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let mut out = Vec::new();
    let blanks = " ".repeat(indent.unwrap_or(0));
    match indent {
        Some(_) => {
            let layout = serde_json::ser::PrettyFormatter::with_indent(blanks.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, layout)).map_err(bad)?;
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, OneLine)).map_err(bad)?,
    }
    String::from_utf8(out).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
}

/// Python's separators on one line.
struct OneLine;

impl serde_json::ser::Formatter for OneLine {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(content: &str) -> Vec<Message> {
        vec![Message { role: "user".into(), content: content.into() }]
    }

    fn render(source: &str, content: &str) -> String {
        let template = ChatTemplate::new(source, BTreeMap::from([("bos_token", "<s>".to_owned())])).unwrap();
        template.render(&user(content), Ending::AssistantTurn).unwrap()
    }

    #[test]
    fn jinja_as_transformers_sets_it_up() {
        for (source, expected) in [
            // A block's own line leaves nothing behind; one newline at the end is dropped.
            ("{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}\nend\n", "<b>\nend"),
            ("{{ bos_token }}{{ eos_token }}|{{ messages[0].name }}", "<s>|"),
            ("{{ messages[0]['content'].upper().strip() }}", "<B>"),
            ("{{ messages | tojson }}", r#"[{"role": "user", "content": "<b>"}]"#),
            ("{{ {'a': []} | tojson(indent=2) }}", "{\n  \"a\": []\n}"),
            (
                "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
                "02",
            ),
            ("{% if strftime_now is defined %}{{ strftime_now('%d') }}{% else %}26{% endif %}", "26"),
            ("{% if add_generation_prompt %}>{% endif %}{% if tools %}T{% endif %}{% if tools is not none %}N{% endif %}", ">"),
        ] {
            assert_eq!(render(source, "<b>"), expected, "{source}");
        }
    }

    #[test]
    fn errors_say_what_the_template_says() {
        let refuse = ChatTemplate::new("\n{{ raise_exception('roles must alternate') }}", BTreeMap::new()).unwrap();
        let error = refuse.render(&user("x"), Ending::LastMessage).unwrap_err().to_string();
        assert_eq!(error, "the model's chat_template refuses the conversation: roles must alternate (line 2)");
        let broken = ChatTemplate::new("{% for %}", BTreeMap::new()).unwrap_err().to_string();
        assert!(broken.starts_with("the model's chat_template is not valid: "), "{broken}");
        let clock = ChatTemplate::new("{{ strftime_now('%d') }}", BTreeMap::new()).unwrap();
        assert!(clock.render(&user("x"), Ending::LastMessage).unwrap_err().to_string().contains("strftime_now"));
    }
}
