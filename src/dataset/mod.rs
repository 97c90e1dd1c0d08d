//! Data sets: what they are ([`manifest`]), where their files are ([`store`]), how files get here ([`fetch`], [`archive`]), how they become
//! records ([`read`]). Models and tokenizers of the hub become directories in [`hub`].
//!
//! Knows no task, no prompt, no shot.

pub mod archive;
pub mod checksum;
mod compressed;
mod derived;
pub mod fetch;
pub mod hub;
pub mod manifest;
pub mod read;
pub mod store;

use serde_json::{Map, Value};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// One record of a data-set file: named fields, in file order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record(pub Map<String, Value>);

/// Whether downloads are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// What is not at hand is downloaded.
    Allowed,
    /// No socket is opened (`--offline`).
    Off,
}

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
    /// The cache cannot take a file.
    #[error("the cache cannot be written: failed to {action} {}: {cause}", path.display())]
    Cache {
        /// Infinitive.
        action: &'static str,
        /// File or directory.
        path: PathBuf,
        /// The system's message.
        cause: std::io::Error,
    },
    /// No directory can be named for downloads.
    #[error("no directory for downloads: none of {tried} is set")]
    NoHome {
        /// Names of environment variables.
        tried: &'static str,
    },
    /// An address that is none. User-info is cut off.
    #[error("'{address}' is not a web address: {cause}")]
    Address {
        /// As the user wrote it.
        address: String,
        /// What is wrong.
        cause: String,
    },
    /// An archive cannot be read or written.
    #[error("failed to {action} {}: {cause}", path.display())]
    ArchiveFile {
        /// Infinitive.
        action: &'static str,
        /// The archive.
        path: PathBuf,
        /// The system's message.
        cause: std::io::Error,
    },
    /// An archive is not what it should be.
    #[error("{}{}{entry}: {cause}", path.display(), if entry.is_empty() { "" } else { ", entry " })]
    Archive {
        /// The archive.
        path: PathBuf,
        /// Path within it, or empty.
        entry: String,
        /// What is wrong.
        cause: String,
    },
    /// The HTTP client refuses its settings.
    #[error("failed to set up downloads: {cause}")]
    Client {
        /// Its words.
        cause: String,
    },
    /// A model or tokenizer is not at hand.
    #[error(transparent)]
    Hub(#[from] hub::HubError),
    /// A file could not be downloaded.
    #[error("failed to download {file} of {of} from {url}: {fault}{}", attempts(*tries))]
    Download {
        /// `data set 'niilc'`, `model org/name`.
        of: String,
        /// Path below the cache.
        file: String,
        /// Address, without user-info.
        url: String,
        /// What happened at the last attempt.
        fault: fetch::Fault,
        /// Attempts made.
        tries: u32,
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
            DatasetError::Cache { cause, .. } => Some(match cause.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    "free some space, or set SWALLOW_EVAL_HOME to a larger file system".into()
                }
                _ => "set SWALLOW_EVAL_HOME to a directory that can be written".into(),
            }),
            DatasetError::Address { .. } => Some("write it as https://host/path".into()),
            DatasetError::Archive { .. } => Some("make the archive with `swallow-eval data export` of the same version".into()),
            DatasetError::Client { .. } => Some("check HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE".into()),
            DatasetError::Hub(error) => error.hint(),
            DatasetError::Download { fault, .. } => Some(fault.hint().into()),
            _ => None,
        }
    }

    fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> DatasetError {
        move |cause| DatasetError::Io { action, path: path.to_owned(), cause }
    }

    fn cache(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> DatasetError {
        move |cause| DatasetError::Cache { action, path: path.to_owned(), cause }
    }
}

/// How often it was tried, where that was more than once.
fn attempts(tries: u32) -> String {
    if tries > 1 { format!(" (after {tries} attempts)") } else { String::new() }
}
