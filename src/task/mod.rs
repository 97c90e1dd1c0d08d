//! Task files: what a benchmark is, as data ([`load`]), and the documents made from its records ([`document`]) by its templates
//! ([`template`]).
//!
//! A task file is frozen once published: `tasks/swallow-202407/` never changes its meaning.

pub mod document;
pub mod judged;
pub mod load;
pub mod step;
pub mod template;

use crate::engine::{Bos, Cleanup, Decode, EndTokens, Sampling, Truncation};
use serde::{Deserialize, Serialize};
pub use step::{Pattern, Step, Take};
use template::Templates;

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
    templates: Templates,
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
    #[serde(default)]
    pub answer: Vec<Step>,
    /// Upstream's name of these steps, where numbers carry it (lm-eval's filters).
    #[serde(default)]
    pub filter: Option<String>,
    /// Steps that answer and reference both go through before they are compared.
    #[serde(default)]
    pub compare: Vec<Step>,
    /// Other ways to read an answer out of the same response.
    #[serde(default)]
    pub readings: Vec<Reading>,
    /// What is done with an answer before it is scored.
    #[serde(default)]
    pub grade: Grade,
    /// Metrics to compute, by name.
    pub metrics: Vec<String>,
    /// The metric that stands in the table.
    pub headline: String,
    /// Who rates the answers, where no reference decides.
    #[serde(default)]
    pub judge: Option<judged::JudgeRule>,
    /// Parts of a benchmark with many parts, in protocol order.
    #[serde(default)]
    pub subset: Vec<Subset>,
    /// How the number of the whole comes from the documents.
    #[serde(default)]
    pub whole: Whole,
}

/// Another way to read an answer: every metric is computed for it too, under the name `METRIC,READING`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// Upstream's name of the filter.
    pub name: String,
    /// Steps from response text to answer, in order.
    pub answer: Vec<Step>,
}

/// How the number of a benchmark with parts comes about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whole {
    /// From all documents at once.
    #[default]
    OfDocuments,
    /// From the parts, weighted by their sizes, groups first (lm-eval v0.4.2 `lm_eval/api/metrics.py:440-500`).
    OfParts,
}

/// What is done with an answer before it is scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Nothing: its text is compared.
    #[default]
    Compare,
    /// Prompt, answer and the document's gold are one program, which the sandbox executes.
    Execute,
}

/// Shot and document order: a closed list, each named after what it reproduces.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
pub enum Arrange {
    /// Documents in file order, no shots.
    FileOrder {
        /// Split that is evaluated.
        eval: String,
    },
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
    /// JP Language Model Evaluation Harness (`lm_eval/evaluator.py:211-255`, `base.py:690-741`): one generator shuffles the evaluated
    /// documents, then draws every document's shots from the unshuffled pool. Where the pool is the evaluated split itself, one shot more is
    /// drawn and what equals the document is dropped.
    JpHarness {
        /// Split that is evaluated.
        eval: String,
        /// Split the shots come from.
        shots: String,
        /// Seed of CPython's generator.
        seed: u64,
        /// What happens to a prompt that is too long for the model.
        #[serde(default)]
        fit: Fit,
    },
    /// lm-eval v0.4.2 (`lm_eval/api/samplers.py:20-67`, `api/task.py:815,932-965`): documents in file order; a shot that is the document
    /// itself is dropped. With subsets, each is a task of its own, whose splits are `SUBSET/eval` and `SUBSET/shots`.
    LmEval {
        /// Split that is evaluated.
        eval: String,
        /// Split the shots come from.
        shots: String,
        /// Which of them.
        choose: Choose,
    },
    /// FastChat `llm_judge`: documents in file order, without shots; the reference answers stand in a file of their own.
    FastChat {
        /// Split of the questions.
        questions: String,
        /// Split of the reference answers: `choices[0].turns` of the record with the same id.
        references: String,
        /// Field that joins the two.
        id: String,
    },
}

/// Which shots a task of lm-eval takes from its pool.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
pub enum Choose {
    /// The first.
    First,
    /// Drawn anew for each document, from one stream of CPython's generator for the whole task.
    Sample {
        /// Its seed.
        seed: u64,
        /// How many more are drawn than shown, to make up for a dropped one (`samplers.py:22-26`: where two settings are equal, or both
        /// absent).
        spare: usize,
    },
}

impl Arrange {
    /// Whether prompts depend on how many tokens the evaluated model makes of them.
    pub fn counts_tokens(&self) -> bool {
        matches!(self, Arrange::JpHarness { fit: Fit::FewerShots | Fit::CutSentences { .. }, .. })
    }
}

/// What a task of the JP harness does to a prompt that is too long. The limits are those of [`Truncation`] and `max_new_tokens`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fit {
    /// Nothing here; the engine cuts tokens on the left.
    #[default]
    Nothing,
    /// `tasks/ja/mgsm.py:46-61`: shots are drawn again, one fewer each time, until the prompt leaves room for the answer.
    FewerShots,
    /// `tasks/ja/xlsum_ja.py:88-141`: the text of every shot and of the question is cut at the end of a sentence to an equal part of the
    /// tokens that the expected answer and `reserve` leave.
    CutSentences {
        /// What every text begins with.
        begin: String,
        /// What follows every text.
        end: String,
        /// What ends a sentence.
        sentence_end: String,
        /// Tokens kept free beside those of the expected answer.
        reserve: usize,
    },
}

