//! The templates and expressions of a task file, compiled once. Python's text semantics where Jinja's own differ.

use super::{Task, TaskFile, load::TaskError};
use crate::text::{python, wikihow};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// The templates a task file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateName {
    /// `document.input`.
    Input,
    /// `document.output`.
    Output,
    /// `document.gold`.
    Gold,
    /// `document.choices`, an expression.
    Choices,
    /// `document.right`, an expression.
    Right,
    /// `document.golds`, an expression.
    Golds,
    /// `prompt`.
    Prompt,
}

impl TemplateName {
    const ALL: [TemplateName; 7] = [
        TemplateName::Input,
        TemplateName::Output,
        TemplateName::Gold,
        TemplateName::Choices,
        TemplateName::Right,
        TemplateName::Golds,
        TemplateName::Prompt,
    ];

    fn key(self) -> &'static str {
        match self {
            TemplateName::Input => "input",
            TemplateName::Output => "output",
            TemplateName::Gold => "gold",
            TemplateName::Choices => "choices",
            TemplateName::Right => "right",
            TemplateName::Golds => "golds",
            TemplateName::Prompt => "prompt",
        }
    }

    /// The template; `None` where the file has none. An expression becomes a template that renders its value as JSON.
    fn source(self, file: &TaskFile) -> Option<String> {
        let rule = &file.document;
        let expression = |text: &Option<String>| text.as_ref().map(|text| format!("{{{{ ({text}) | tojson }}}}"));
        match self {
            TemplateName::Input => Some(rule.input.clone()),
            TemplateName::Output => Some(rule.output.clone()),
            TemplateName::Gold => rule.gold.clone(),
            TemplateName::Choices => expression(&rule.choices),
            TemplateName::Right => expression(&rule.right),
            TemplateName::Golds => expression(&rule.golds),
            TemplateName::Prompt => Some(file.prompt.clone()),
        }
    }
}

/// Compiled templates.
pub(super) type Templates = Environment<'static>;

impl Task {
    /// Compiles the templates; the error names the one that does not parse.
    pub(super) fn new(name: &str, file: TaskFile, text: &str) -> Result<Self, (&'static str, Error)> {
        let mut templates = Environment::new();
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
        templates.set_keep_trailing_newline(true);
        add_filters(&mut templates);
        for template in TemplateName::ALL {
            if let Some(source) = template.source(&file) {
                templates.add_template_owned(template.key(), source).map_err(|e| (template.key(), e))?;
            }
        }
        let sha256 = Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect();
        Ok(Task { name: name.to_owned(), file, source: text.to_owned(), sha256, templates })
    }

    /// Renders one template over `context`; `what` names the record or document in errors.
    ///
    /// # Errors
    /// [`TaskError::Render`], for instance on an undefined name.
    pub fn render(&self, template: TemplateName, context: impl Serialize, what: &str) -> Result<String, TaskError> {
        let compiled = self.templates.get_template(template.key()).expect("asked only for what `new` compiled");
        compiled.render(context).map_err(|e| self.unrendered(template, what, &e.to_string()))
    }

    /// The value of an expression over `context`; `None` where the file has none.
    ///
    /// # Errors
    /// [`TaskError::Render`], also where the value is not of that type.
    pub fn value<T: DeserializeOwned>(
        &self,
        expression: TemplateName,
        context: impl Serialize,
        what: &str,
    ) -> Result<Option<T>, TaskError> {
        if self.templates.get_template(expression.key()).is_err() {
            return Ok(None);
        }
        let json = self.render(expression, context, what)?;
        serde_json::from_str(&json).map(Some).map_err(|e| self.unrendered(expression, what, &format!("{json}: {e}")))
    }

    pub(super) fn unrendered(&self, template: TemplateName, what: &str, cause: &str) -> TaskError {
        TaskError::Render { task: self.name.clone(), template: template.key(), record: what.to_owned(), cause: cause.to_owned() }
    }
}

/// Filters beside Jinja's own. `tasks/README.md` describes them.
fn add_filters(templates: &mut Environment<'_>) {
    templates.add_filter("strip", |text: &str| python::strip(text).to_owned());
    templates.add_filter("lstrip", |text: &str| text.trim_start_matches(python::is_space).to_owned());
    templates.add_filter("capitalize", |text: &str| python::capitalize(text));
    templates.add_filter("without_wikihow_marks", |text: &str| wikihow::without_marks(text));
    templates.add_filter("position", position);
}

/// Where an item stands in a list, from 0; Python's `list.index`.
fn position(list: &Value, item: &Value) -> Result<usize, Error> {
    let found = list.try_iter()?.position(|candidate| candidate == *item);
    found.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("{item} is not among {list}")))
}
