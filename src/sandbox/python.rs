//! The interpreter: found on `PATH` or named, and what must be visible for it to run.
//!
//! It is the user's own program, so it is asked once outside the sandbox; nothing of a model runs here.

use super::SandboxError;
use serde::{Deserialize, Serialize};
use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const DISCOVER: &str = include_str!("discover.py");

/// An interpreter and the files it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Python {
    /// The program itself, links resolved.
    pub executable: PathBuf,
    /// `3.11.7`.
    pub version: String,
    /// `cpython`.
    pub implementation: String,
    /// Directories of the standard library.
    pub standard_library: Vec<PathBuf>,
    /// Directories of the shared libraries it loads.
    pub libraries: Vec<PathBuf>,
}

impl Python {
    /// Asks the interpreter at `path`.
    ///
    /// # Errors
    /// When it does not start or is no Python 3.
    #[expect(clippy::disallowed_methods, reason = "the sandbox may start processes; this one is the user's own interpreter")]
    pub fn at(path: &Path) -> Result<Self, SandboxError> {
        let failed = |why: String| SandboxError::Python { path: path.to_owned(), why };
        let ask = |program: &Path| {
            let mut command = Command::new(program);
            command.args(["-I", "-S", "-B", "-c", DISCOVER]).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
            // Version managers put scripts on PATH that look for their own files there.
            command.envs(["HOME", "PYENV_ROOT"].iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
            let output = command.stdin(Stdio::null()).output().map_err(|e| failed(e.to_string()))?;
            let text = String::from_utf8_lossy(&output.stderr);
            let last = text.lines().last().unwrap_or("no message");
            if !output.status.success() {
                return Err(failed(format!("{}: {last}", output.status)));
            }
            serde_json::from_slice::<Python>(&output.stdout).map_err(|_| failed("is no Python 3".into()))
        };
        // The second time with links and scripts resolved: what that program itself says is what holds in the sandbox.
        let found = ask(path)?;
        ask(&found.executable)
    }

    /// Interpreters that may serve: `named` alone, or every `python3` on `PATH`, then the system's.
    pub fn candidates(named: Option<&Path>) -> Vec<PathBuf> {
        if let Some(path) = named {
            return vec![path.to_owned()];
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/bin"), PathBuf::from("/usr/local/bin")]);
        let mut found: Vec<PathBuf> = folders.map(|folder| folder.join("python3")).filter(|path| is_program(path)).collect();
        let mut seen = std::collections::BTreeSet::new();
        found.retain(|path| seen.insert(path.clone()));
        found
    }

    /// Everything that is made visible, read-only.
    pub(super) fn visible(&self) -> impl Iterator<Item = &Path> {
        let all = self.standard_library.iter().chain(&self.libraries).chain([&self.executable]);
        all.map(PathBuf::as_path).chain(LOADER.iter().map(Path::new).filter(|path| path.exists()))
    }

    /// Directories of installed packages, which lie inside the standard library and are not part of it.
    pub(super) fn packages(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let inside = |folder: &PathBuf| ["site-packages", "dist-packages"].map(|name| folder.join(name));
        self.standard_library.iter().flat_map(inside).filter(|path| path.is_dir())
    }
}

/// Where the dynamic loader and its table may lie besides the directories of the libraries.
const LOADER: [&str; 2] = ["/lib64", "/etc/ld.so.cache"];

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_interpreter_is_named() {
        for path in ["/no/such/python3", "/bin/false", "/bin/cat"] {
            let error = Python::at(Path::new(path)).expect_err(path).to_string();
            assert!(error.contains(path), "{error}");
        }
    }

    #[test]
    fn a_named_interpreter_is_the_only_candidate() {
        assert_eq!(Python::candidates(Some(Path::new("/opt/python3"))), [PathBuf::from("/opt/python3")]);
    }
}
