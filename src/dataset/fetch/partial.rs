//! A file on its way: `NAME.partial` beside its place, until it is whole and verified. Nothing else ever has the name `NAME`.
//!
//! `NAME.partial.tag` holds the validator (ETag or date) of the copy that the server was sending, so that a later process can go on where
//! this one stopped. Not here: HTTP.

use crate::dataset::DatasetError;
use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

/// The bytes of a file that are here so far.
#[derive(Debug)]
pub(in crate::dataset) struct Partial {
    target: PathBuf,
    path: PathBuf,
    tag: PathBuf,
    file: File,
    len: u64,
}

impl Partial {
    /// What an earlier attempt left, or an empty file. Directories are made.
    ///
    /// # Errors
    /// [`DatasetError::Cache`].
    pub(in crate::dataset) fn open(target: &Path) -> Result<Partial, DatasetError> {
        make_parent(target)?;
        let (path, tag) = (beside(target, ".partial"), beside(target, ".partial.tag"));
        let file = OpenOptions::new().append(true).create(true).open(&path).map_err(DatasetError::cache("open", &path))?;
        let len = file.metadata().map_err(DatasetError::cache("read the size of", &path))?.len();
        Ok(Partial { target: target.to_owned(), path, tag, file, len })
    }

    /// Where the bytes are.
    pub(in crate::dataset) fn path(&self) -> &Path {
        &self.path
    }

    /// Number of bytes here.
    pub(in crate::dataset) fn len(&self) -> u64 {
        self.len
    }

    /// What identifies the copy that these bytes are the beginning of, for `If-Range`.
    pub(in crate::dataset) fn validator(&self) -> Option<String> {
        fs::read_to_string(&self.tag).ok().filter(|tag| !tag.is_empty())
    }

    /// Throws the bytes away and notes the validator of the copy that comes now.
    ///
    /// # Errors
    /// [`DatasetError::Cache`].
    pub(in crate::dataset) fn restart(&mut self, validator: Option<&str>) -> Result<(), DatasetError> {
        remove(&self.tag)?;
        if self.len > 0 {
            self.file.set_len(0).map_err(DatasetError::cache("truncate", &self.path))?;
            self.len = 0;
        }
        match validator {
            Some(validator) => fs::write(&self.tag, validator).map_err(DatasetError::cache("write", &self.tag)),
            None => Ok(()),
        }
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// [`DatasetError::Cache`]; the bytes before stay valid.
    pub(in crate::dataset) fn append(&mut self, bytes: &[u8]) -> Result<(), DatasetError> {
        self.file.write_all(bytes).map_err(DatasetError::cache("write", &self.path))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Gives the file its name. The caller has verified it.
    ///
    /// # Errors
    /// [`DatasetError::Cache`].
    pub(in crate::dataset) fn publish(self) -> Result<(), DatasetError> {
        // On disk before it has its name: after a power cut a file with a name is whole.
        self.file.sync_all().map_err(DatasetError::cache("write", &self.path))?;
        remove(&self.tag)?;
        rename(&self.path, &self.target)
    }

    /// Removes every trace.
    ///
    /// # Errors
    /// [`DatasetError::Cache`].
    pub(in crate::dataset) fn discard(self) -> Result<(), DatasetError> {
        remove(&self.tag)?;
        remove(&self.path)
    }
}

/// Makes the directory that `path` is to be in.
pub(in crate::dataset) fn make_parent(path: &Path) -> Result<(), DatasetError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(DatasetError::cache("create directory", parent))
}

/// Renames within a file system, and makes the new name last.
pub(in crate::dataset) fn rename(from: &Path, to: &Path) -> Result<(), DatasetError> {
    fs::rename(from, to).map_err(DatasetError::cache("create", to))?;
    // A name lives in its directory. Where a directory cannot be synced (not on every file system), the rename alone must do.
    if let Some(Ok(directory)) = to.parent().map(File::open) {
        let _ = directory.sync_all();
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), DatasetError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(DatasetError::cache("remove", path)(e)),
        _ => Ok(()),
    }
}

fn beside(target: &Path, suffix: &str) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gets_its_name_only_when_published() {
        let dir = tempfile::tempdir().expect("a directory");
        let target = dir.path().join("a/b.json");
        let mut partial = Partial::open(&target).expect("opened");
        partial.restart(Some("\"v1\"")).expect("restarted");
        partial.append(b"hel").expect("written");
        drop(partial);
        assert!(!target.exists());

        let mut partial = Partial::open(&target).expect("opened again");
        assert_eq!((partial.len(), partial.validator().as_deref()), (3, Some("\"v1\"")));
        partial.append(b"lo").expect("written");
        partial.publish().expect("published");
        let names = |dir: &Path| fs::read_dir(dir).expect("read").map(|e| e.expect("an entry").file_name()).collect::<Vec<_>>();
        assert_eq!(
            (fs::read(&target).expect("there"), names(target.parent().expect("a parent"))),
            (b"hello".to_vec(), vec!["b.json".into()])
        );

        let mut partial = Partial::open(&target).expect("opened anew");
        partial.append(b"x").expect("written");
        partial.restart(None).expect("restarted");
        assert_eq!((partial.len(), partial.validator()), (0, None));
        partial.discard().expect("discarded");
        assert_eq!(names(target.parent().expect("a parent")), ["b.json"]);
    }
}
