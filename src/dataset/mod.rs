//! Data sets: what they are ([`manifest`]), where their files are ([`store`]), how files get here ([`fetch`]), how they become records
//! ([`read`]).
//!
//! Knows no task, no prompt, no shot.

pub mod checksum;
pub mod fetch;
pub mod manifest;
pub mod read;
pub mod store;

use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// One record of a data-set file: named fields, in file order.
#[derive(Clone, Debug, PartialEq)]
pub struct Record(pub Map<String, Value>);

/// Why data is not at hand (exit code 4).
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// No manifest has that name.
    #[error("unknown data set '{name}'; known data sets: {known}")]
    Unknown {
        /// As the user wrote it.
        name: String,
        /// All names.
        known: String,
    },
    /// A manifest has no such split.
    #[error("data set '{dataset}' has no split '{split}'")]
    NoSplit {
        /// Data set.
        dataset: String,
        /// As asked for.
        split: String,
    },
    /// A manifest is not valid.
    #[error("manifest datasets/{name}.toml is not valid: {cause}")]
    Manifest {
        /// Data set.
        name: String,
        /// The parser's message.
        cause: String,
    },
    /// A file is nowhere.
    #[error("data set '{dataset}': file {file} is missing; looked for it in {looked}; it comes from {url}")]
    Missing {
        /// Data set.
        dataset: String,
        /// Path below the mirror.
        file: String,
        /// Directories, in the order they were tried.
        looked: String,
        /// Where it can be had.
        url: String,
    },
    /// A file is not the one the manifest means.
    #[error("{}: {what} is {got}, but {expected} is expected", path.display())]
    Differs {
        /// Which file.
        path: PathBuf,
        /// `size`, `sha256`, `git blob id`, `number of records`.
        what: &'static str,
        /// As the manifest says.
        expected: String,
        /// As found.
        got: String,
    },
    /// The file system refused.
    #[error("failed to {action} {}: {cause}", path.display())]
    Io {
        /// Infinitive.
        action: &'static str,
        /// File or directory.
        path: PathBuf,
        /// The system's message.
        cause: std::io::Error,
    },
    /// A file is not in the format its manifest says.
    #[error("{}, {place}: {cause}", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// `line 3`, `record 3`.
        place: String,
        /// What is wrong.
        cause: String,
    },
}

impl DatasetError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            DatasetError::Missing { dataset, .. } => {
                Some(format!("run `swallow-eval data fetch {dataset}`, or set SWALLOW_EVAL_DATA to a directory that holds the file"))
            }
            DatasetError::Differs { .. } => Some("remove the file, or fetch it again from its pinned address".into()),
            _ => None,
        }
    }

    fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> DatasetError {
        move |cause| DatasetError::Io { action, path: path.to_owned(), cause }
    }
}
