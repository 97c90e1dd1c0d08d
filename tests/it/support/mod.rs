//! What several topics share.

pub mod server;

use std::path::PathBuf;

/// The folder an environment variable names, or `None` after saying that the test is skipped because of it.
pub fn folder_of(variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: {variable} is not set");
    }
    folder
}
