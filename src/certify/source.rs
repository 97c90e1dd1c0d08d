//! Reading golden files. Whatever is not understood is an error that names file and line.

use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Why certify cannot compare (exit code 2, or 4 where data is missing).
#[derive(Debug, thiserror::Error)]
pub enum CertifyError {
    /// A folder name that no golden kind has.
    #[error("{} is not a golden folder this program understands", path.display())]
    UnknownFolder {
        /// Which folder.
        path: PathBuf,
    },
    /// A file name that does not belong to its folder's kind.
    #[error("{} is not a file of a golden folder of kind '{kind}'", path.display())]
    UnknownFile {
        /// Which file.
        path: PathBuf,
        /// Kind of its folder.
        kind: String,
    },
    /// A file that its folder's kind must have.
    #[error("{} is missing", path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// Nothing can be executed.
    #[error(transparent)]
    Sandbox(crate::sandbox::SandboxError),
    /// A folder that other tests read.
    #[error("'{kind}' holds fixtures of other tests, not goldens to replay")]
    Fixture {
        /// Folder name.
        kind: String,
    },
    /// The file system said no.
    #[error("failed to read {}: {cause}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's message.
        cause: std::io::Error,
    },
    /// Not JSON, or not of the kind's shape.
    #[error("{}{}: {what}", path.display(), line.map(|l| format!(", line {l}")).unwrap_or_default())]
    Shape {
        /// Which file.
        path: PathBuf,
        /// Line, counted from 1.
        line: Option<usize>,
        /// What is wrong.
        what: String,
    },
    /// A task of ours does not load or render.
    #[error(transparent)]
    Task(#[from] crate::task::load::TaskError),
    /// A model of the goldens does not load or run.
    #[error(transparent)]
    Engine(#[from] crate::engine::EngineError),
    /// A prompt of ours cannot be made.
    #[error(transparent)]
    Prompt(#[from] crate::prompt::requests::PromptError),
    /// Data that the folder needs.
    #[error("{0}")]
    Data(String),
}

/// One row of a JSON-lines file.
#[derive(Clone, Debug)]
pub struct Row {
    /// `doc_id` or `id`, else the line number.
    pub id: String,
    /// Line, counted from 1.
    pub line: usize,
    /// All fields.
    pub fields: Map<String, Value>,
}

/// A golden file with its name for reports and its path for errors.
#[derive(Clone, Debug)]
pub struct Source {
    path: PathBuf,
    /// File name inside its folder.
    pub name: String,
}

impl Source {
    /// The file `name` of a folder.
    pub fn new(folder: &Path, name: &str) -> Self {
        Source { path: folder.join(name), name: name.to_owned() }
    }

    /// The whole text.
    ///
    /// # Errors
    /// [`CertifyError::Missing`], [`CertifyError::Read`].
    pub fn text(&self) -> Result<String, CertifyError> {
        match std::fs::read_to_string(&self.path) {
            Ok(text) => Ok(text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(CertifyError::Missing { path: self.path.clone() }),
            Err(cause) => Err(CertifyError::Read { path: self.path.clone(), cause }),
        }
    }

    /// The file as one JSON object.
    ///
    /// # Errors
    /// Also [`CertifyError::Shape`].
    pub fn object(&self) -> Result<Map<String, Value>, CertifyError> {
        match serde_json::from_str(&self.text()?) {
            Ok(Value::Object(object)) => Ok(object),
            Ok(_) => Err(self.shape(None, "a JSON object is expected")),
            Err(e) => Err(self.shape(None, e.to_string())),
        }
    }

    /// The file as JSON lines, each an object.
    ///
    /// # Errors
    /// Also [`CertifyError::Shape`].
    pub fn rows(&self) -> Result<Vec<Row>, CertifyError> {
        let text = self.text()?;
        text.lines()
            .enumerate()
            .map(|(index, line)| {
                let line_number = index + 1;
                match serde_json::from_str(line) {
                    Ok(Value::Object(fields)) => {
                        let id = ["doc_id", "id"].iter().find_map(|k| fields.get(*k)).map(|v| v.as_str().map_or(v.to_string(), Into::into));
                        Ok(Row { id: id.unwrap_or_else(|| format!("line {line_number}")), line: line_number, fields })
                    }
                    Ok(_) => Err(self.shape(Some(line_number), "a JSON object is expected")),
                    Err(e) => Err(self.shape(Some(line_number), e.to_string())),
                }
            })
            .collect()
    }

    /// An error of this file.
    pub fn shape(&self, line: Option<usize>, what: impl Into<String>) -> CertifyError {
        CertifyError::Shape { path: self.path.clone(), line, what: what.into() }
    }

    /// A field that must be there.
    ///
    /// # Errors
    /// [`CertifyError::Shape`].
    pub fn value_of<'v>(&self, fields: &'v Map<String, Value>, key: &str, line: Option<usize>) -> Result<&'v Value, CertifyError> {
        fields.get(key).ok_or_else(|| self.shape(line, format!("'{key}' is missing")))
    }

    /// A field that must be text.
    ///
    /// # Errors
    /// [`CertifyError::Shape`].
    pub fn text_of<'v>(&self, fields: &'v Map<String, Value>, key: &str, line: Option<usize>) -> Result<&'v str, CertifyError> {
        fields.get(key).and_then(Value::as_str).ok_or_else(|| self.shape(line, format!("'{key}' must be text")))
    }

    /// A field that must be an object.
    ///
    /// # Errors
    /// [`CertifyError::Shape`].
    pub fn object_of<'v>(
        &self,
        fields: &'v Map<String, Value>,
        key: &str,
        line: Option<usize>,
    ) -> Result<&'v Map<String, Value>, CertifyError> {
        fields.get(key).and_then(Value::as_object).ok_or_else(|| self.shape(line, format!("'{key}' must be an object")))
    }

    /// A field that must be an array.
    ///
    /// # Errors
    /// [`CertifyError::Shape`].
    pub fn array_of<'v>(&self, fields: &'v Map<String, Value>, key: &str, line: Option<usize>) -> Result<&'v [Value], CertifyError> {
        fields.get(key).and_then(Value::as_array).map(Vec::as_slice).ok_or_else(|| self.shape(line, format!("'{key}' must be an array")))
    }

    /// Refuses keys that nobody compares: a field nobody compares is a hole.
    ///
    /// # Errors
    /// [`CertifyError::Shape`] naming the key.
    pub fn only_keys(&self, fields: &Map<String, Value>, known: &[&str], line: Option<usize>) -> Result<(), CertifyError> {
        match fields.keys().find(|k| !known.contains(&k.as_str())) {
            Some(key) => Err(self.shape(line, format!("'{key}' is not a field this kind of golden has"))),
            None => Ok(()),
        }
    }
}

/// File and folder names of a folder, sorted; documents for people (`README*`, `LICENSE*`) left out.
///
/// # Errors
/// [`CertifyError::Read`].
pub fn entries(folder: &Path) -> Result<Vec<String>, CertifyError> {
    let read = |cause| CertifyError::Read { path: folder.to_owned(), cause };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let name = entry.map_err(read)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("README") && !name.starts_with("LICENSE") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
