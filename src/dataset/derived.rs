//! Files made from data-set files, kept in the cache so that they are made once.

use super::{DatasetError, store::Store};
use sha2::{Digest, Sha256};
use std::{io::Write as _, path::PathBuf};

/// Length of the SHA-256 that stands before the content.
const HASH: usize = 32;

impl Store {
    /// What `make` makes, from the cache where it is there and whole. `key` identifies everything that goes into it.
    ///
    /// # Errors
    /// Those of `make`. A cache that cannot be written costs time, and is no error.
    pub fn derived<E>(&self, key: &str, make: impl FnOnce() -> Result<Vec<u8>, E>) -> Result<Vec<u8>, E> {
        let path = self.derived_path(key);
        if let Some(content) = path.as_ref().and_then(|path| whole(std::fs::read(path).ok()?)) {
            return Ok(content);
        }
        let content = make()?;
        if let Some(path) = path {
            let _ = keep(&path, &content);
        }
        Ok(content)
    }

    fn derived_path(&self, key: &str) -> Option<PathBuf> {
        let Store::Files { cache: Some(cache), .. } = self else { return None };
        Some(cache.join("derived").join(key))
    }
}

/// The content of a file whose hash is right.
fn whole(file: Vec<u8>) -> Option<Vec<u8>> {
    let (hash, content) = file.split_at_checked(HASH)?;
    (Sha256::digest(content)[..] == *hash).then(|| content.to_vec())
}

/// Written beside, then renamed: another process never sees half of it.
fn keep(path: &std::path::Path, content: &[u8]) -> Result<(), DatasetError> {
    let io = |e: std::io::Error| DatasetError::io("write", path)(e);
    let dir = path.parent().unwrap_or(path);
    std::fs::create_dir_all(dir).map_err(io)?;
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(io)?;
    file.write_all(&Sha256::digest(content)).and_then(|()| file.write_all(content)).map_err(io)?;
    file.persist(path).map_err(|e| io(e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_and_again_when_damaged() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::Files { mirror: None, cache: Some(dir.path().to_owned()), source: None };
        let make = |content: &'static [u8]| store.derived("x", || Ok::<_, ()>(content.to_vec())).expect("made");
        assert_eq!(make(b"one"), b"one");
        assert_eq!(make(b"two"), b"one");
        let path = dir.path().join("derived/x");
        for damaged in [&b"short"[..], &[b'?'; 40]] {
            std::fs::write(&path, damaged).expect("written");
            assert_eq!(make(b"three"), b"three");
        }
        assert_eq!(make(b"four"), b"three");
        assert_eq!(store.derived("y", || Err::<Vec<u8>, _>("no")), Err("no"));
        assert_eq!(Store::samples().derived("x", || Ok::<_, ()>(b"five".to_vec())), Ok(b"five".to_vec()));
    }
}
