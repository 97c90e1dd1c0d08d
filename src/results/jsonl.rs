//! JSON lines with a format number: `{"v":1,...}`, one object a line, every line ended by a line feed.

use super::{ResultsError, check_format};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs,
    io::{self, Write},
    path::Path,
};

/// A line as written: the format number before the fields of the body.
#[derive(Serialize)]
struct Numbered<'a, T> {
    v: u32,
    #[serde(flatten)]
    body: &'a T,
}

/// The part of a line that every format has.
#[derive(Deserialize)]
struct Head {
    v: u32,
}

/// Writes `body` as one line of format `v`.
pub(super) fn write_line<T: Serialize>(mut out: impl Write, v: u32, body: &T) -> io::Result<()> {
    serde_json::to_writer(&mut out, &Numbered { v, body })?;
    out.write_all(b"\n")
}

/// Reads one line, which must be of format `supported` or older. `number` counts from 1 and is for the message.
pub(super) fn parse_line<T: DeserializeOwned>(path: &Path, number: usize, line: &[u8], supported: u32) -> Result<T, ResultsError> {
    let corrupt = |e: serde_json::Error| ResultsError::corrupt(path, Some(number), reason(&e));
    let head: Head = serde_json::from_slice(line).map_err(corrupt)?;
    check_format(path, Some(number), head.v, supported)?;
    serde_json::from_slice(line).map_err(corrupt)
}

/// Reads a file that was written as a whole.
pub(super) fn read<T: DeserializeOwned>(path: &Path, supported: u32) -> Result<Vec<T>, ResultsError> {
    let bytes = fs::read(path).map_err(ResultsError::io("read", path))?;
    numbered_lines(&bytes).map(|(number, line)| parse_line(path, number, line, supported)).collect()
}

/// The lines of a file, counted from 1, without their line feeds.
pub(super) fn numbered_lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    bytes
        .strip_suffix(b"\n")
        .unwrap_or(bytes)
        .split(|b| *b == b'\n')
        .enumerate()
        .map(|(i, line)| (i + 1, line))
        .filter(|_| !bytes.is_empty())
}

/// serde_json's message for a text of one line: its "at line 1 column 7" would contradict the line number of the file.
pub(super) fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((message, _)) => format!("{message} (column {})", error.column()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_from_one() {
        let lines = |text: &str| numbered_lines(text.as_bytes()).map(|(n, l)| (n, l.len())).collect::<Vec<_>>();
        assert_eq!(lines(""), []);
        assert_eq!(lines("\n"), [(1, 0)]);
        assert_eq!(lines("a\nbc"), [(1, 1), (2, 2)]);
        assert_eq!(lines("a\n\nbc\n"), [(1, 1), (2, 0), (3, 2)]);
    }

    #[test]
    fn bad_lines_are_named() {
        let parse = |line: &str| parse_line::<serde_json::Value>(Path::new("f.jsonl"), 7, line.as_bytes(), 1).expect_err(line).to_string();
        assert_eq!(parse("{\"v\":1,"), "f.jsonl:7: EOF while parsing a value (column 7)");
        assert_eq!(parse(""), "f.jsonl:7: EOF while parsing a value (column 0)");
        assert_eq!(parse("{}"), "f.jsonl:7: missing field `v` (column 2)");
        assert_eq!(parse("{\"v\":0}"), "f.jsonl:7: format number 0 does not exist");
        assert_eq!(parse("{\"v\":2}"), "f.jsonl:7: format 2 is newer than 1, the newest this build reads");
    }
}
