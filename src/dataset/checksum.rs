//! Whether a file is the one its manifest means.

use super::{
    DatasetError,
    manifest::DataFile,
    read::{self, Reader},
};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::path::Path;

/// Compares size, SHA-256 and git blob id, as far as the manifest gives them. The number of records is checked by whoever reads them.
///
/// # Errors
/// [`DatasetError::Differs`] with both values.
pub fn verify(path: &Path, content: &[u8], file: &DataFile) -> Result<(), DatasetError> {
    let differs =
        |what, expected: &str, got: String| Err(DatasetError::Differs { path: path.to_owned(), what, expected: expected.to_owned(), got });
    if let Some(bytes) = file.bytes
        && bytes != content.len() as u64
    {
        return differs("size", &format!("{bytes} bytes"), format!("{} bytes", content.len()));
    }
    if let Some(expected) = &file.sha256 {
        let got = sha256(content);
        if got != *expected {
            return differs("sha256", expected, got);
        }
    }
    if let Some(expected) = &file.git_blob {
        let got = git_blob(content);
        if got != *expected {
            return differs("git blob id", expected, got);
        }
    }
    Ok(())
}

/// Reads a file and compares it as [`verify`] does; where the manifest gives no hash, its records are counted instead. Returns its size in
/// bytes.
///
/// # Errors
/// [`DatasetError::Io`], [`DatasetError::Differs`], [`DatasetError::Format`].
pub fn verify_file(path: &Path, file: &DataFile, reader: &Reader) -> Result<u64, DatasetError> {
    let content = std::fs::read(path).map_err(DatasetError::io("read", path))?;
    verify(path, &content, file)?;
    if file.sha256.is_none() && file.git_blob.is_none() {
        verify_rows(path, file, read::records(reader, &content, path)?.len())?;
    }
    Ok(content.len() as u64)
}

/// Compares the number of records, where the manifest gives it.
///
/// # Errors
/// [`DatasetError::Differs`] with both values.
pub fn verify_rows(path: &Path, file: &DataFile, got: usize) -> Result<(), DatasetError> {
    match file.rows {
        Some(rows) if rows != got as u64 => Err(DatasetError::Differs {
            path: path.to_owned(),
            what: "number of records",
            expected: rows.to_string(),
            got: got.to_string(),
        }),
        _ => Ok(()),
    }
}

/// SHA-256, hexadecimal.
pub fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

/// `git hash-object`: SHA-1 over `blob <bytes>\0` and the content.
fn git_blob(content: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", content.len()));
    hash.update(content);
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_says_both_values() {
        let good = DataFile {
            split: "s".into(),
            path: "p".into(),
            url: "u".into(),
            bytes: Some(6),
            sha256: Some("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03".into()),
            git_blob: Some("ce013625030ba8dba906f756967f9e9ca394464a".into()),
            rows: None,
        };
        let check = |file: &DataFile| verify(Path::new("f"), b"hello\n", file).map_err(|e| e.to_string());
        assert_eq!(check(&good), Ok(()));
        let size = check(&DataFile { bytes: Some(7), ..good.clone() }).expect_err("size");
        assert_eq!(size, "f: size is 6 bytes, but 7 bytes is expected");
        let sha = check(&DataFile { sha256: Some("00".into()), ..good.clone() }).expect_err("sha256");
        assert!(sha.contains("5891b5") && sha.contains("00"), "{sha}");
        let blob = check(&DataFile { git_blob: Some("00".into()), ..good }).expect_err("git blob");
        assert!(blob.contains("ce0136"), "{blob}");
    }
}
