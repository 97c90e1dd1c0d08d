//! Task files: what a benchmark is, as data ([`load`]), and the documents made from its records ([`document`]).
//!
//! A task file is frozen once published: `tasks/swallow-202407/` never changes its meaning.

pub mod document;
pub mod load;

use crate::engine::{Bos, Cleanup, Decode, EndTokens, Sampling};
use load::TaskError;
use minijinja::{Environment, UndefinedBehavior};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A task ready for use: the file's content, its name and hash, its templates compiled.
#[derive(Clone, Debug)]
pub struct Task {
    /// File name without `.toml`: the name on the command line and in results.
    pub name: String,
    /// What the file says.
    pub file: TaskFile,
    /// The file's text.
    pub source: String,
    /// SHA-256 of the file's text, hexadecimal.
    pub sha256: String,
    templates: Environment<'static>,
}

/// The templates a task file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateName {
    /// `document.input`.
    Input,
    /// `document.output`.
    Output,
    /// `prompt`.
    Prompt,
}

impl TemplateName {
    const ALL: [TemplateName; 3] = [TemplateName::Input, TemplateName::Output, TemplateName::Prompt];

    fn key(self) -> &'static str {
        match self {
            TemplateName::Input => "input",
            TemplateName::Output => "output",
            TemplateName::Prompt => "prompt",
        }
    }

    fn source(self, file: &TaskFile) -> &str {
        match self {
            TemplateName::Input => &file.document.input,
            TemplateName::Output => &file.document.output,
            TemplateName::Prompt => &file.prompt,
        }
    }
}

impl Task {
    /// Compiles the templates; the error names the one that does not parse.
    fn new(name: &str, file: TaskFile, text: &str) -> Result<Self, (&'static str, minijinja::Error)> {
        let mut templates = Environment::new();
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
        templates.set_keep_trailing_newline(true);
        for template in TemplateName::ALL {
            let source = template.source(&file).to_owned();
            templates.add_template_owned(template.key(), source).map_err(|e| (template.key(), e))?;
        }
        let sha256 = Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect();
        Ok(Task { name: name.to_owned(), file, source: text.to_owned(), sha256, templates })
    }

    /// Renders one template over `context`; `what` names the record or document in errors.
    ///
    /// # Errors
    /// [`TaskError::Render`], for instance on an undefined name.
    pub fn render(&self, template: TemplateName, context: impl Serialize, what: &str) -> Result<String, TaskError> {
        let compiled = self.templates.get_template(template.key()).expect("compiled in `new`");
        compiled.render(context).map_err(|e| TaskError::Render {
            task: self.name.clone(),
            template: template.key(),
            record: what.to_owned(),
            cause: e.to_string(),
        })
    }
}

/// A task file, as written. See `tasks/README.md` for a field by field description.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskFile {
    /// Column heading in the published table.
    pub title: String,
    /// One paragraph: what is measured, paper, upstream file:line.
    pub about: String,
    /// Names other harnesses use.
    pub aliases: Vec<String>,
    /// Manifest name: `datasets/<dataset>.toml`.
    pub dataset: String,
    /// Weight data type of the original runs. A run uses the model's own unless `--dtype` says otherwise; the signature shows it.
    pub dtype: String,
    /// Which records are asked and which are shown, and in which order.
    pub arrange: Arrange,
    /// Number of shots.
    pub shots: u32,
    /// Record to document.
    pub document: DocumentRule,
    /// The prompt, a template over the document and `shots`.
    pub prompt: String,
    /// What is asked of the engine.
    pub request: RequestRule,
    /// Steps from response text to answer, in order.
    pub answer: Vec<Step>,
    /// Metrics to compute, by name.
    pub metrics: Vec<String>,
    /// The metric that stands in the table.
    pub headline: String,
    /// Parts of a benchmark with many parts, in protocol order.
    #[serde(default)]
    pub subset: Vec<Subset>,
}

/// Shot and document order: a closed list, each named after what it reproduces.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
pub enum Arrange {
    /// llm-jp-eval v1.3.0: documents in file order; shots are the first of the training records shuffled by `random.seed(seed)`.
    LlmJpEval {
        /// Split that is evaluated.
        eval: String,
        /// Split the shots come from.
        shots: String,
        /// Seed of CPython's generator.
        seed: u64,
    },
    /// llm-jp-eval v1.3.0 `jmmlu.py:86-119`: every subset is shuffled and halved into DEV and TEST, both are shuffled again, the first
    /// `shots_of_each` of both are the shot pool, the rest of TEST is evaluated.
    LlmJpEvalJmmlu {
        /// Seed of CPython's generator.
        seed: u64,
        /// Records that DEV and TEST each give to the shot pool.
        shots_of_each: usize,
    },
}

/// Record to document.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentRule {
    /// Template of the question part, over the record's fields.
    pub input: String,
    /// Template of the gold as a shot shows it, over the record's fields.
    pub output: String,
    /// Steps from `output` to the reference an answer is compared with.
    #[serde(default)]
    pub reference: Vec<Step>,
    /// Records whose `output` is exactly this are dropped before anything else happens.
    #[serde(default)]
    pub drop_output: Option<String>,
    /// Python's text mode: CRLF and CR in string fields become LF.
    #[serde(default)]
    pub universal_newlines: bool,
}

/// What is asked of the engine for each document.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestRule {
    /// Kind of request.
    pub kind: RequestKindName,
    /// Limit, in tokens of the evaluated model.
    pub max_new_tokens: u32,
    /// Stop strings of the protocol.
    #[serde(default)]
    pub stop: Vec<String>,
    /// Strings after which the answer steps ignore everything.
    #[serde(default)]
    pub enough: Vec<String>,
    /// How tokens are chosen.
    #[serde(default)]
    pub sampling: SamplingRule,
    /// See [`crate::engine::TokenRules`].
    #[serde(default)]
    pub bos: Bos,
    /// See [`crate::engine::TokenRules`].
    #[serde(default)]
    pub end: EndTokens,
    /// See [`crate::engine::TokenRules`].
    #[serde(default)]
    pub decode: Decode,
    /// See [`crate::engine::TokenRules`].
    #[serde(default)]
    pub cleanup: Cleanup,
}

/// Kind of request a task makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestKindName {
    /// Continue the prompt.
    Generate,
}

/// How tokens are chosen, as a task file says it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingRule {
    /// 0 is greedy.
    pub temperature: f64,
    /// 0 keeps all.
    pub top_k: u32,
    /// 1 keeps all.
    pub top_p: f64,
    /// 1 is off.
    pub repetition_penalty: f64,
}

impl Default for SamplingRule {
    fn default() -> Self {
        let Sampling { temperature, top_k, top_p, repetition_penalty, .. } = Sampling::GREEDY;
        SamplingRule { temperature, top_k, top_p, repetition_penalty }
    }
}

/// A part of a benchmark.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subset {
    /// Name of the part; the manifest's split of that name holds its records.
    pub name: String,
    /// Group it is counted in, a path (`stem`).
    pub group: String,
}

/// A named clean-up step. `answer::steps` says what each does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The part before the first two consecutive line feeds.
    BeforeBlankLine,
    /// Unicode normalisation form KC.
    Nfkc,
    /// The last number of the text as the digits of an integer, or `[invalid]`.
    LastNumber,
}
