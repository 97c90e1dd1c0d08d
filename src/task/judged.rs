//! What a task file says of a conversation and of the judge who rates it.

use serde::Deserialize;
use std::collections::BTreeMap;

/// How a conversation is asked for: `[request.chat]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatRule {
    /// Field of the record that lists what the user says, turn by turn.
    pub turns: String,
    /// Conversations for each document, with the seeds 0, 1, 2, ...
    pub choices: u32,
    /// Field of the record whose value chooses the temperature and the group.
    pub category: String,
    /// Temperature of each category; below 1e-4 upstream decodes greedily.
    pub temperature: BTreeMap<String, f64>,
}

/// Who judges, what it is asked and how: `[judge]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeRule {
    /// The judge of the published table.
    pub model: String,
    /// `api-version` of Azure.
    pub azure_api_version: String,
    /// Sampling temperature.
    pub temperature: f64,
    /// Limit of a judgement, in tokens of the judge.
    pub max_new_tokens: u32,
    /// Categories whose judge sees reference answers.
    pub with_reference: Vec<String>,
    /// The first turn.
    pub single: JudgePrompt,
    /// The first turn with a reference answer.
    pub single_reference: JudgePrompt,
    /// A later turn, after the conversation before it.
    pub multi: JudgePrompt,
    /// A later turn with reference answers.
    pub multi_reference: JudgePrompt,
}

/// One prompt of a judge.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgePrompt {
    /// Upstream's name.
    pub name: String,
    /// System message.
    pub system: String,
    /// User message; `{question}`, `{answer}`, `{question_1}`, `{ref_answer_2}`, ... stand for texts.
    pub template: String,
}
