//! What an endpoint can do, as its probe found it.

use serde::{Deserialize, Serialize};

/// Which program answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerKind {
    /// vLLM, and NIM built on it.
    Vllm,
    /// llama.cpp's own server.
    LlamaServer,
    /// The server of llama-cpp-python.
    LlamaCppPython,
    /// `transformers serve`.
    TransformersServe,
    /// SGLang.
    Sglang,
    /// `trtllm-serve`.
    TensorrtLlm,
    /// Text Generation Inference.
    Tgi,
    /// OpenAI's hosted service.
    OpenAi,
    /// Anything else with the same routes.
    Other,
}

/// What a sampling field does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// The server has no such field, or refuses it.
    Absent,
    /// Accepted, but the answer did not show it.
    Unseen,
    /// The answer showed it.
    Seen,
}

/// Whether the server checks the model name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelName {
    /// Neither listed nor checked: the server answers to any name.
    Unproven,
    /// The server lists the name but answers to others too.
    Listed,
    /// Another name is refused.
    Checked,
}

/// Whether special tokens before a text prompt can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpecialTokens {
    /// The tokenizer's post-processor decides; `add_special_tokens` has no effect that could be seen.
    AsTokenizer,
    /// `add_special_tokens: false` leaves them out.
    Optional,
    /// The tokenizer adds none.
    None,
}

/// What becomes of token ids sent as a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PromptIds {
    /// Refused, changed, or not tried because no tokenizer was given.
    Unproven,
    /// They are taken as they are.
    AsGiven,
}

/// How log-probabilities of given tokens are had. Only what a probe proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scoring {
    /// Not at all.
    None,
    /// Of single tokens only: the server names so many of the most probable next tokens (llama-server, OpenAI).
    TopLogprobs {
        /// How many are asked for.
        most: u32,
    },
    /// SGLang's own `/generate` with `return_logprob`.
    SglangGenerate,
    /// `echo` with `logprobs` (vLLM, SGLang, OpenAI's legacy models).
    Echo,
    /// vLLM's `prompt_logprobs`.
    PromptLogprobs,
}

impl Scoring {
    /// Its name in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Scoring::None => "nothing",
            Scoring::TopLogprobs { .. } => "top logprobs",
            Scoring::SglangGenerate => "/generate",
            Scoring::Echo => "echo",
            Scoring::PromptLogprobs => "prompt_logprobs",
        }
    }
}

/// What `n` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choices {
    /// One choice, whatever `n` says.
    One,
    /// `n` choices, but choice `i` is not what seed + `i` gives.
    Unseeded,
    /// Choice `i` of seed `s` is the text of seed `s + i`.
    SeedPlusIndex,
}

/// Whether the same request gives the same text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Repeatable {
    /// Not even alone.
    No,
    /// Alone, but not beside other requests.
    Alone,
    /// Alone and beside other requests.
    Yes,
}

/// Whether the server has sampling settings of its own for what a request leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Defaults {
    /// Greedy text differs without our explicit neutral settings: something must not be left out.
    Own,
    /// No difference seen.
    NoneSeen,
}

/// Whether a stop string stays in the text. We cut in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopText {
    /// The probe's text was too short to tell.
    Unknown,
    /// It stays (transformers serve).
    Kept,
    /// It is cut off.
    Trimmed,
}

/// Everything the probe of generation found. Stable: no clocks, no rates, no URLs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Which program answers.
    pub kind: ServerKind,
    /// Its version, where it says so.
    pub version: Option<String>,
    /// Whether the model name proves anything.
    pub model_name: ModelName,
    /// Prompt and answer together, in tokens, where the server says so.
    pub max_model_len: Option<u32>,
    /// Request fields that the server refuses and that are therefore left out.
    pub refused_fields: Vec<String>,
    /// `top_p`.
    pub top_p: Effect,
    /// `top_k`.
    pub top_k: Effect,
    /// `repetition_penalty` (llama.cpp: `repeat_penalty`).
    pub repetition_penalty: Effect,
    /// Greedy text with and without our explicit settings.
    pub sampling_defaults: Defaults,
    /// Most stop strings that were accepted in one request (of 33, 8, 5, 4, 1 tried); 0 where none is.
    pub max_stops: usize,
    /// What is left of a stop string.
    pub stop_text: StopText,
    /// Same seed, same text?
    pub seeds: Effect,
    /// What `n` does.
    pub choices: Choices,
    /// Largest `n` to send; 1 where `n` is of no use.
    pub max_choices: u32,
    /// Temperature 0 repeated.
    pub greedy: Repeatable,
    /// Special tokens before a prompt.
    pub special_tokens: SpecialTokens,
    /// Token ids as a prompt.
    pub prompt_ids: PromptIds,
    /// Log-probabilities of given tokens.
    pub scoring: Scoring,
    /// Why there are none, or only those of single tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scoring_missing: Option<String>,
}

impl Capabilities {
    /// What two servers can both do.
    ///
    /// # Errors
    /// The field that must be equal and is not: servers of different kinds or versions are different engines.
    pub(super) fn weakest(self, other: Self) -> Result<Self, &'static str> {
        if self.kind != other.kind {
            return Err("kind");
        }
        if self.version != other.version {
            return Err("version");
        }
        let shortest = |a: Option<u32>, b: Option<u32>| a.into_iter().chain(b).min();
        let mut refused_fields = self.refused_fields;
        refused_fields.extend(other.refused_fields);
        refused_fields.sort();
        refused_fields.dedup();
        Ok(Capabilities {
            kind: self.kind,
            version: self.version,
            model_name: self.model_name.min(other.model_name),
            max_model_len: shortest(self.max_model_len, other.max_model_len),
            refused_fields,
            top_p: self.top_p.min(other.top_p),
            top_k: self.top_k.min(other.top_k),
            repetition_penalty: self.repetition_penalty.min(other.repetition_penalty),
            sampling_defaults: self.sampling_defaults.min(other.sampling_defaults),
            max_stops: self.max_stops.min(other.max_stops),
            stop_text: self.stop_text.min(other.stop_text),
            seeds: self.seeds.min(other.seeds),
            choices: self.choices.min(other.choices),
            max_choices: self.max_choices.min(other.max_choices),
            greedy: self.greedy.min(other.greedy),
            special_tokens: if self.special_tokens == other.special_tokens { self.special_tokens } else { SpecialTokens::AsTokenizer },
            prompt_ids: self.prompt_ids.min(other.prompt_ids),
            scoring: if self.scoring == other.scoring { self.scoring } else { Scoring::None },
            scoring_missing: match (self.scoring == other.scoring, self.scoring_missing.or(other.scoring_missing)) {
                (false, None) => Some("the servers give them in different ways".to_owned()),
                (_, missing) => missing,
            },
        })
    }
}
