//! The command line as it may be written down: without secrets.

use serde::{Deserialize, Serialize};

/// What stands where a secret stood.
const HIDDEN: &str = "***";

/// Words that name a secret when they are a whole part of a name (`api_key`, `--hf-token`; not `--tokenizer`, not `max_new_tokens`).
const SECRET_WORDS: [&str; 13] = [
    "apikey",
    "auth",
    "authorization",
    "bearer",
    "cookie",
    "credential",
    "credentials",
    "header",
    "headers",
    "key",
    "password",
    "secret",
    "token",
];

/// How the keys of services that people use here begin.
const SECRET_PREFIXES: [&str; 3] = ["sk-", "hf_", "nvapi-"];

/// The arguments of a run, with every secret replaced by `***`. Cannot be made from arguments in any other way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommandLine(Vec<String>);

impl CommandLine {
    /// Keeps `arguments`, less values of options that carry secrets, user information in URLs, and words that look like keys.
    ///
    /// Rather hides too much: after `api_key=` the rest of an argument is gone.
    pub fn redacted(arguments: impl IntoIterator<Item = String>) -> Self {
        let mut hide_next = false;
        let keep = |argument: String| {
            let is_flag = argument.starts_with('-');
            let hidden = if std::mem::take(&mut hide_next) && !is_flag { HIDDEN.to_owned() } else { redact(&argument) };
            hide_next = is_flag && !argument.contains('=') && names_secret(&argument);
            hidden
        };
        CommandLine(arguments.into_iter().map(keep).collect())
    }

    /// The arguments.
    pub fn arguments(&self) -> &[String] {
        &self.0
    }
}

/// One text without secrets: what may be shown or written of it.
pub fn redact(text: &str) -> String {
    hide_key_words(&hide_values(&hide_user_info(text)))
}

/// `https://user:password@host` becomes `https://***@host`, for every URL in the text.
fn hide_user_info(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, authority_on) = rest.split_at(at + 3);
        kept.push_str(before);
        rest = authority_on;
        // The last @ counts: a password may hold one.
        let authority = authority_on.split(['/', '?', '#', ',', ' ']).next().unwrap_or_default();
        if let Some(end) = authority.rfind('@') {
            kept.push_str(HIDDEN);
            rest = &authority_on[end..];
        }
    }
    kept + rest
}

/// Everything after `api_key=` or `"Authorization":`.
fn hide_values(text: &str) -> String {
    for (at, _) in text.match_indices(['=', ':']) {
        let before = text[..at].trim_end_matches(['"', '\'', ' ']);
        let name = before.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-').next().unwrap_or_default();
        if names_secret(name) {
            return format!("{}{HIDDEN}", &text[..=at]);
        }
    }
    text.to_owned()
}

/// Words that begin like a key of a known service and are long enough to be one.
fn hide_key_words(text: &str) -> String {
    let is_separator = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let words = text.split_inclusive(is_separator).map(|part| {
        let word = part.trim_end_matches(is_separator);
        let secret = word.len() >= 16 && SECRET_PREFIXES.iter().any(|prefix| word.starts_with(prefix));
        if secret { format!("{HIDDEN}{}", &part[word.len()..]) } else { part.to_owned() }
    });
    words.collect()
}

/// Whether one of the parts of a name, split at `-` and `_`, is a word for a secret.
fn names_secret(name: &str) -> bool {
    name.split(['-', '_']).any(|part| SECRET_WORDS.contains(&part.to_ascii_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_the_rest_is_kept() {
        for (arguments, expected) in [
            ("run --suite ja --tokenizer dir", "run --suite ja --tokenizer dir"),
            ("run --api-key abc --limit 4", "run --api-key *** --limit 4"),
            ("run --api_key=abc --limit 4", "run --api_key=*** --limit 4"),
            ("run --hf-token --quiet", "run --hf-token --quiet"),
            ("--model_args model=m,api_key=a,b=c", "--model_args model=m,api_key=***"),
            ("--model_args model=m,num_concurrent=4", "--model_args model=m,num_concurrent=4"),
            ("--gen-kwargs max_new_tokens=4", "--gen-kwargs max_new_tokens=4"),
            ("--base-url http://h:8000/v1", "--base-url http://h:8000/v1"),
            ("--base-url http://u:p@h:8000/v1,https://me@i/v1", "--base-url http://***@h:8000/v1,https://***@i/v1"),
            ("--base-url http://u:p@q@h/v1", "--base-url http://***@h/v1"),
            ("--base-url https://h/v1?api-key=abc", "--base-url https://h/v1?api-key=***"),
            ("--model sk-abcdefghijklmnop", "--model ***"),
            ("--model hf_short", "--model hf_short"),
            ("--note 鍵token=abc", "--note 鍵token=***"),
        ] {
            let redacted = CommandLine::redacted(arguments.split(' ').map(str::to_owned));
            assert_eq!(redacted.arguments().join(" "), expected);
        }
    }

    #[test]
    fn json_in_one_argument() {
        let redacted = CommandLine::redacted([r#"header={"Authorization": "Bearer abc"}"#.to_owned(), r#"{"api_key": "abc"}"#.to_owned()]);
        assert_eq!(redacted.arguments(), ["header=***", r#"{"api_key":***"#]);
    }
}
