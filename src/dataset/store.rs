//! Where data-set files are: a mirror (`SWALLOW_EVAL_DATA`), then the cache, each file verified before it is read.

use super::{
    DatasetError, Record, checksum,
    manifest::{DataFile, Form, Manifest},
    read,
};
use include_dir::{Dir, include_dir};
use serde_json::Value;
use std::path::{Path, PathBuf};

static SAMPLES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/samples");

/// A source of records.
#[derive(Clone, Debug)]
pub enum Store {
    /// Files on this machine.
    Files {
        /// `SWALLOW_EVAL_DATA`: looked at first.
        mirror: Option<PathBuf>,
        /// Where downloads go.
        cache: Option<PathBuf>,
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

impl Store {
    /// The samples that ship with the program, under the names of the data sets they stand for.
    pub fn samples() -> Store {
        Store::Samples
    }

    /// A mirror and nothing else.
    pub fn mirror_only(mirror: &Path) -> Store {
        Store::Files { mirror: Some(mirror.to_owned()), cache: None }
    }

    /// Whether there is a mirror, or data of the program's own.
    pub fn has_mirror(&self) -> bool {
        matches!(self, Store::Samples | Store::Files { mirror: Some(_), .. })
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
        let mut records = Vec::new();
        for file in files {
            let (path, content) = self.content(manifest, file)?;
            let of_file = read::records(&form.reader, &content, &path)?;
            check_rows(&path, file, of_file.len())?;
            records.extend(of_file);
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

    /// Where a file is, or `None`.
    pub fn locate(&self, file: &DataFile) -> Option<(Place, PathBuf)> {
        let Store::Files { mirror, cache } = self else { return None };
        let roots = [(Place::Mirror, mirror), (Place::Cache, cache)];
        roots.into_iter().filter_map(|(place, root)| Some((place, root.as_ref()?.join(&file.path)))).find(|(_, path)| path.is_file())
    }

    /// A file's content, verified.
    ///
    /// # Errors
    /// [`DatasetError::Missing`], [`DatasetError::Differs`], [`DatasetError::Io`].
    pub fn content(&self, manifest: &Manifest, file: &DataFile) -> Result<(PathBuf, Vec<u8>), DatasetError> {
        let (_, path) = self.locate(file).ok_or_else(|| DatasetError::Missing {
            dataset: manifest.name.clone(),
            file: file.path.clone(),
            looked: self.looked(),
            url: file.url.clone(),
        })?;
        let content = std::fs::read(&path).map_err(DatasetError::io("read", &path))?;
        checksum::verify(&path, &content, file)?;
        Ok((path, content))
    }

    fn looked(&self) -> String {
        let Store::Files { mirror, cache } = self else { return "the bundled samples".into() };
        let places: Vec<String> = [mirror, cache].into_iter().flatten().map(|p| p.display().to_string()).collect();
        if places.is_empty() { "no directory (none is set)".into() } else { places.join(" and ") }
    }
}

fn check_rows(path: &Path, file: &DataFile, got: usize) -> Result<(), DatasetError> {
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
