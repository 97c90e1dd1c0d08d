//! Whether a file is the one its manifest means.

use super::{
    DatasetError,
    manifest::DataFile,
    read::{self, Reader},
};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs::{File, Metadata},
    io::Read,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

/// Files are hashed in pieces of this size: a shard of a model does not fit into memory twice.
const PIECE: usize = 1 << 20;

/// Compares size, SHA-256 and git blob id, as far as the manifest gives them. The number of records is checked by whoever reads them.
///
/// # Errors
/// [`DatasetError::Differs`] with both values.
pub fn verify(path: &Path, content: &[u8], file: &DataFile) -> Result<(), DatasetError> {
    verify_stream(path, content.len() as u64, content, file)
}

/// Compares the file at `path` as [`verify`] does; where the manifest gives no hash, its records are counted instead. Returns its size in
/// bytes.
///
/// # Errors
/// [`DatasetError::Io`], [`DatasetError::Differs`], [`DatasetError::Format`].
pub fn verify_file(path: &Path, file: &DataFile, reader: Option<&Reader>) -> Result<u64, DatasetError> {
    let read = || DatasetError::io("read", path);
    let stream = File::open(path).map_err(read())?;
    let metadata = stream.metadata().map_err(read())?;
    let bytes = metadata.len();
    if file.member.is_some() && is_known(path, &metadata, file) {
        return Ok(bytes);
    }
    verify_stream(path, bytes, stream, file)?;
    if let (None, None, Some(reader)) = (&file.sha256, &file.git_blob, reader) {
        let content = std::fs::read(path).map_err(read())?;
        verify_rows(path, file, read::records(reader, &content, path)?.len())?;
    }
    Ok(bytes)
}

/// Archives found right by this process, with what they were then: each of a benchmark's hundred splits asks for the same archive.
static KNOWN: Mutex<BTreeSet<Found>> = Mutex::new(BTreeSet::new());

/// Path, size, time of the last change, SHA-256.
type Found = (PathBuf, u64, Option<SystemTime>, String);

/// Whether the archive was found right before and has not changed since; otherwise it is hashed now, and known after that.
fn is_known(path: &Path, metadata: &Metadata, file: &DataFile) -> bool {
    let Some(sha256) = &file.sha256 else { return false };
    let key = (path.to_owned(), metadata.len(), metadata.modified().ok(), sha256.clone());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if known.contains(&key) {
        return true;
    }
    let right = File::open(path).is_ok_and(|stream| verify_stream(path, metadata.len(), stream, file).is_ok());
    right && known.insert(key)
}

fn verify_stream(path: &Path, bytes: u64, mut stream: impl Read, file: &DataFile) -> Result<(), DatasetError> {
    let compare = |what, expected: &str, got: &str| match expected == got {
        true => Ok(()),
        false => Err(DatasetError::Differs { path: path.to_owned(), what, expected: expected.to_owned(), got: got.to_owned() }),
    };
    if let Some(expected) = file.bytes {
        compare("size", &format!("{expected} bytes"), &format!("{bytes} bytes"))?;
    }
    let mut sha256 = file.sha256.as_ref().map(|expected| (expected, Sha256::new()));
    let mut blob = file.git_blob.as_ref().map(|expected| (expected, git_blob(bytes)));
    if sha256.is_none() && blob.is_none() {
        return Ok(());
    }
    let mut piece = vec![0; PIECE];
    loop {
        let read = stream.read(&mut piece).map_err(DatasetError::io("read", path))?;
        if read == 0 {
            break;
        }
        if let Some((_, hash)) = &mut sha256 {
            hash.update(&piece[..read]);
        }
        if let Some((_, hash)) = &mut blob {
            hash.update(&piece[..read]);
        }
    }
    if let Some((expected, hash)) = sha256 {
        compare("sha256", expected, &hex(&hash.finalize()))?;
    }
    if let Some((expected, hash)) = blob {
        compare("git blob id", expected, &hex(&hash.finalize()))?;
    }
    Ok(())
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

/// `git hash-object`: SHA-1 over `blob <bytes>\0` and the content, which is still to come.
fn git_blob(bytes: u64) -> Sha1 {
    Sha1::new_with_prefix(format!("blob {bytes}\0"))
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
            member: None,
            split: "s".into(),
            path: "p".into(),
            url: None,
            field: None,
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
