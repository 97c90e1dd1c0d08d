//! Files inside files: gzip of a mirror, members of tar and zip archives.

use super::DatasetError;
use flate2::read::GzDecoder;
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// No member is longer than this: an archive cannot fill the memory.
const LONGEST: u64 = 2 << 30;

/// Whether a file lies compressed where its manifest names it plain.
pub(super) fn is(path: &Path, name: &str) -> bool {
    path.extension().is_some_and(|e| e == "gz") && !name.ends_with(".gz")
}

/// The content of a file as its manifest means it: `path` may be the same with `.gz` behind it.
///
/// # Errors
/// [`DatasetError::Io`].
pub(super) fn content(path: &Path) -> Result<Vec<u8>, DatasetError> {
    let stored = std::fs::read(path).map_err(DatasetError::io("read", path))?;
    let mut plain = Vec::new();
    GzDecoder::new(stored.as_slice()).take(LONGEST).read_to_end(&mut plain).map_err(DatasetError::io("decompress", path))?;
    Ok(plain)
}

/// The content of one file of an archive, whose name says what it is.
///
/// # Errors
/// [`DatasetError::Archive`] where there is no such file, or the archive is none.
pub(super) fn member(archive: &Path, name: &str) -> Result<Vec<u8>, DatasetError> {
    let broken = |cause: String| DatasetError::Archive { path: archive.to_owned(), entry: name.to_owned(), cause };
    let file = File::open(archive).map_err(DatasetError::io("open", archive))?;
    let content = match archive.extension().and_then(|e| e.to_str()) {
        Some("zip") => of_zip(file, name).map_err(|e| broken(e.to_string()))?,
        Some("tar") => of_tar(file, name).map_err(|e| broken(e.to_string()))?,
        _ => return Err(broken("it is neither .tar nor .zip".to_owned())),
    };
    content.ok_or_else(|| broken("there is no such file in the archive".to_owned()))
}

fn of_zip(file: File, name: &str) -> zip::result::ZipResult<Option<Vec<u8>>> {
    let mut archive = zip::ZipArchive::new(io::BufReader::new(file))?;
    let mut content = Vec::new();
    match archive.by_name(name) {
        Ok(entry) => entry.take(LONGEST).read_to_end(&mut content)?,
        Err(zip::result::ZipError::FileNotFound) => return Ok(None),
        Err(e) => return Err(e),
    };
    Ok(Some(content))
}

fn of_tar(file: File, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut archive = tar::Archive::new(io::BufReader::new(file));
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if entry.path()?.to_str() == Some(name) {
            let mut content = Vec::new();
            entry.take(LONGEST).read_to_end(&mut content)?;
            return Ok(Some(content));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn members_of_both_kinds_of_archives() {
        let dir = tempfile::tempdir().expect("a directory");
        let (tar_path, zip_path) = (dir.path().join("a.tar"), dir.path().join("a.zip"));
        let mut tar = tar::Builder::new(File::create(&tar_path).expect("created"));
        let mut zip = zip::ZipWriter::new(File::create(&zip_path).expect("created"));
        for (name, content) in [("data/x.csv", "x".repeat(3000)), ("data/y.csv", "why".to_owned())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_cksum();
            tar.append_data(&mut header, name, content.as_bytes()).expect("appended");
            let deflated = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
            zip.start_file(name, deflated).expect("started");
            zip.write_all(content.as_bytes()).expect("written");
        }
        drop(tar.into_inner().expect("whole"));
        drop(zip.finish().expect("whole"));
        for archive in [&tar_path, &zip_path] {
            assert_eq!(member(archive, "data/y.csv").expect("there"), b"why");
            assert_eq!(member(archive, "data/x.csv").expect("there").len(), 3000);
            let missing = member(archive, "data/z.csv").expect_err("not there").to_string();
            assert!(missing.contains("entry data/z.csv") && missing.contains("no such file"), "{missing}");
        }
        std::fs::write(&zip_path, b"no zip").expect("written");
        assert!(member(&zip_path, "x").is_err());
        assert!(member(dir.path(), "x").is_err());
    }
}
