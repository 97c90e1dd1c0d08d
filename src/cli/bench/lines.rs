//! JSON lines in and out: what `bench` reads and writes.

use crate::cli::exit::{Exit, Failure};
use serde_json::Value;
use std::{fmt::Write as _, path::Path};

/// One line of an input file.
pub(super) struct Line {
    /// From 1.
    pub(super) number: usize,
    pub(super) value: Value,
}

/// All lines of a file but the blank ones.
///
/// # Errors
/// Exit 2: the file cannot be read, has no line, or one that is no JSON.
pub(super) fn read(path: &Path) -> Result<Vec<Line>, Failure> {
    let text =
        std::fs::read_to_string(path).map_err(|e| Failure::new(Exit::Usage, format!("failed to read --input {}: {e}", path.display())))?;
    let mut lines = Vec::new();
    for (index, line) in text.split('\n').enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let value = serde_json::from_str(line).map_err(|e| wrong(path, index + 1, &format!("is no JSON: {e}")))?;
        lines.push(Line { number: index + 1, value });
    }
    if lines.is_empty() {
        return Err(Failure::new(Exit::Usage, format!("--input {} has no line", path.display())));
    }
    Ok(lines)
}

/// A line that is not as it must be.
pub(super) fn wrong(path: &Path, number: usize, what: &str) -> Failure {
    Failure::new(Exit::Usage, format!("{}:{number} {what}", path.display()))
}

/// Writes values, one a line.
///
/// # Errors
/// Exit 2: the file cannot be written.
pub(super) fn write(path: &Path, values: impl IntoIterator<Item = Value>) -> Result<(), Failure> {
    let mut text = String::new();
    for value in values {
        let _ = writeln!(text, "{value}");
    }
    std::fs::write(path, text).map_err(|e| Failure::new(Exit::Usage, format!("failed to write --output {}: {e}", path.display())))
}
