//! Files replaced as a whole: written beside the old one, then renamed over it.

use super::ResultsError;
use std::{
    fs,
    io::{self, BufWriter, Write},
    path::Path,
};
use tempfile::NamedTempFile;

/// How the names of our temporary files begin.
const TEMPORARY: &str = ".swallow-eval-";

/// Replaces the file `path` by what `fill` writes. Until then the old file stands; when anything fails, it stays.
///
/// # Errors
/// When the directory or disk refuses.
pub fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), ResultsError> {
    let write = || {
        let mut out = BufWriter::new(temporary_beside(path)?);
        fill(&mut out)?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        // Without this a crash of the machine may keep the rename and lose the content.
        file.as_file().sync_all()?;
        file.persist(path).map(drop).map_err(|e| e.error)
    };
    write().map_err(ResultsError::io("write", path))
}

/// Tries in `dir` what [`write()`] will do.
pub(super) fn probe(dir: &Path) -> Result<(), ResultsError> {
    let path = dir.join(format!("{TEMPORARY}probe"));
    write(&path, |out| out.write_all(b"probe"))?;
    fs::remove_file(&path).map_err(ResultsError::io("remove", &path))
}

/// Removes temporary files that a killed process left in `dir`.
pub(super) fn remove_leftovers(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn temporary_beside(path: &Path) -> io::Result<NamedTempFile> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    // Results are shared with colleagues: as open as the umask allows, not the 0600 of a secret temporary file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("f");
        write(&path, |out| out.write_all(b"old")).expect("writes");
        let failed = write(&path, |out| {
            out.write_all(b"new")?;
            Err(io::Error::other("no more"))
        });
        assert_eq!(failed.expect_err("failed").to_string(), format!("cannot write {}: no more", path.display()));
        assert_eq!(fs::read(&path).expect("there"), b"old");
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1);
        write(&path, |out| out.write_all(b"new")).expect("writes");
        assert_eq!(fs::read(&path).expect("there"), b"new");
    }

    #[test]
    fn who_reads_the_old_file_reads_it_to_the_end() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("f");
        write(&path, |out| out.write_all(b"old")).expect("writes");
        let reader = fs::File::open(&path).expect("opens");
        write(&path, |out| out.write_all(b"new")).expect("writes");
        assert_eq!(io::read_to_string(reader).expect("reads"), "old");
    }

    #[test]
    fn leftovers_go_and_strangers_stay() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in [".swallow-eval-Ab12", "mine.txt"] {
            fs::write(dir.path().join(name), b"x").expect("written");
        }
        remove_leftovers(dir.path()).expect("removed");
        let names: Vec<_> = fs::read_dir(dir.path()).expect("there").map(|e| e.expect("entry").file_name()).collect();
        assert_eq!(names, ["mine.txt"]);
    }
}
