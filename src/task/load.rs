//! Finds and parses task and suite files: embedded ones, or those of a directory given with `--include-path`.
//!
//! Everything that can be wrong with a task file is found here, before any work: unknown keys, unknown steps and metrics, template
//! syntax, missing alias.

use super::{RequestKindName, Step, Task, TaskFile};
use crate::metric;
use include_dir::{Dir, include_dir};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The frozen protocol whose numbers stand in the model card.
pub const PROTOCOL: &str = "swallow-202407";

static TASKS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/tasks");

/// Why a task or suite cannot be used (exit code 2).
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// No task has that name or alias.
    #[error("unknown task '{name}'; known tasks: {known}")]
    UnknownTask {
        /// As the user wrote it.
        name: String,
        /// All names.
        known: String,
    },
    /// No suite has that name.
    #[error("unknown suite '{name}'; known suites: {known}")]
    UnknownSuite {
        /// As the user wrote it.
        name: String,
        /// All names.
        known: String,
    },
    /// The TOML does not parse or has a wrong key; the source shows line, caret and valid names.
    #[error("task file {path} is not valid: {cause}")]
    Syntax {
        /// Which file.
        path: String,
        /// The parser's message.
        cause: String,
    },
    /// The file parses but says something impossible.
    #[error("task file {path}: {what}")]
    Meaning {
        /// Which file.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// A template met a record it cannot render.
    #[error("task '{task}': template '{template}' cannot be rendered for {record}: {cause}")]
    Render {
        /// Task name.
        task: String,
        /// `input`, `output` or `prompt`.
        template: &'static str,
        /// Which record or document.
        record: String,
        /// minijinja's message.
        cause: String,
    },
    /// A file of `--include-path` cannot be read.
    #[error("failed to read {}: {cause}", path.display())]
    Read {
        /// Which file or directory.
        path: PathBuf,
        /// The system's message.
        cause: std::io::Error,
    },
}

/// A table of the model card: its columns in order.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// Name on the command line: `ja`.
    #[serde(skip)]
    pub name: String,
    /// Heading of the table.
    pub title: String,
    /// Heading of the average, a plain mean over the columns.
    pub average: String,
    /// Columns in the card's order.
    pub columns: Vec<Column>,
}

/// One column of a suite's table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Heading, as in the published table.
    pub title: String,
    /// Task that fills it.
    pub task: String,
    /// The group of the task whose number it is; the task's own number without it.
    pub group: Option<String>,
}

/// Names of all suites.
pub fn suite_names() -> Vec<String> {
    suite_dirs().map(|d| dir_name(d.path())).collect()
}

/// The suite of that name.
///
/// # Errors
/// [`TaskError::UnknownSuite`]; an embedded suite file is always valid (a test reads them all).
pub fn suite(name: &str) -> Result<Suite, TaskError> {
    let unknown = || TaskError::UnknownSuite { name: name.to_owned(), known: suite_names().join(", ") };
    let dir = suite_dirs().find(|d| dir_name(d.path()) == name).ok_or_else(unknown)?;
    let file = dir.get_file(dir.path().join("suite.toml")).ok_or_else(unknown)?;
    let text = file.contents_utf8().unwrap_or_default();
    let mut suite: Suite = parse(text, &file.path().display().to_string())?;
    name.clone_into(&mut suite.name);
    Ok(suite)
}

/// Every embedded task, suites in alphabetical order, then by file name.
///
/// # Errors
/// When a file is not valid.
pub fn embedded() -> Result<Vec<Task>, TaskError> {
    let mut tasks = Vec::new();
    for dir in suite_dirs() {
        for file in dir.files().filter(|f| is_task_file(f.path())) {
            let path = format!("tasks/{}", file.path().display());
            tasks.push(from_text(&stem(file.path()), file.contents_utf8().unwrap_or_default(), &path)?);
        }
    }
    Ok(tasks)
}

/// Every task file of a directory given by the user.
///
/// # Errors
/// When the directory cannot be read or a file is not valid.
pub fn from_directory(dir: &Path) -> Result<Vec<Task>, TaskError> {
    let read = |path: &Path, cause| TaskError::Read { path: path.to_owned(), cause };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| read(dir, e))? {
        paths.push(entry.map_err(|e| read(dir, e))?.path());
    }
    paths.sort();
    paths
        .iter()
        .filter(|p| is_task_file(p))
        .map(|p| from_text(&stem(p), &std::fs::read_to_string(p).map_err(|e| read(p, e))?, &p.display().to_string()))
        .collect()
}

/// Looks a task up by its name or one of its aliases.
///
/// # Errors
/// [`TaskError::UnknownTask`] naming all known tasks.
pub fn find<'t>(tasks: &'t [Task], name: &str) -> Result<&'t Task, TaskError> {
    tasks.iter().find(|t| t.name == name || t.file.aliases.iter().any(|a| a == name)).ok_or_else(|| TaskError::UnknownTask {
        name: name.to_owned(),
        known: tasks.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join(", "),
    })
}

