//! What needs no forward pass: token ids and back, conversations.

use super::super::report::Folder;
use super::super::source::{CertifyError, Source};
use super::{Totals, rows};
use crate::engine::chat::{ChatError, ChatTemplate, Ending, Message};
use crate::text::cleanup::clean_up_tokenization;
use crate::text::tokenizer::{Special, Specials, Tokenizer, TokenizerError};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tokenized {
    text: String,
    ids_with_special: Vec<u32>,
    ids: Vec<u32>,
    decoded: String,
    decoded_skip_special: String,
    hf_decode_skip_special: String,
}

/// `tokenize.jsonl`.
pub(super) fn tokenize(report: &mut Folder, source: &Source, tokenizer: &Tokenizer) -> Result<(), CertifyError> {
    let file = source.name.as_str();
    for (row, golden) in rows::<Tokenized>(source)? {
        report.rows += 1;
        for (field, special, expected) in
            [("ids_with_special", Special::Add, &golden.ids_with_special), ("ids", Special::None, &golden.ids)]
        {
            let got = tokenizer.encode(&golden.text, special).map_err(cannot)?;
            report.check_value(file, &row, field, &json!(expected), &json!(got));
        }
        // Decoded from ids of our own, so that a wrong id of the golden is one mismatch and not four.
        let ids = tokenizer.encode(&golden.text, Special::None).map_err(cannot)?;
        let skipped = tokenizer.decode(&ids, Specials::Skip);
        let cleaned = if tokenizer.cleans_up() { clean_up_tokenization(&skipped) } else { skipped.clone() };
        report.check_text(file, &row, "decoded", &golden.decoded, &tokenizer.decode(&ids, Specials::Keep));
        report.check_text(file, &row, "decoded_skip_special", &golden.decoded_skip_special, &skipped);
        report.check_text(file, &row, "hf_decode_skip_special", &golden.hf_decode_skip_special, &cleaned);
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Conversation {
    #[serde(rename = "id")]
    _id: String,
    messages: Vec<Message>,
    add_generation_prompt: bool,
    rendered: String,
    ids: Vec<u32>,
}

/// `chat.jsonl`.
pub(super) fn chat(report: &mut Folder, source: &Source, tokenizer: &Tokenizer, totals: &mut Totals) -> Result<(), CertifyError> {
    let file = source.name.as_str();
    let template = ChatTemplate::of(tokenizer);
    for (row, golden) in rows::<Conversation>(source)? {
        report.rows += 1;
        *totals.rows.entry("chat").or_default() += 1;
        let ending = if golden.add_generation_prompt { Ending::AssistantTurn } else { Ending::LastMessage };
        // What a template cannot do is a mismatch of its row, not an error of the replay.
        let said = |e: &ChatError| format!("error: {e}");
        let rendered = template.as_ref().map_err(said).and_then(|t| t.render(&golden.messages, ending).map_err(|e| said(&e)));
        let ids = template.as_ref().map_err(said).and_then(|t| t.encode(tokenizer, &golden.messages, ending).map_err(|e| said(&e)));
        report.check_text(file, &row, "rendered", &golden.rendered, &rendered.unwrap_or_else(|e| e));
        report.check_value(file, &row, "ids", &json!(golden.ids), &ids.map_or_else(|e| json!(e), |ids| json!(ids)));
    }
    Ok(())
}

/// A text of a golden that the tokenizer refuses.
pub(super) fn cannot(error: TokenizerError) -> CertifyError {
    CertifyError::Data(error.to_string())
}
