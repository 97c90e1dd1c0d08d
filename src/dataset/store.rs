//! Where data-set files are: a mirror (`SWALLOW_EVAL_DATA`), then the cache, then the network; each file verified before it is read.

use super::{
    DatasetError, Network, Record, checksum, compressed,
    fetch::{self, CacheLock, Patience, Progress, Source, Wanted},
    manifest::{DataFile, Form, Manifest},
    read,
};
use include_dir::{Dir, include_dir};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

static SAMPLES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/samples");

/// A source of records.
#[derive(Clone, Debug)]
pub enum Store {
    /// Files on this machine, and a way to get more of them.
    Files {
        /// `SWALLOW_EVAL_DATA`: looked at first.
        mirror: Option<PathBuf>,
        /// Where downloads go.
        cache: Option<PathBuf>,
        /// Where they come from; `None` when offline.
        source: Option<Source>,
    },
    /// The samples that ship with the program.
    Samples,
}

/// Where a file was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the mirror.
    Mirror,
    /// In the cache.
    Cache,
}

/// Where to look for files, in this order: mirror, cache, network.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// `SWALLOW_EVAL_DATA`. Only read.
    pub mirror: Option<PathBuf>,
    /// Where downloads go.
    pub cache: PathBuf,
    /// No socket is opened.
    pub offline: bool,
    /// Replaces scheme and host of every address (`--data-url`).
    pub base_url: Option<String>,
}

impl StoreOptions {
    /// `SWALLOW_EVAL_DATA` and [`default_cache`], looked up with `env` (unset and empty are one).
    ///
    /// # Errors
    /// [`DatasetError::NoHome`].
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>, network: Network) -> Result<StoreOptions, DatasetError> {
        let mirror = env("SWALLOW_EVAL_DATA").map(PathBuf::from);
        Ok(StoreOptions { mirror, cache: default_cache(env)?, offline: network == Network::Off, base_url: None })
    }
}

