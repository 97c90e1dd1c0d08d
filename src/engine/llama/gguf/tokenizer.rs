//! The tokenizer in a GGUF file, told as `tokenizer.json` and `tokenizer_config.json`.
//!
//! Byte-level BPE with the pre-tokenizers of Llama 3 and Qwen2 can be told exactly. Of others the metadata holds a name and not the rules: they
//! want the original `tokenizer.json` beside the file, since a tokenizer that is almost right gives numbers that are almost right.

use super::{Gguf, integer};
use crate::engine::EngineError;
use serde_json::{Map, Value, json};

/// How texts are cut before merges: `meta-llama/Llama-3.1-8B`, `tokenizer.json`.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same of `Qwen/Qwen2-7B`: single digits.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// `tokenizer.ggml.token_type` (llama.cpp `include/llama.h`, `llama_token_type`).
const NORMAL: u64 = 1;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

/// What differs between families.
struct Family {
    regex: &'static str,
    normalizer: Value,
    ignore_merges: bool,
    /// Whether BOS is put before texts where the metadata does not say.
    adds_bos: bool,
    cleans_up: bool,
}

impl Family {
    fn of(gguf: &Gguf<'_>) -> Result<Family, EngineError> {
        let (model, pre) = (gguf.text("tokenizer.ggml.model").unwrap_or("missing"), gguf.text("tokenizer.ggml.pre").unwrap_or("missing"));
        match (model, pre) {
            ("gpt2", "llama-bpe" | "llama3" | "llama-v3") => {
                Ok(Family { regex: LLAMA3, normalizer: Value::Null, ignore_merges: true, adds_bos: true, cleans_up: true })
            }
            ("gpt2", "qwen2") => {
                Ok(Family { regex: QWEN2, normalizer: json!({"type": "NFC"}), ignore_merges: false, adds_bos: false, cleans_up: false })
            }
            _ => Err(EngineError::with_hint(
                format!("{}: its tokenizer ({model}, {pre}) cannot be rebuilt from the metadata; llama-bpe and qwen2 can", gguf.name),
                "put the tokenizer.json of the original checkpoint beside the file",
            )),
        }
    }
}

/// `tokenizer.json` and `tokenizer_config.json`.
///
/// # Errors
/// A tokenizer of another family, or lists that are missing or broken.
pub(super) fn files(gguf: &Gguf<'_>) -> Result<(Value, Value), EngineError> {
    let family = Family::of(gguf)?;
    let texts = |key: &str| -> Result<Vec<&str>, EngineError> {
        let list = gguf.list(key).ok_or_else(|| gguf.lacks(key))?;
        list.iter().map(|one| one.to_string().map(String::as_str).map_err(|_| gguf.lacks(&format!("list of texts under {key}")))).collect()
    };
    let tokens = texts("tokenizer.ggml.tokens")?;
    let merges = texts("tokenizer.ggml.merges")?;
    let types: Vec<u64> = gguf.list("tokenizer.ggml.token_type").unwrap_or_default().iter().filter_map(integer).collect();
    let kind = |id: usize| types.get(id).copied().unwrap_or(NORMAL);
    let added = |(id, content): (usize, &&str)| {
        let special = match kind(id) {
            CONTROL => true,
            USER_DEFINED => false,
            _ => return None,
        };
        let sides = json!({"single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
        let mut token = json!({"id": id, "content": content, "special": special});
        token.as_object_mut()?.extend(sides.as_object().cloned()?);
        Some(token)
    };
    let vocab: Map<String, Value> =
        tokens.iter().enumerate().filter(|(id, _)| kind(*id) == NORMAL).map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
    let special = |name: &str| {
        let id = gguf.integer(&format!("tokenizer.ggml.{name}_token_id"))?;
        Some((usize::try_from(id).ok()?, *tokens.get(usize::try_from(id).ok()?)?))
    };
    let bos = special("bos").filter(|_| gguf.flag("tokenizer.ggml.add_bos_token").unwrap_or(family.adds_bos));
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let cut = json!({"type": "Split", "pattern": {"Regex": family.regex}, "behavior": "Isolated", "invert": false});
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": tokens.iter().enumerate().filter_map(added).collect::<Vec<_>>(),
        "normalizer": family.normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, byte_level]},
        "post_processor": bos.map_or_else(|| byte_level.clone(), |bos| template(bos, &byte_level)),
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": family.ignore_merges, "vocab": vocab, "merges": merges,
        },
    });
    let named = |name: &str| special(name).map(|(_, token)| token);
    let config = json!({
        "bos_token": named("bos"),
        "eos_token": named("eos"),
        "pad_token": named("padding"),
        "chat_template": gguf.text("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": family.cleans_up,
    });
    Ok((tokenizer, config))
}

/// BOS before a text.
fn template((id, token): (usize, &str), byte_level: &Value) -> Value {
    let bos = |kind: u8| json!({"SpecialToken": {"id": token, "type_id": kind}});
    let text = |name: &str, kind: u8| json!({"Sequence": {"id": name, "type_id": kind}});
    let template = json!({
        "type": "TemplateProcessing",
        "single": [bos(0), text("A", 0)],
        "pair": [bos(0), text("A", 0), bos(1), text("B", 1)],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    });
    json!({"type": "Sequence", "processors": [byte_level, template]})
}
