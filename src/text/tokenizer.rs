//! Hugging Face tokenizers: `tokenizer.json` with the names of its special tokens from `tokenizer_config.json`.

use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why there is no tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file cannot be read.
    #[error("failed to read {}: {cause}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's message.
        cause: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("{name} is not valid: {cause}")]
    Invalid {
        /// File name.
        name: &'static str,
        /// The parser's message.
        cause: String,
    },
    /// A text cannot be encoded.
    #[error("a text cannot be encoded: {0}")]
    Encode(String),
}

/// Whether the post-processor's special tokens (BOS) are put around a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// `add_special_tokens=True`.
    Add,
    /// `add_special_tokens=False`.
    None,
}

/// What decoding does with special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// Their text is kept.
    Keep,
    /// `skip_special_tokens=True`.
    Skip,
}

/// A tokenizer and the names of its special tokens.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    config: Value,
    special_tokens: Value,
    /// `chat_template.jinja`.
    chat_template: Option<String>,
    sha256: String,
    files: Arc<Vec<(&'static str, Vec<u8>)>>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, where they are, `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja` of a model
    /// directory.
    ///
    /// # Errors
    /// [`TokenizerError::Read`], [`TokenizerError::Invalid`].
    pub fn from_dir(dir: &Path) -> Result<Self, TokenizerError> {
        let read = |name: &str| std::fs::read(dir.join(name)).map_err(|cause| TokenizerError::Read { path: dir.join(name), cause });
        let optional = |name: &str| match read(name) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(TokenizerError::Read { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        };
        let (config, special) = (optional("tokenizer_config.json")?, optional("special_tokens_map.json")?);
        let tokenizer = Self::from_bytes(&read("tokenizer.json")?, config.as_deref(), special.as_deref())?;
        tokenizer.with_chat_template(optional("chat_template.jinja")?)
    }

    /// The same tokenizer with the content of `chat_template.jinja`, which wins over tokenizer_config.json as it does in transformers.
    ///
    /// # Errors
    /// [`TokenizerError::Invalid`] where it is no UTF-8.
    pub fn with_chat_template(mut self, template: Option<Vec<u8>>) -> Result<Self, TokenizerError> {
        let invalid = |e: std::string::FromUtf8Error| TokenizerError::Invalid { name: "chat_template.jinja", cause: e.to_string() };
        self.chat_template = template.map(String::from_utf8).transpose().map_err(invalid)?;
        Ok(self)
    }

    /// A tokenizer from the contents of its files.
    ///
    /// # Errors
    /// [`TokenizerError::Invalid`].
    pub fn from_bytes(tokenizer: &[u8], config: Option<&[u8]>, special_tokens: Option<&[u8]>) -> Result<Self, TokenizerError> {
        let mut inner = tokenizers::Tokenizer::from_bytes(tokenizer)
            .map_err(|e| TokenizerError::Invalid { name: "tokenizer.json", cause: e.to_string() })?;
        // A tokenizer.json may carry the truncation or padding of its training; transformers switches both off for a plain call.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| TokenizerError::Invalid { name: "tokenizer.json", cause: e.to_string() })?;
        let parse = |name, bytes: Option<&[u8]>| match bytes {
            Some(bytes) => serde_json::from_slice(bytes).map_err(|e| TokenizerError::Invalid { name, cause: e.to_string() }),
            None => Ok(Value::Null),
        };
        Ok(Tokenizer {
            inner,
            config: parse("tokenizer_config.json", config)?,
            special_tokens: parse("special_tokens_map.json", special_tokens)?,
            chat_template: None,
            sha256: Sha256::digest(tokenizer).iter().map(|b| format!("{b:02x}")).collect(),
            files: Arc::new(
                [("tokenizer.json", Some(tokenizer)), ("tokenizer_config.json", config), ("special_tokens_map.json", special_tokens)]
                    .into_iter()
                    .filter_map(|(name, bytes)| Some((name, bytes?.to_vec())))
                    .collect(),
            ),
        })
    }

    /// Names and contents of the files it was made of, less the chat template's: [`Tokenizer::from_dir`] of a directory that holds them gives
    /// the same tokenizer.
    pub fn files(&self) -> &[(&'static str, Vec<u8>)] {
        &self.files
    }

    /// Token ids of a text.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, special == Special::Add).map_err(|e| TokenizerError::Encode(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of token ids; bytes that are no UTF-8 become U+FFFD, ids beyond the vocabulary vanish.
    pub fn decode(&self, ids: &[u32], specials: Specials) -> String {
        self.inner.decode(ids, specials == Specials::Skip).unwrap_or_default()
    }

    /// Names of the tokens of a text, as they stand in the vocabulary (byte-level ones look strange), without special tokens.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn tokens(&self, text: &str) -> Result<Vec<String>, TokenizerError> {
        // The fast form leaves names out.
        let encoding = self.inner.encode(text, false).map_err(|e| TokenizerError::Encode(e.to_string()))?;
        Ok(encoding.get_tokens().to_vec())
    }

    /// The id of a token's text.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Id of the tokenizer's `eos_token` (not the list of generation_config.json).
    pub fn eos_id(&self) -> Option<u32> {
        self.special_id("eos_token")
    }

    /// Id of the tokenizer's `bos_token`.
    pub fn bos_id(&self) -> Option<u32> {
        self.special_id("bos_token")
    }

    /// Text of a special token such as `bos_token`.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        // transformers writes either the text or an object with it, and lets tokenizer_config.json win.
        [&self.config, &self.special_tokens].into_iter().find_map(|file| match file.get(name)? {
            Value::String(text) => Some(text.as_str()),
            object => object.get("content")?.as_str(),
        })
    }

    /// Values of transformers' `special_tokens_map`, the additional ones last.
    pub fn special_tokens(&self) -> Vec<&str> {
        const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
        let named = NAMES.into_iter().filter_map(|name| self.special_token(name));
        let files = [&self.config, &self.special_tokens].into_iter();
        let additional = files.into_iter().find_map(|file| file.get("additional_special_tokens")?.as_array());
        let additional = additional.into_iter().flatten().filter_map(|v| v.as_str().or_else(|| v.get("content")?.as_str()));
        named.chain(additional).collect()
    }

    fn special_id(&self, name: &str) -> Option<u32> {
        self.id(self.special_token(name)?)
    }

    /// The chat template, where the tokenizer has one; of several, the one named `default`.
    pub fn chat_template(&self) -> Option<&str> {
        if let Some(template) = &self.chat_template {
            return Some(template);
        }
        match self.config.get("chat_template")? {
            Value::Array(named) => named.iter().find(|t| t["name"] == "default")?.get("template")?.as_str(),
            single => single.as_str(),
        }
    }

    /// Whether decoding ends with `clean_up_tokenization_spaces` when nobody says otherwise.
    pub fn cleans_up(&self) -> bool {
        self.cleanup_setting().unwrap_or(false)
    }

    /// `clean_up_tokenization_spaces` of tokenizer_config.json, where it stands there.
    pub fn cleanup_setting(&self) -> Option<bool> {
        self.config.get("clean_up_tokenization_spaces").and_then(Value::as_bool)
    }

    /// The largest id plus one, added tokens included.
    pub fn vocabulary(&self) -> usize {
        let ids = self.inner.get_vocab(true).into_values();
        ids.max().map_or(0, |id| id as usize + 1)
    }

    /// SHA-256 of tokenizer.json, hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_files_are_named() {
        let error = Tokenizer::from_bytes(b"{}", None, None).expect_err("no model").to_string();
        assert!(error.starts_with("tokenizer.json is not valid: "), "{error}");
        let missing = Tokenizer::from_dir(Path::new("no such directory")).expect_err("missing").to_string();
        assert!(missing.contains("tokenizer.json"), "{missing}");
    }
    #[test]
    fn chat_templates_are_found_in_each_of_their_places() {
        let tokenizer = br#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#;
        for (config, file, expected) in [
            (r#"{"chat_template": "one"}"#, None, Some("one")),
            (r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#, None, Some("d")),
            (r#"{"chat_template": [{"name": "tool_use", "template": "t"}]}"#, None, None),
            (r#"{"chat_template": "one"}"#, Some("file"), Some("file")),
            ("{}", None, None),
        ] {
            let tokenizer = Tokenizer::from_bytes(tokenizer, Some(config.as_bytes()), None).expect("valid");
            let tokenizer = tokenizer.with_chat_template(file.map(|f| f.as_bytes().to_vec())).expect("UTF-8");
            assert_eq!(tokenizer.chat_template(), expected, "{config}");
        }
        let error = Tokenizer::from_bytes(tokenizer, None, None).expect("valid").with_chat_template(Some(vec![0xff]));
        assert!(error.expect_err("no UTF-8").to_string().starts_with("chat_template.jinja is not valid"));
    }
}
