//! Data sets in one file, for machines without a network: `data export` writes it, `data import` reads it.
//!
//! A gzip-compressed tar of the files under their paths of the manifests, so that its unpacked form is a mirror (`SWALLOW_EVAL_DATA`). The
//! same files give the same bytes. Not here: which data sets are wanted, and what is shown.

use super::{
    DatasetError, checksum, compressed,
    fetch::partial::{make_parent, rename},
    manifest::{DataFile, Form, Manifest},
    store::Store,
};
use flate2::{Compression, GzBuilder, read::GzDecoder};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, BufWriter, Read},
    path::{Component, Path, PathBuf},
};
use tar::{Archive, Builder, Entry, EntryType, Header};

/// No file without a known size is longer than this: an archive cannot fill the disk.
const LONGEST: u64 = 4 << 30;

/// What went into an archive, or came out of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Paths, in order.
    pub files: Vec<String>,
    /// Their size, uncompressed.
    pub bytes: u64,
    /// Paths of files that are not at hand (export only).
    pub missing: Vec<String>,
}

/// A file with all that is known of it.
#[derive(Clone, Copy)]
struct Known<'a> {
    manifest: &'a Manifest,
    form: &'a Form,
    file: &'a DataFile,
}

/// Every file of these data sets, by its path.
fn files(manifests: &[Manifest]) -> BTreeMap<&str, Known<'_>> {
    let forms = manifests.iter().flat_map(|manifest| manifest.form.iter().map(move |form| (manifest, form)));
    let files = forms.flat_map(|(manifest, form)| form.files.iter().map(move |file| Known { manifest, form, file }));
    files.map(|known| (known.file.path.as_str(), known)).collect()
}

/// What becomes of an export to which a file is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gaps {
    /// The archive holds what is at hand.
    LeaveOut,
    /// There is no archive.
    Refuse,
}

