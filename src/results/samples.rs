//! `samples.jsonl`: a line a document, with everything that became of it.
//!
//! `{"v":1,"task":"jemhopqa","doc_id":"jemhopqa/test/0","request":"<32 hex>","prompt_sha256":"<64 hex>","response":"...","answer":"...",
//! "reference":["..."],"scores":{"char_f1":0.73},"failure":null,"notes":["near_tie"]}`

use crate::engine::{Note, RequestId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Number of the `samples.jsonl` format.
pub const FORMAT: u32 = 1;

/// One executed sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Key of its request.
    pub request: RequestId,
    /// Prompt and completion: the code without the tests.
    pub code: String,
    /// `passed`, `failed` or `timed out`. The time it took stands in `verdicts.jsonl` alone: equal runs have equal samples.
    pub verdict: String,
    /// The exception's text, or what is known of an end without a report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// One document of one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Task name.
    pub task: String,
    /// Document, unique in its task.
    pub doc_id: String,
    /// Group the document counts in (`stem`), where the benchmark has groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Key of its request, and of its line in `responses.jsonl`.
    pub request: RequestId,
    /// SHA-256 of the prompt's UTF-8 bytes, hex.
    pub prompt_sha256: String,
    /// The text as the engine gave it; `null` when the request failed, and where no text was asked for.
    pub response: Option<String>,
    /// Log-likelihoods as the engine gave them, in the order of the choices; empty where none were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_likelihoods: Vec<f64>,
    /// What was extracted from the text and scored, or the most probable choice; `null` when a request failed.
    pub answer: Option<String>,
    /// What the other readings of the text extracted, by name; empty where there is one reading.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub readings: BTreeMap<String, String>,
    /// Every sample of a document that is asked more than once, with its verdict where it was executed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<Program>,
    /// Accepted answers, or the right choice.
    pub reference: Vec<String>,
    /// Score by metric. A failed request has the score of a wrong answer.
    pub scores: BTreeMap<String, f64>,
    /// Additive statistics by metric, for metrics whose aggregate is not a mean of scores: what a comparison resamples.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stats: BTreeMap<String, Vec<f64>>,
    /// Why there is no response; `null` when there is one.
    pub failure: Option<String>,
    /// What a reader of the score should know.
    #[serde(default)]
    pub notes: Vec<Note>,
    /// The turns of a judged conversation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub turns: Vec<JudgedTurn>,
}

/// A turn of a conversation and what a judge said of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgedTurn {
    /// What the user said.
    pub question: String,
    /// What the model answered.
    pub answer: String,
    /// What the judge said; `null` where it was not asked or gave no answer.
    pub judgement: Option<String>,
    /// The rating in it; `null` where there is none.
    pub rating: Option<f64>,
}