/// Parses and checks one task file. `path` is for messages.
///
/// # Errors
/// [`TaskError::Syntax`] and [`TaskError::Meaning`].
pub fn from_text(name: &str, text: &str, path: &str) -> Result<Task, TaskError> {
    let file: TaskFile = parse(text, path)?;
    let meaning = |what: String| TaskError::Meaning { path: path.to_owned(), what };
    for metric in file.metrics.iter().chain([&file.headline]) {
        if metric::by_name(metric).is_none() {
            let known: Vec<_> = metric::METRICS.iter().map(|m| m.name()).collect();
            return Err(meaning(format!("unknown metric '{metric}'; known metrics: {}", known.join(", "))));
        }
    }
    if !file.metrics.contains(&file.headline) {
        return Err(meaning(format!("headline '{}' is not among its metrics", file.headline)));
    }
    possible(&file).map_err(meaning)?;
    Task::new(name, file, text).map_err(|(template, cause)| meaning(format!("template '{template}' does not parse: {cause}")))
}

/// Whether what is asked can be asked.
fn possible(file: &TaskFile) -> Result<(), String> {
    let (request, document) = (&file.request, &file.document);
    let chooses = request.kind == RequestKindName::Choose;
    if (request.kind == RequestKindName::Chat) != request.chat.is_some() {
        return Err("[request.chat] belongs to request.kind = \"chat\", and to it alone".into());
    }
    if !chooses && request.max_new_tokens == 0 && request.max_total_tokens.is_none_or(|total| total == 0) {
        return Err("request.max_new_tokens is 0; at least 1 is needed, or request.max_total_tokens".into());
    }
    if request.samples == 0 {
        return Err("request.samples is 0; at least 1 is needed".into());
    }
    if chooses != document.choices.is_some() || chooses != document.right.is_some() {
        return Err("request.kind = \"choose\" needs document.choices and document.right, and only it has them".into());
    }
    let patterns = file.answer.iter().chain(file.readings.iter().flat_map(|reading| &reading.answer));
    for step in patterns {
        if let Step::Find { pattern, .. } = step
            && pattern.captures_len() < 2
        {
            return Err(format!("pattern {:?} has no group to find", pattern.as_str()));
        }
    }
    Ok(())
}

fn parse<T: for<'de> Deserialize<'de>>(text: &str, path: &str) -> Result<T, TaskError> {
    toml::from_str(text).map_err(|e| TaskError::Syntax { path: path.to_owned(), cause: e.to_string().trim_end().to_owned() })
}

fn suite_dirs() -> impl Iterator<Item = &'static Dir<'static>> {
    TASKS.get_dir(PROTOCOL).into_iter().flat_map(Dir::dirs)
}

fn is_task_file(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "toml") && path.file_name().is_some_and(|n| n != "suite.toml")
}

fn dir_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_file_loads_and_every_column_is_filled_or_explained() {
        let tasks = embedded().expect("embedded task files are valid");
        assert!(!tasks.is_empty());
        for name in suite_names() {
            for column in suite(&name).expect("embedded suite files are valid").columns {
                let task = find(&tasks, &column.task).expect("task of the column");
                assert!(column.group.is_some() || task.file.title == column.title, "{}", column.title);
            }
        }
    }

    #[test]
    fn names_and_aliases_are_unique() {
        let tasks = embedded().expect("embedded task files are valid");
        for (i, a) in tasks.iter().enumerate() {
            for b in &tasks[i + 1..] {
                assert!(
                    a.name != b.name && !b.file.aliases.contains(&a.name) && !a.file.aliases.contains(&b.name),
                    "{} {}",
                    a.name,
                    b.name
                );
            }
        }
    }

    #[test]
    fn wrong_files_say_what_is_wrong() {
        let good = TASKS.get_file("swallow-202407/ja/jemhopqa.toml").and_then(|f| f.contents_utf8()).expect("embedded");
        assert!(from_text("x", good, "x.toml").is_ok());
        for (from, to, expected) in [
            ("headline", "headlines", "unknown field `headlines`"),
            ("\"nfkc\"]\nmetrics", "\"nfkd\"]\nmetrics", "unknown variant `nfkd`"),
            ("headline = \"char_f1\"", "headline = \"meteor\"", "unknown metric 'meteor'"),
            ("headline = \"char_f1\"", "headline = 3", "invalid type"),
            ("max_new_tokens = 15", "max_new_tokens = 0", "at least 1"),
            ("max_new_tokens = 15", "max_new_tokens = -1", "invalid value"),
            ("{{ question }}", "{{ question }", "template 'input' does not parse"),
            ("rule = \"llm_jp_eval\"", "rule = \"llm_jp\"", "unknown variant `llm_jp`"),
        ] {
            assert!(good.contains(from), "{from:?} is in the file");
            let error = from_text("x", &good.replacen(from, to, 1), "x.toml").expect_err(to).to_string();
            assert!(error.contains(expected) && error.contains("x.toml"), "{error}");
        }
    }

    #[test]
    fn unknown_names_list_what_is_known() {
        let tasks = embedded().expect("embedded task files are valid");
        assert!(find(&tasks, "jemhopq").expect_err("no such task").to_string().contains("jemhopqa"));
        assert!(suite("jp").expect_err("no such suite").to_string().contains("ja"));
    }
}