/// Writes all files of these data sets that are at hand, each verified. The archive appears when it is whole.
///
/// # Errors
/// [`DatasetError::Differs`] or [`DatasetError::Format`] for a file at hand, [`DatasetError::Missing`] when none is (or,
/// as `gaps` says, when one is not),
/// [`DatasetError::ArchiveFile`] when the archive cannot be written.
pub fn export(store: &Store, manifests: &[Manifest], gaps: Gaps, to: &Path) -> Result<Contents, DatasetError> {
    let mut contents = Contents::default();
    let mut sources = Vec::new();
    let mut first_missing = None;
    for (path, Known { manifest, form, file }) in files(manifests) {
        match store.verify(manifest, form, file) {
            Ok((_, bytes)) => {
                contents.files.push(path.to_owned());
                contents.bytes += bytes;
                sources.extend(store.locate(file).map(|(_, source)| (path, source)));
            }
            Err(missing @ DatasetError::Missing { .. }) => {
                contents.missing.push(path.to_owned());
                first_missing.get_or_insert(missing);
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(missing) = first_missing
        && (sources.is_empty() || gaps == Gaps::Refuse)
    {
        return Err(missing);
    }
    let unwritable = |cause| DatasetError::ArchiveFile { action: "write", path: to.to_owned(), cause };
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // In the same folder, so that it can be renamed; removed when anything goes wrong.
    let stage = tempfile::Builder::new().prefix(".export-").tempdir_in(folder).map_err(unwritable)?;
    let whole = stage.path().join("archive");
    write(&whole, &sources).and_then(|()| std::fs::rename(&whole, to)).map_err(unwritable)?;
    Ok(contents)
}

fn write(to: &Path, sources: &[(&str, PathBuf)]) -> io::Result<()> {
    let gzip = GzBuilder::new().write(BufWriter::new(File::create(to)?), Compression::default());
    let mut tar = Builder::new(gzip);
    for (path, source) in sources {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        // No clock and no user: the same files give the same archive.
        header.set_mtime(0);
        if compressed::is(source, path) {
            let content = compressed::content(source).map_err(io::Error::other)?;
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, path, content.as_slice())?;
        } else {
            let content = File::open(source)?;
            header.set_size(content.metadata()?.len());
            tar.append_data(&mut header, path, content)?;
        }
    }
    tar.into_inner()?.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// Puts an archive's files into the cache. Each must be a file of these data sets, and the one its manifest means; otherwise nothing is
/// changed.
///
/// # Errors
/// [`DatasetError::ArchiveFile`] when the archive cannot be read, [`DatasetError::Archive`] when it is not what it should be,
/// [`DatasetError::Cache`].
pub fn import(from: &Path, cache: &Path, manifests: &[Manifest]) -> Result<Contents, DatasetError> {
    let archive = File::open(from).map_err(|cause| DatasetError::ArchiveFile { action: "open", path: from.to_owned(), cause })?;
    std::fs::create_dir_all(cache).map_err(DatasetError::cache("create directory", cache))?;
    let stage =
        tempfile::Builder::new().prefix(".import-").tempdir_in(cache).map_err(DatasetError::cache("create a directory in", cache))?;
    let import = Import { from, stage: stage.path(), known: files(manifests) };
    let mut archive = Archive::new(GzDecoder::new(BufReader::new(archive)));
    let mut contents = Contents::default();
    for entry in archive.entries().map_err(|e| import.broken(&e))? {
        let entry = entry.map_err(|e| import.broken(&e))?;
        let Some((path, bytes)) = import.stage(entry)? else { continue };
        contents.files.push(path);
        contents.bytes += bytes;
    }
    if contents.files.is_empty() {
        return Err(import.wrong("", "it holds no file of a data set".into()));
    }
    for path in &contents.files {
        let target = cache.join(path);
        make_parent(&target)?;
        rename(&stage.path().join(path), &target)?;
    }
    contents.files.sort();
    Ok(contents)
}

/// An archive on its way into the cache.
struct Import<'a> {
    from: &'a Path,
    /// Holds the files until all are verified.
    stage: &'a Path,
    known: BTreeMap<&'a str, Known<'a>>,
}

impl Import<'_> {
    /// Unpacks an entry and verifies it; returns its path and size, or nothing for a folder.
    fn stage(&self, mut entry: Entry<'_, impl Read>) -> Result<Option<(String, u64)>, DatasetError> {
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let wrong = |cause: &str| self.wrong(&name, cause.to_owned());
        let path = plain(&name).ok_or_else(|| wrong("it leads out of the archive's folder"))?;
        match entry.header().entry_type() {
            EntryType::Regular => {}
            // What `tar czf FILE -C DIR .` and `git archive` add.
            EntryType::Directory | EntryType::XGlobalHeader => return Ok(None),
            _ => return Err(wrong("it is neither a file nor a folder")),
        }
        let Known { form, file, .. } = self.known.get(path.as_str()).ok_or_else(|| wrong("it is no file of a known data set"))?;
        let target = self.stage.join(&path);
        if target.exists() {
            return Err(wrong("it is there twice"));
        }
        let (limit, bytes) = (file.bytes.unwrap_or(LONGEST), entry.size());
        if bytes > limit {
            return Err(wrong(&format!("it has {bytes} bytes, but {limit} bytes are expected at most")));
        }
        make_parent(&target)?;
        let mut out = File::create(&target).map_err(DatasetError::cache("create", &target))?;
        let mut piece = vec![0; 1 << 16];
        loop {
            // Read and write apart: which of them failed decides what is to be done.
            let read = entry.read(&mut piece).map_err(|e| self.broken(&e))?;
            if read == 0 {
                break;
            }
            io::Write::write_all(&mut out, &piece[..read]).map_err(DatasetError::cache("write", &target))?;
        }
        out.sync_all().map_err(DatasetError::cache("write", &target))?;
        match checksum::verify_file(&target, file, Some(&form.reader)) {
            Ok(bytes) => Ok(Some((path, bytes))),
            Err(DatasetError::Differs { what, expected, got, .. }) => {
                Err(wrong(&format!("its {what} is {got}, but {expected} is expected")))
            }
            Err(DatasetError::Format { place, cause, .. }) => Err(wrong(&format!("{place}: {cause}"))),
            Err(error) => Err(error),
        }
    }

    fn broken(&self, error: &io::Error) -> DatasetError {
        self.wrong("", format!("it is damaged, or no gzip-compressed tar: {error}"))
    }

    /// `entry` is empty for the archive as a whole.
    fn wrong(&self, entry: &str, cause: String) -> DatasetError {
        DatasetError::Archive { path: self.from.to_owned(), entry: entry.to_owned(), cause }
    }
}

/// A path without `.`, if it goes only down.
fn plain(name: &str) -> Option<String> {
    let mut parts = Vec::new();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(parts.join("/"))
}