/// Where downloads go: `SWALLOW_EVAL_HOME/data`, else `XDG_CACHE_HOME/swallow-eval/data`, else `~/.cache/swallow-eval/data`.
///
/// # Errors
/// [`DatasetError::NoHome`].
pub fn default_cache(env: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf, DatasetError> {
    if let Some(own) = env("SWALLOW_EVAL_HOME") {
        return Ok(Path::new(&own).join("data"));
    }
    Ok(user_cache(env).ok_or(DatasetError::NoHome { tried: "SWALLOW_EVAL_HOME, XDG_CACHE_HOME and HOME" })?.join("swallow-eval/data"))
}

/// The directory for caches of every program. The XDG specification has relative paths ignored.
pub(super) fn user_cache(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let xdg = env("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    xdg.or_else(|| env("HOME").map(|home| Path::new(&home).join(".cache")))
}

impl Store {
    /// Files as the options say.
    pub fn open(options: StoreOptions) -> Store {
        let StoreOptions { mirror, cache, offline, base_url } = options;
        Store::Files { mirror, cache: Some(cache), source: (!offline).then(|| Source { base_url, ..Source::default() }) }
    }

    /// The samples that ship with the program, under the names of the data sets they stand for.
    pub fn samples() -> Store {
        Store::Samples
    }

    /// A mirror and nothing else.
    pub fn mirror_only(mirror: &Path) -> Store {
        Store::Files { mirror: Some(mirror.to_owned()), cache: None, source: None }
    }

    /// The same with another patience.
    pub fn patience(mut self, patience: Patience) -> Store {
        if let Store::Files { source: Some(source), .. } = &mut self {
            source.patience = patience;
        }
        self
    }

    /// Whether there is a mirror, or data of the program's own.
    pub fn has_mirror(&self) -> bool {
        matches!(self, Store::Samples | Store::Files { mirror: Some(_), .. })
    }

    /// Has every file of these splits at hand and verified. What is in neither mirror nor cache is downloaded into the cache, and so is a
    /// file of the cache that is not the one its manifest means (a file of the mirror is not ours to replace).
    ///
    /// # Errors
    /// Offline [`DatasetError::Missing`] or [`DatasetError::Differs`]; else those of [`super::fetch`].
    pub fn ensure(&self, manifest: &Manifest, splits: &[&str], progress: &dyn Fn(Progress)) -> Result<(), DatasetError> {
        let Store::Files { cache, source, .. } = self else { return Ok(()) };
        let missing = self.missing(manifest, splits)?;
        if missing.is_empty() {
            return Ok(());
        }
        let (Some(cache), Some(source)) = (cache, source) else { return self.why_missing(manifest, &missing) };
        let lock = CacheLock::take(cache, progress)?;
        let mut first_error = None;
        for form in &manifest.form {
            // Looked at again: another process may have held the lock, or another form may have brought some.
            let missing = self.missing(manifest, splits)?;
            let offered = form.files.iter().filter(|f| f.url.is_some() && missing.contains(&f.split.as_str()));
            // An archive stands in the list once for each of its members.
            let mut seen = BTreeSet::new();
            let files = offered.filter(|f| seen.insert(&f.path) && self.verify(manifest, form, f).is_err());
            let wanted = files.map(|file| Wanted {
                of: format!("data set '{}'", manifest.name),
                file: file.clone(),
                reader: file.member.is_none().then(|| form.reader.clone()),
                target: cache.join(&file.path),
                token: None,
            });
            if let Err(error) = fetch::all(wanted.collect(), source, &lock, progress) {
                first_error.get_or_insert(error);
            }
        }
        match self.missing(manifest, splits)? {
            missing if missing.is_empty() => Ok(()),
            missing => first_error.map_or_else(|| self.why_missing(manifest, &missing), Err),
        }
    }

    /// Splits of which no form is at hand and verified.
    fn missing<'a>(&self, manifest: &Manifest, splits: &[&'a str]) -> Result<Vec<&'a str>, DatasetError> {
        let mut missing = Vec::new();
        for split in splits {
            if !manifest.splits().contains(split) {
                return Err(DatasetError::NoSplit { dataset: manifest.name.clone(), split: (*split).to_owned() });
            }
            if !self.has_split(manifest, split)? {
                missing.push(*split);
            }
        }
        Ok(missing)
    }

    fn has_split(&self, manifest: &Manifest, split: &str) -> Result<bool, DatasetError> {
        for form in &manifest.form {
            let (mut files, mut whole) = (0, 0);
            for file in form.files.iter().filter(|f| f.split == split) {
                files += 1;
                match self.verify(manifest, form, file) {
                    Ok(_) => whole += 1,
                    Err(error) if self.locate(file).is_some_and(|(place, _)| place == Place::Mirror) => return Err(error),
                    Err(_) => {}
                }
            }
            if files > 0 && whole == files {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The first thing that is wrong with the files of these splits.
    fn why_missing(&self, manifest: &Manifest, splits: &[&str]) -> Result<(), DatasetError> {
        let files = manifest.form.iter().flat_map(|form| form.files.iter().map(move |file| (form, file)));
        files
            .filter(|(_, file)| splits.contains(&file.split.as_str()))
            .try_for_each(|(form, file)| self.verify(manifest, form, file).map(drop))
    }

    /// Where a file is, and its size in bytes; it is the one its manifest means.
    ///
    /// # Errors
    /// [`DatasetError::Missing`], [`DatasetError::Differs`], [`DatasetError::Format`], [`DatasetError::Io`].
    pub fn verify(&self, manifest: &Manifest, form: &Form, file: &DataFile) -> Result<(Place, u64), DatasetError> {
        let (place, path) = self.locate(file).ok_or_else(|| self.nowhere(manifest, file))?;
        if compressed::is(&path, &file.path) || (file.member.is_some() && file.sha256.is_none()) {
            let (_, content) = self.content(manifest, file)?;
            checksum::verify_rows(&path, file, read::records(&form.reader, &content, &path)?.len())?;
            return Ok((place, content.len() as u64));
        }
        Ok((place, checksum::verify_file(&path, file, Some(&form.reader))?))
    }

    /// The records of one split, in file order.
    ///
    /// # Errors
    /// When a file is missing, is not the one its manifest means, or is not in its format.
    pub fn records(&self, manifest: &Manifest, split: &str) -> Result<Vec<Record>, DatasetError> {
        if matches!(self, Store::Samples) {
            return samples(&manifest.name, split);
        }
        let mut first_missing = None;
        for form in &manifest.form {
            match self.records_of_form(manifest, form, split) {
                Err(missing @ DatasetError::Missing { .. }) => first_missing = first_missing.or(Some(missing)),
                // Another form may have it.
                Err(DatasetError::NoSplit { .. }) => {}
                other => return other,
            }
        }
        Err(first_missing.unwrap_or_else(|| DatasetError::NoSplit { dataset: manifest.name.clone(), split: split.to_owned() }))
    }

    fn records_of_form(&self, manifest: &Manifest, form: &Form, split: &str) -> Result<Vec<Record>, DatasetError> {
        let files: Vec<&DataFile> = form.files.iter().filter(|f| f.split == split).collect();
        if files.is_empty() {
            return Err(DatasetError::NoSplit { dataset: manifest.name.clone(), split: split.to_owned() });
        }
        let mut records: Vec<Record> = Vec::new();
        for file in files {
            let (path, content) = self.content(manifest, file)?;
            let of_file = read::records(&form.reader, &content, &path)?;
            checksum::verify_rows(&path, file, of_file.len())?;
            match &file.field {
                None => records.extend(of_file),
                Some(field) => read::beside(&mut records, of_file, field, &path)?,
            }
        }
        Ok(records)
    }

    /// SHA-256 that identifies the content of a data set: of its manifest with the checksums in it, or of the samples.
    pub fn digest(&self, manifest: &Manifest) -> String {
        match self {
            Store::Files { .. } => manifest.sha256.clone(),
            Store::Samples => {
                let content = SAMPLES.get_file(format!("{}.jsonl", manifest.name)).map(|f| f.contents()).unwrap_or_default();
                checksum::sha256(content)
            }
        }
    }

    /// Where a file is, or `None`. In a mirror it may be compressed, and then has `.gz` behind its name.
    pub fn locate(&self, file: &DataFile) -> Option<(Place, PathBuf)> {
        let Store::Files { mirror, cache, .. } = self else { return None };
        let roots = [(Place::Mirror, mirror, ""), (Place::Mirror, mirror, ".gz"), (Place::Cache, cache, "")];
        let paths = roots.into_iter().filter_map(|(place, root, end)| Some((place, root.as_ref()?.join(format!("{}{end}", file.path)))));
        paths.into_iter().find(|(_, path)| path.is_file())
    }

    /// A file's content, verified.
    ///
    /// # Errors
    /// [`DatasetError::Missing`], [`DatasetError::Differs`], [`DatasetError::Io`].
    pub fn content(&self, manifest: &Manifest, file: &DataFile) -> Result<(PathBuf, Vec<u8>), DatasetError> {
        let (_, path) = self.locate(file).ok_or_else(|| self.nowhere(manifest, file))?;
        if let Some(member) = &file.member {
            checksum::verify_file(&path, file, None)?;
            let content = compressed::member(&path, member)?;
            return Ok((path, content));
        }
        let content = match compressed::is(&path, &file.path) {
            true => compressed::content(&path)?,
            false => std::fs::read(&path).map_err(DatasetError::io("read", &path))?,
        };
        checksum::verify(&path, &content, file)?;
        Ok((path, content))
    }

    /// The content of the one file of a split that holds no records.
    ///
    /// # Errors
    /// As [`Store::content`]; [`DatasetError::NoSplit`].
    pub fn whole(&self, manifest: &Manifest, split: &str) -> Result<Vec<u8>, DatasetError> {
        let files = manifest.form.iter().flat_map(|form| &form.files);
        let file = files.filter(|f| f.split == split).min_by_key(|f| self.locate(f).is_none());
        let file = file.ok_or_else(|| DatasetError::NoSplit { dataset: manifest.name.clone(), split: split.to_owned() })?;
        Ok(self.content(manifest, file)?.1)
    }

    fn nowhere(&self, manifest: &Manifest, file: &DataFile) -> DatasetError {
        let url = file.url.clone().unwrap_or_else(|| format!("nobody as a download ({} says why)", manifest.homepage));
        DatasetError::Missing { dataset: manifest.name.clone(), file: file.path.clone(), looked: self.looked(), url }
    }

    fn looked(&self) -> String {
        let Store::Files { mirror, cache, .. } = self else { return "the bundled samples".into() };
        let places: Vec<String> = [mirror, cache].into_iter().flatten().map(|p| p.display().to_string()).collect();
        if places.is_empty() { "no directory (none is set)".into() } else { places.join(" and ") }
    }
}

/// `samples/<dataset>.jsonl`: lines of `{"split": ..., "record": {...}}`. A split without lines is empty: a benchmark's samples need not
/// have every subset.
fn samples(dataset: &str, split: &str) -> Result<Vec<Record>, DatasetError> {
    let name = format!("{dataset}.jsonl");
    let path = Path::new("samples").join(&name);
    let unknown = || DatasetError::Unknown { name: dataset.to_owned(), known: "those with a file in samples/".into() };
    let file = SAMPLES.get_file(&name).ok_or_else(unknown)?;
    let lines = read::records(&read::Reader::Jsonl, file.contents(), &path)?;
    let mut records = Vec::new();
    for (index, Record(mut fields)) in lines.into_iter().enumerate() {
        match (fields.get("split").and_then(Value::as_str), fields.get("record").is_some_and(Value::is_object)) {
            (Some(of), true) if of != split => {}
            (Some(_), true) => {
                if let Some(Value::Object(record)) = fields.remove("record") {
                    records.push(Record(record));
                }
            }
            _ => {
                let place = format!("line {}", index + 1);
                return Err(DatasetError::Format { path, place, cause: "'split' must be text and 'record' an object".into() });
            }
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_the_environment_says() {
        for (variables, expected) in [
            (&[("SWALLOW_EVAL_HOME", "/own"), ("XDG_CACHE_HOME", "/xdg"), ("HOME", "/home/me")][..], Some("/own/data")),
            (&[("SWALLOW_EVAL_HOME", "own")], Some("own/data")),
            (&[("XDG_CACHE_HOME", "/xdg"), ("HOME", "/home/me")], Some("/xdg/swallow-eval/data")),
            (&[("XDG_CACHE_HOME", "relative"), ("HOME", "/home/me")], Some("/home/me/.cache/swallow-eval/data")),
            (&[], None),
        ] {
            let env = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
            assert_eq!(default_cache(&env).ok(), expected.map(PathBuf::from), "{variables:?}");
        }
    }

    #[test]
    fn a_missing_file_says_everything() {
        let dir = tempfile::tempdir().expect("a directory");
        let manifest = Manifest::builtin("jsquad").expect("known");
        let error = Store::mirror_only(dir.path()).records(&manifest, "train").expect_err("missing");
        let text = error.to_string();
        for part in ["jsquad", "jglue/datasets/jsquad-v1.1/train-v1.1.json", &dir.path().display().to_string(), "https://raw."] {
            assert!(text.contains(part), "{text}");
        }
        assert!(error.hint().is_some_and(|h| h.contains("data fetch jsquad")));
        assert!(Store::mirror_only(dir.path()).records(&manifest, "test").expect_err("no split").to_string().contains("no split 'test'"));
    }

    #[test]
    fn a_changed_file_is_an_error_not_a_miss() {
        let dir = tempfile::tempdir().expect("a directory");
        let manifest = Manifest::builtin("jemhopqa").expect("known");
        let path = dir.path().join("jemhopqa/corpus/dev.json");
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(&path, "[]").expect("written");
        let error = Store::mirror_only(dir.path()).records(&manifest, "dev").expect_err("changed").to_string();
        assert!(error.contains("size is 2 bytes, but 47990 bytes is expected"), "{error}");
    }
}