/// Record to document.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentRule {
    /// Template of the question part, over the record's fields (and `choice`, where there are choices).
    pub input: String,
    /// Template of the gold as a shot shows it, over the same.
    pub output: String,
    /// Expression over the record's fields: the list of choices.
    #[serde(default)]
    pub choices: Option<String>,
    /// Expression over the record's fields: position of the right choice, from 0.
    #[serde(default)]
    pub right: Option<String>,
    /// Expression over the record's fields: the list of accepted answers, where there may be several or none.
    #[serde(default)]
    pub golds: Option<String>,
    /// Template of the text an answer is compared with, where that is not `output`.
    #[serde(default)]
    pub gold: Option<String>,
    /// Steps from the gold to the reference an answer is compared with.
    #[serde(default)]
    pub reference: Vec<Step>,
    /// Records whose `output` is exactly this are dropped before anything else happens.
    #[serde(default)]
    pub drop_output: Option<String>,
    /// Python's text mode: CRLF and CR in string fields become LF.
    #[serde(default)]
    pub universal_newlines: bool,
}

fn once() -> u32 {
    1
}

/// What is asked of the engine for each document.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestRule {
    /// Kind of request.
    pub kind: RequestKindName,
    /// Limit, in tokens of the evaluated model; not given where `max_total_tokens` is.
    #[serde(default)]
    pub max_new_tokens: u32,
    /// Limit of prompt and answer together, special tokens counted. The prompt's tokens are counted before it is asked.
    #[serde(default)]
    pub max_total_tokens: Option<u32>,
    /// How often each document is asked. Only a sampled answer differs from time to time.
    #[serde(default = "once")]
    pub samples: u32,
    /// What stands between the prompt and a choice, and is scored with the choice.
    #[serde(default)]
    pub delimiter: String,
    /// Continuations of the prompt whose log-likelihoods are wanted beside the generation.
    #[serde(default)]
    pub also: Vec<String>,
    /// Stop strings of the protocol.
    #[serde(default)]
    pub stop: Vec<String>,
    /// Where the text of the model's end token stands among the stop strings.
    #[serde(default)]
    pub eos_stop: EosStop,
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
    /// Who decides about the clean-up.
    #[serde(default)]
    pub cleanup_from: CleanupFrom,
    /// See [`crate::engine::TokenRules`].
    #[serde(default)]
    pub truncation: Option<Truncation>,
    /// Upstream defects that `--defects faithful` reproduces.
    #[serde(default)]
    pub defects: Vec<Defect>,
    /// How a conversation is held; there for `kind = "chat"` alone.
    #[serde(default)]
    pub chat: Option<judged::ChatRule>,
}

/// Where the text of the model's end token stands among the stop strings; the order decides nothing, but the record shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EosStop {
    /// It is no stop string.
    #[default]
    No,
    /// Before all others.
    First,
    /// After all others.
    Last,
}

/// An upstream defect that changes answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Defect {
    /// JP harness `models/huggingface.py:509-532` with `utils.py:124-141`: prompts are answered in pairs of neighbours by length; where the
    /// longer prompt was cut, as many new tokens of both answers are lost as tokens were cut.
    LostTokens,
    /// bigcode-evaluation-harness `utils.py:378-380`: answers are decoded with special tokens, and only the tokenizer's own end token is cut.
    /// Another one stays as text, and the program is a syntax error.
    ForeignEndTokens,
}

/// Who sets the repetition penalty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PenaltyFrom {
    /// The task file.
    #[default]
    Task,
    /// The model's generation_config.json: the harness passes none, and `generate()` then takes the model's.
    Model,
}

/// Who decides whether decoded text is cleaned up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CleanupFrom {
    /// The task file.
    #[default]
    Task,
    /// The model's tokenizer_config.json; on where it says nothing, as in transformers before 5.
    Tokenizer,
}

/// Kind of request a task makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestKindName {
    /// Continue the prompt.
    Generate,
    /// Hold a conversation.
    Chat,
    /// Log-likelihoods of the choices.
    Choose,
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
    /// Who sets it.
    pub repetition_penalty_from: PenaltyFrom,
}

impl Default for SamplingRule {
    fn default() -> Self {
        let Sampling { temperature, top_k, top_p, repetition_penalty, .. } = Sampling::GREEDY;
        SamplingRule { temperature, top_k, top_p, repetition_penalty, repetition_penalty_from: PenaltyFrom::Task }
    }
}

/// A part of a benchmark.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subset {
    /// Name of the part; the manifest's split of that name holds its records.
    pub name: String,
    /// Group it is counted in, a path (`stem`); empty where the parts are in no group.
    #[serde(default)]
    pub group: String,
}
