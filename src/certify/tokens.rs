//! Goldens of a tokenizer: ids with and without special tokens, pairs of context and continuation, decoding with and without clean-up.

use super::report::Folder;
use super::source::{CertifyError, Row, Source, entries};
use crate::engine::{Bos, llama::encode};
use crate::text::{
    cleanup::clean_up_tokenization,
    tokenizer::{Special, Specials, Tokenizer},
};
use serde_json::{Map, Value, json};
use std::path::Path;

/// What stands in for an empty context where no file beside the tokenizer names its end token.
const EOS: &str = "<|eot_id|>";

/// Replays the folder.
///
/// # Errors
/// When something in it is not understood.
pub fn folder(path: &Path) -> Result<Folder, CertifyError> {
    let mut report = Folder::new("tokenizer");
    let tokenizer = Tokenizer::from_dir(path).map_err(|e| CertifyError::Data(e.to_string()))?;
    for name in entries(path)? {
        let source = Source::new(path, &name);
        let compare = match name.as_str() {
            "tokenizer.json" | "tokenizer_config.json" => continue,
            "decode.jsonl" => decode,
            "encode_pair.jsonl" => pair,
            "encode_special.jsonl" => special,
            _ => return Err(CertifyError::UnknownFile { path: path.join(name), kind: "tokenizer".into() }),
        };
        for row in source.rows()? {
            report.rows += 1;
            compare(&mut report, &source, &row, &tokenizer)?;
        }
    }
    Ok(report)
}

fn cannot(error: impl ToString) -> CertifyError {
    CertifyError::Data(error.to_string())
}

/// Compares every field of a row that is not given.
fn compare(report: &mut Folder, source: &Source, row: &Row, given: &[&str], got: Value) -> Result<(), CertifyError> {
    let got: Map<String, Value> = serde_json::from_value(got).map_err(cannot)?;
    let keys: Vec<&str> = got.keys().map(String::as_str).chain(given.iter().copied()).collect();
    source.only_keys(&row.fields, &keys, Some(row.line))?;
    for (key, got) in &got {
        report.check_value(&source.name, &row.id, key, source.value_of(&row.fields, key, Some(row.line))?, got);
    }
    Ok(())
}

fn decode(report: &mut Folder, source: &Source, row: &Row, tokenizer: &Tokenizer) -> Result<(), CertifyError> {
    let ids: Vec<u32> = serde_json::from_value(source.value_of(&row.fields, "ids", Some(row.line))?.clone()).map_err(cannot)?;
    let plain = tokenizer.decode(&ids, Specials::Skip);
    let got = json!({"decode_clean_up_tokenization_spaces": clean_up_tokenization(&plain), "decode_plain": plain});
    compare(report, source, row, &["ids"], got)
}

fn pair(report: &mut Folder, source: &Source, row: &Row, tokenizer: &Tokenizer) -> Result<(), CertifyError> {
    let text = |key: &str| source.text_of(&row.fields, key, Some(row.line));
    let (context, continuation) = (text("context")?, text("continuation")?);
    let whole = tokenizer.encode(&format!("{context}{continuation}"), Special::None).map_err(cannot)?;
    let (ids, rest) =
        encode::split(tokenizer, context, continuation, Bos::Never, tokenizer.eos_id().or_else(|| tokenizer.id(EOS))).map_err(cannot)?;
    let fed = |window: usize| {
        let (mut ids, mut rest) = (ids.clone(), rest.clone());
        encode::cut_left(&mut ids, &mut rest, window);
        let mut fed = [ids, rest].concat();
        fed.pop();
        fed
    };
    let got = json!({
        "context_enc": ids,
        "continuation_enc": rest,
        "whole_enc_of_concatenation": whole,
        // The original asserts that there is something on both sides.
        "accepted_by_original": !ids.is_empty() && !rest.is_empty(),
        "inp_max_length_8": fed(8),
        "inp_max_length_32": fed(32),
    });
    compare(report, source, row, &["context", "continuation"], got)
}

fn special(report: &mut Folder, source: &Source, row: &Row, tokenizer: &Tokenizer) -> Result<(), CertifyError> {
    let text = source.text_of(&row.fields, "text", Some(row.line))?;
    let ids = |special| tokenizer.encode(text, special).map_err(cannot);
    let mut cut = ids(Special::None)?;
    encode::keep_last(&mut cut, 5);
    let got = json!({
        "add_special_tokens_false": ids(Special::None)?,
        "add_special_tokens_true": ids(Special::Add)?,
        "left_truncate_len_5": cut,
    });
    compare(report, source, row, &["text"], got)
}
