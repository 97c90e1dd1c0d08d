//! Environment variables, the process's own first and then those of `.env` in the working directory.
//!
//! The process environment is never written to: a child or a library sees what the user exported, and no more.

use super::exit::{Exit, Failure};
use crate::engine::endpoint::Secret;
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

/// The key for servers.
pub fn api_key() -> Option<Secret> {
    ["SWALLOW_EVAL_API_KEY", "OPENAI_API_KEY"].into_iter().find_map(env).map(Secret::new)
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

#[cfg(test)]
mod tests {
    use super::*;

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
