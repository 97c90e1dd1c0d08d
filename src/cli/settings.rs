//! Environment variables, the process's own first and then those of `.env` in the working directory; and how a text loses its secrets.
//!
//! The process environment is never written to: a child or a library sees what the user exported, and no more.

use super::exit::{Exit, Failure};
use std::{collections::BTreeMap, path::Path, sync::OnceLock};

/// Name of the file in the working directory.
pub(super) const DOTENV: &str = ".env";

static FROM_DOTENV: OnceLock<BTreeMap<String, String>> = OnceLock::new();

/// Reads `.env` once, before anything asks for a variable.
///
/// # Errors
/// Exit 2: the file exists but cannot be read or understood. The message quotes no line, since a line may hold a key.
pub(super) fn load() -> Result<(), Failure> {
    let read = read_dotenv(Path::new(DOTENV))?;
    FROM_DOTENV.get_or_init(|| read);
    Ok(())
}

/// The variable from the process environment, else from `.env`; an empty value counts as unset.
pub fn env(name: &str) -> Option<String> {
    let own = std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()).filter(|value| !value.is_empty());
    own.or_else(|| dotenv()?.get(name).filter(|value| !value.is_empty()).cloned())
}

/// The variables of `.env`; `None` where it was not read.
pub(super) fn dotenv() -> Option<&'static BTreeMap<String, String>> {
    FROM_DOTENV.get()
}

fn read_dotenv(path: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(e) => return Err(Failure::new(Exit::Usage, format!("cannot read {}: {e}", path.display()))),
    };
    dotenvy::from_read_iter(text.as_bytes()).collect::<Result<_, _>>().map_err(|e| not_understood(path, &text, &e))
}

fn not_understood(path: &Path, text: &str, error: &dotenvy::Error) -> Failure {
    let line = match error {
        dotenvy::Error::LineParse(wrong, _) => text.lines().position(|line| line.trim() == wrong.trim()),
        _ => None,
    };
    let at = line.map_or(String::new(), |line| format!(":{}", line + 1));
    Failure::new(Exit::Usage, format!("{}{at}: not of the form NAME=value", path.display())).hint("quote values that hold blanks or quotes")
}

/// The text without user-info in URLs and without the values of `api_key=`, `token=` and `header=`. For messages and for run.json.
pub fn redact(text: &str) -> String {
    let mut shown = without_user_info(text);
    for key in ["api_key", "token", "header"] {
        for assign in [format!("{key}="), format!("\"{key}\":")] {
            shown = blank_values(&shown, &assign);
        }
    }
    shown
}

fn without_user_info(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let end = after.find(|c: char| "/?#,\"'".contains(c) || c.is_whitespace()).unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(user_info) => {
                shown.push_str("***@");
                &after[user_info + 1..]
            }
            None => after,
        };
    }
    shown.push_str(rest);
    shown
}

fn blank_values(text: &str, assign: &str) -> String {
    let mut pieces = text.split(assign);
    let mut shown = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        // `tokenizer=` and the like end in one of the keys only by chance of spelling, so a longer word keeps its value.
        let whole_word = !shown.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        shown.push_str(assign);
        if whole_word {
            shown.push_str("***");
        }
        shown.push_str(if whole_word { &piece[piece.find([',', '}']).unwrap_or(piece.len())..] } else { piece });
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redaction() {
        for (text, expected) in [
            ("http://a:1/v1", "http://a:1/v1"),
            ("http://user:pass@a:1/v1,https://k@b/v1", "http://***@a:1/v1,https://***@b/v1"),
            ("http://a/v1?x=b@c", "http://a/v1?x=b@c"),
            ("model=m,api_key=sk-1,timeout=3", "model=m,api_key=***,timeout=3"),
            ("header=Authorization: Bearer x", "header=***"),
            ("my_token=a", "my_token=a"),
            (r#"{"api_key":"sk-1","model":"m"}"#, r#"{"api_key":***,"model":"m"}"#),
            ("日本://é@x", "日本://***@x"),
        ] {
            assert_eq!(redact(text), expected, "{text}");
        }
    }

    #[test]
    fn dotenv_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        assert!(read_dotenv(&path).unwrap().is_empty());
        std::fs::write(&path, "# a comment\nexport HF_TOKEN=hf_x\nNAME=\"two words\"\n").unwrap();
        let read = read_dotenv(&path).unwrap();
        assert_eq!((read["HF_TOKEN"].as_str(), read["NAME"].as_str()), ("hf_x", "two words"));
        std::fs::write(&path, "A=1\nsk-secret without a name\n").unwrap();
        let failure = read_dotenv(&path).unwrap_err();
        assert!(failure.message.ends_with(".env:2: not of the form NAME=value"), "{}", failure.message);
        assert_eq!(failure.exit, Exit::Usage);
    }
}
