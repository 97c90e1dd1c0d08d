//! `datasets/<name>.toml`: what a data set is, where its files come from, how they are checked and read.

use super::{DatasetError, read::Reader};
use include_dir::{Dir, include_dir};
use serde::Deserialize;
use sha2::{Digest, Sha256};

static DATASETS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/datasets");

/// One data set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// File name without `.toml`.
    #[serde(skip)]
    pub name: String,
    /// SHA-256 of the manifest's text, hexadecimal: with the checksums in it, it identifies the content.
    #[serde(skip)]
    pub sha256: String,
    /// Name for people.
    pub title: String,
    /// SPDX identifier.
    pub licence: String,
    /// What the licence forbids or asks for beyond its identifier; shown where it matters.
    #[serde(default)]
    pub licence_note: Option<String>,
    /// Paper.
    pub citation: String,
    /// Web page.
    pub homepage: String,
    /// The same records in one or more forms; the first whose files are at hand is used.
    pub form: Vec<Form>,
}

/// One form of the records: files and how to read them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Form {
    /// Where it was published.
    pub name: String,
    /// File format.
    pub reader: Reader,
    /// Its files; those of one split are read in this order.
    pub files: Vec<DataFile>,
    /// Names for `{each}`: a file in whose split it stands is one file for each name.
    #[serde(default)]
    pub each: Vec<String>,
}

/// One file with its checks. At least one of `sha256`, `git_blob` and `rows` is given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    /// Split whose records it holds.
    pub split: String,
    /// Path below a mirror and below the cache. A mirror may keep the file compressed, under this name and `.gz`.
    pub path: String,
    /// The file inside, where `path` is a tar or zip archive; checks are the archive's, but `rows`.
    #[serde(default)]
    pub member: Option<String>,
    /// Pinned address; `None` where these bytes are offered nowhere, and a mirror alone can have them.
    #[serde(default)]
    pub url: Option<String>,
    /// Size, where known.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// SHA-256 of the content, hexadecimal.
    #[serde(default)]
    pub sha256: Option<String>,
    /// Git's blob id of the content, hexadecimal.
    #[serde(default)]
    pub git_blob: Option<String>,
    /// Number of records.
    #[serde(default)]
    pub rows: Option<u64>,
    /// The one field this file gives, where a record's fields are lines of several files ([`Reader::Lines`]).
    #[serde(default)]
    pub field: Option<String>,
}

impl Manifest {
    /// The manifest of that name.
    ///
    /// # Errors
    /// [`DatasetError::Unknown`], [`DatasetError::Manifest`].
    pub fn builtin(name: &str) -> Result<Manifest, DatasetError> {
        let file = DATASETS.get_file(format!("{name}.toml"));
        let file = file.ok_or_else(|| DatasetError::Unknown { name: name.to_owned(), known: names().join(", ") })?;
        Manifest::parse(name, file.contents_utf8().unwrap_or_default())
    }

    /// Every manifest, in alphabetical order.
    ///
    /// # Errors
    /// [`DatasetError::Manifest`].
    pub fn all() -> Result<Vec<Manifest>, DatasetError> {
        names().iter().map(|name| Manifest::builtin(name)).collect()
    }

    fn parse(name: &str, text: &str) -> Result<Manifest, DatasetError> {
        let invalid = |cause: String| DatasetError::Manifest { name: name.to_owned(), cause };
        let mut manifest: Manifest = toml::from_str(text).map_err(|e| invalid(e.to_string()))?;
        for form in &mut manifest.form {
            form.files = form.files.iter().flat_map(|file| expanded(file, &form.each)).collect();
        }
        let unchecked =
            manifest.form.iter().flat_map(|f| &f.files).find(|f| f.sha256.is_none() && f.git_blob.is_none() && f.rows.is_none());
        if let Some(file) = unchecked {
            return Err(invalid(format!("file {} has none of sha256, git_blob and rows", file.path)));
        }
        name.clone_into(&mut manifest.name);
        manifest.sha256 = Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect();
        Ok(manifest)
    }

