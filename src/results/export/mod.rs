//! A run in the files of other programs: [`lm_eval`] (lm-evaluation-harness), [`swallow`] (the original team's result tree), [`model_index`] (metadata
//! of the Hugging Face hub).
//!
//! Not here: sending anything anywhere.

pub mod lm_eval;
pub mod model_index;
pub mod swallow;

use super::{ResultsError, atomic};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A file of an export: its place below the folder of the export, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportFile {
    /// Relative, with `/`.
    pub path: String,
    /// UTF-8.
    pub text: String,
}

/// Writes files below `folder`, replacing those of the same name, and gives their paths.
///
/// # Errors
/// When a folder cannot be made or a file cannot be written.
pub fn write(folder: &Path, files: &[ExportFile]) -> Result<Vec<PathBuf>, ResultsError> {
    let write_one = |file: &ExportFile| {
        let path = folder.join(&file.path);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(ResultsError::io("create", parent))?;
        atomic::write(&path, |out| out.write_all(file.text.as_bytes()))?;
        Ok(path)
    };
    files.iter().map(write_one).collect()
}

/// Indented JSON with a line feed at the end, as Python's `json.dump(indent=2, ensure_ascii=False)` writes it.
fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}
