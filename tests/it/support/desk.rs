//! The built binary in an empty folder, with an environment of its own.

use assert_cmd::cargo::cargo_bin;
use std::{ffi::OsString, fs, process::Command};
use tempfile::TempDir;

/// Runs the program in a folder and with an environment of its own.
pub(crate) struct Desk {
    pub(crate) folder: TempDir,
    environment: Vec<(&'static str, OsString)>,
}

/// What the program said.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Desk {
    pub(crate) fn new() -> Self {
        // What a GPU answers, and the note that there is none, are for the tests of devices.
        let device = ("SWALLOW_EVAL_DEVICE", OsString::from("cpu"));
        Desk { folder: tempfile::tempdir().unwrap(), environment: cfg!(feature = "cuda").then_some(device).into_iter().collect() }
    }

    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        fs::write(self.folder.path().join(name), text).unwrap();
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    #[expect(clippy::disallowed_methods, reason = "a test may start the program it tests")]
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(cargo_bin!("swallow-eval"));
        command
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.folder.path())
            .envs(self.environment.iter().map(|(n, v)| (n, v)));
        command
    }

    pub(crate) fn run(&self, line: &str) -> Said {
        let output = self.command().args(line.split_terminator(' ')).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { code: output.status.code().expect("the program ends by itself"), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Desk {
    /// A secret stands neither in what was said nor in any file of the folder.
    pub(crate) fn never_shows(&self, secret: &str, said: &[&Said]) {
        for said in said {
            assert!(!said.err.contains(secret) && !said.out.contains(secret), "{} {}", said.out, said.err);
        }
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
                if entry.is_dir() {
                    folders.push(entry);
                } else {
                    assert!(!String::from_utf8_lossy(&fs::read(&entry).unwrap()).contains(secret), "{} holds it", entry.display());
                }
            }
        }
    }
}

impl Said {
    /// Exit code and parts of what stands on standard error; nothing on standard output.
    pub(crate) fn fails(&self, code: i32, parts: &[&str]) {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{}", self.err);
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is not in: {}", self.err);
        }
    }

    pub(crate) fn works(&self, parts: &[&str]) {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{}", self.out);
        for part in parts {
            assert!(self.out.contains(part), "{part:?} is not in: {}", self.out);
        }
    }
}