    /// Names of the splits, in file order, each once.
    pub fn splits(&self) -> Vec<&str> {
        let mut splits: Vec<&str> = Vec::new();
        for file in self.form.iter().flat_map(|f| &f.files) {
            if !splits.contains(&file.split.as_str()) {
                splits.push(&file.split);
            }
        }
        splits
    }
}

/// The files a pattern stands for, or the file itself.
fn expanded(file: &DataFile, each: &[String]) -> Vec<DataFile> {
    const EACH: &str = "{each}";
    if !file.split.contains(EACH) {
        return vec![file.clone()];
    }
    let one = |name: &String| {
        let of = |text: &String| text.replace(EACH, name);
        let (url, member) = (file.url.as_ref().map(of), file.member.as_ref().map(of));
        DataFile { split: of(&file.split), path: of(&file.path), url, member, ..file.clone() }
    };
    each.iter().map(one).collect()
}

/// Names of all manifests, in alphabetical order.
pub fn names() -> Vec<String> {
    let stem = |file: &include_dir::File<'_>| Some(file.path().file_name()?.to_str()?.strip_suffix(".toml")?.to_owned());
    let mut names: Vec<String> = DATASETS.files().filter_map(stem).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_manifest_is_valid() {
        for manifest in Manifest::all().expect("valid") {
            assert!(!manifest.splits().is_empty(), "{}", manifest.name);
            for file in manifest.form.iter().flat_map(|f| &f.files) {
                assert!(file.url.as_ref().is_none_or(|url| url.starts_with("https://")), "{:?}", file.url);
                assert!(!file.path.contains("..") && !file.path.starts_with('/'), "{}", file.path);
                assert!(file.sha256.as_ref().is_none_or(|s| s.len() == 64) && file.git_blob.as_ref().is_none_or(|s| s.len() == 40));
            }
        }
        assert_eq!(Manifest::builtin("jmmlu").expect("valid").splits().len(), 53);
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(Manifest::builtin("jemhop").expect_err("unknown").to_string().contains("jemhopqa"));
        let good = DATASETS.get_file("jemhopqa.toml").and_then(|f| f.contents_utf8()).expect("embedded");
        for (from, to, expected) in [
            ("licence ", "license ", "unknown field `license`"),
            ("kind = \"json\"", "kind = \"yaml\"", "unknown variant `yaml`"),
            ("sha256 =", "sha512 =", "unknown field `sha512`"),
        ] {
            let error = Manifest::parse("x", &good.replacen(from, to, 1)).expect_err(to).to_string();
            assert!(error.contains(expected), "{error}");
        }
        let unchecked = regex_free_removal(good, "sha256");
        assert!(Manifest::parse("x", &unchecked).expect_err("unchecked").to_string().contains("none of sha256"));
    }

    #[test]
    fn a_pattern_is_a_file_for_each_name() {
        let text = r#"
            title = "t"
            licence = "MIT"
            citation = "c"
            homepage = "h"
            [[form]]
            name = "f"
            reader = { kind = "jsonl" }
            each = ["a", "b"]
            files = [
                { split = "{each}/test", path = "x.tar", member = "{each}.jsonl", rows = 1 },
                { split = "all", path = "all.jsonl", rows = 2 },
            ]"#;
        let manifest = Manifest::parse("x", text).expect("valid");
        let files: Vec<_> = manifest.form[0].files.iter().map(|f| (f.split.as_str(), f.member.as_deref())).collect();
        assert_eq!(files, [("a/test", Some("a.jsonl")), ("b/test", Some("b.jsonl")), ("all", None)]);
    }

    /// The text without `, key = "..."` wherever it stands.
    fn regex_free_removal(text: &str, key: &str) -> String {
        text.split(&format!(", {key} = \""))
            .enumerate()
            .map(|(i, part)| if i == 0 { part } else { part.split_once('"').expect("closed").1 })
            .collect()
    }
}
