//! Requests in, responses out.
//!
//! An [`Engine`] takes a flat list of [`Request`]s and pushes one [`Outcome`] for each into a [`Sink`] as soon as it is known, in any
//! order. It never sees a reference answer and knows no task. What the protocol does to token ids (BOS, end tokens, truncation, ...) is
//! part of the request ([`TokenRules`]), never an accident of the engine.

pub mod chat;
mod conversation;
pub mod demo;
pub mod endpoint;
pub mod facts;
pub mod llama;
pub mod replay;

pub use conversation::{Chat, Template, Turn};
pub use facts::ModelFacts;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fmt,
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
};

/// Key of a request: the first 128 bits (32 hex digits) of the SHA-256 of its content.
///
/// Equal requests have equal ids: they are asked once, and a journal line answers all of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub String);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One question to a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Hash of `kind`.
    pub id: RequestId,
    /// What is asked.
    pub kind: RequestKind,
}

impl Request {
    /// A request whose id is the hash of its content.
    pub fn new(kind: RequestKind) -> Self {
        let content = serde_json::to_vec(&kind).expect("a request is plain data");
        let hex: String = Sha256::digest(&content)[..16].iter().map(|b| format!("{b:02x}")).collect();
        Request { id: RequestId(hex), kind }
    }
}

/// The closed list of things one can ask an engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RequestKind {
    /// Continue a prompt.
    Generate(Generate),
    /// Log-probabilities of given continuations of one context.
    LogLikelihood(LogLikelihood),
    /// Hold a conversation.
    Chat(Chat),
}

impl RequestKind {
    /// The text the model reads first: the prompt of a generation, the context of a log-likelihood, what the user of a conversation says
    /// first.
    pub fn text(&self) -> &str {
        match self {
            RequestKind::Generate(generate) => &generate.prompt,
            RequestKind::LogLikelihood(scored) => &scored.context,
            RequestKind::Chat(chat) => &chat.prompt,
        }
    }
}

/// Continue `prompt` with at most `max_new_tokens` tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generate {
    /// Text of the prompt, without any BOS text.
    pub prompt: String,
    /// Index of this sample among the samples asked for the same prompt; 0 where the protocol asks once.
    pub sample: u32,
    /// Limit, in tokens of the evaluated model.
    pub max_new_tokens: u32,
    /// Strings at which the protocol stops. They are not part of the answer; the earliest match wins.
    pub stop: Vec<String>,
    /// Strings after which the protocol's extraction ignores everything: an engine may stop there to save tokens, or not.
    pub enough: Vec<String>,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// What the protocol does to token ids.
    pub rules: TokenRules,
}

/// Score every continuation after the same context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLikelihood {
    /// Text before the continuation.
    pub context: String,
    /// The continuations, each scored on its own.
    pub continuations: Vec<String>,
    /// What the protocol does to token ids.
    pub rules: TokenRules,
}

/// How the next token is chosen. Greedy when `temperature` is 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// 0 is greedy: the lowest id wins a tie.
    pub temperature: f64,
    /// Keep the k most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of most probable tokens that reaches this mass (the token that crosses it included); 1 keeps all.
    pub top_p: f64,
    /// Divides (positive) or multiplies (negative) the logits of every token in prompt and answer so far; 1 is off. It acts on greedy
    /// decoding too.
    pub repetition_penalty: f64,
    /// Seed of this request's own generator; unused when greedy.
    pub seed: u64,
}

impl Sampling {
    /// Greedy decoding without any penalty.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0, seed: 0 };
}

/// What a protocol's harness did to token ids. Part of the request, so that every engine does the same or says that it cannot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRules {
    /// Whether special tokens are put before the prompt.
    #[serde(default)]
    pub bos: Bos,
    /// Which token ids end a generation.
    #[serde(default)]
    pub end: EndTokens,
    /// How new tokens become text.
    #[serde(default)]
    pub decode: Decode,
    /// Whether the decoded text goes through Hugging Face's `clean_up_tokenization_spaces`. Applied by `answer`, not by the engine.
    #[serde(default)]
    pub cleanup: Cleanup,
    /// Whether a long prompt loses its first tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncation: Option<Truncation>,
    /// Whether the answer is of use without its token ids.
    #[serde(default, skip_serializing_if = "AnswerForm::is_text")]
    pub form: AnswerForm,
}

/// A prompt keeps its last `min(max_position_embeddings, max_length) - max_new_tokens` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truncation {
    /// The harness's own limit of prompt and answer together, in tokens; none of its own unless given.
    #[serde(default = "no_limit")]
    pub max_length: u32,
}

fn no_limit() -> u32 {
    u32::MAX
}

impl Truncation {
    /// Prompt and answer together, for a model of so many positions.
    pub fn length(self, max_positions: Option<u32>) -> u32 {
        self.max_length.min(max_positions.unwrap_or(u32::MAX))
    }
}

/// What of an answer the protocol reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerForm {
    /// Its text.
    #[default]
    Text,
    /// Its token ids.
    TokenIds,
}

impl AnswerForm {
    fn is_text(&self) -> bool {
        *self == AnswerForm::Text
    }
}

/// Special tokens before the prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bos {
    /// Whatever the tokenizer's post-processor adds (`add_special_tokens=True`); servers do this for text prompts.
    #[default]
    Tokenizer,
    /// Nothing is added (`add_special_tokens=False`).
    Never,
}

/// Token ids that end a generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndTokens {
    /// Only the tokenizer's `eos_token` (llm-jp-eval passes `eos_token_id=tokenizer.eos_token_id`).
    #[default]
    Tokenizer,
    /// The `eos_token_id` list of generation_config.json (config.json where that is absent).
    GenerationConfig,
}

/// How new token ids become text. Special tokens are skipped unless a form says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decode {
    /// `decode(prompt + new)` less the length of `decode(prompt)`: keeps the first blank of SentencePiece-style tokenizers.
    #[default]
    AfterPrompt,
    /// `decode(new)` alone.
    Alone,
    /// `decode(new)` alone, special tokens kept, the end token among them.
    WithSpecials,
}

/// Hugging Face's `clean_up_tokenization_spaces`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cleanup {
    /// Text as decoded.
    #[default]
    Off,
    /// `" ."` becomes `"."`, and nine more replacements.
    On,
}

/// The answer to one [`Request`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// Which request this answers.
    pub id: RequestId,
    /// The answer itself.
    #[serde(flatten)]
    pub output: Output,
}

/// The closed list of answers, one kind for each kind of request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "output", rename_all = "snake_case")]
pub enum Output {
    /// Answer to [`RequestKind::Generate`].
    Generated(Generated),
    /// Answer to [`RequestKind::LogLikelihood`], one entry a continuation, in their order.
    LogLikelihoods {
        /// One entry for each continuation.
        continuations: Vec<ContinuationScore>,
    },
    /// Answer to [`RequestKind::Chat`], one entry a turn.
    Dialogue {
        /// In their order.
        turns: Vec<Turn>,
    },
}

/// A generated text as the engine gave it: stop strings cut, nothing else done to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    /// The new text.
    pub text: String,
    /// Ids of the new tokens, the end token included, where the engine knows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt as fed to the model, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u32>,
    /// New tokens, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_tokens: Option<u32>,
    /// Things a reader of the score should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// An end token.
    EndToken,
    /// A stop string (or an `enough` string).
    Stop,
    /// The token limit.
    Length,
    /// A server's content filter.
    ContentFilter,
}

/// Something seen while answering that a reader of the score should know; counted and shown by the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// Positions at or beyond `max_position_embeddings` were computed (as transformers does).
    BeyondContext,
    /// The two best logits were closer than 1e-3 at some step: another batch or device may choose otherwise.
    NearTie,
    /// The server cut the answer although neither the limit asked for nor an end was reached.
    CutByServer,
}

/// Log-probability of one continuation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContinuationScore {
    /// Sum of natural-log probabilities of the continuation's tokens.
    pub logprob: f64,
    /// Whether greedy decoding would have produced exactly these tokens.
    pub is_greedy: bool,
    /// Number of tokens scored.
    pub tokens: u32,
}

/// A request that got no answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestFailure {
    /// Which request failed.
    pub id: RequestId,
    /// What went wrong, in one sentence; never contains a secret.
    pub message: String,
    /// How often it was tried.
    pub attempts: u32,
}

/// What became of one request.
pub type Outcome = Result<Response, RequestFailure>;

/// Where an engine puts outcomes.
pub struct Sink<'a> {
    push: &'a mut dyn FnMut(Outcome) -> ControlFlow<()>,
    cancel: &'a AtomicBool,
}

impl<'a> Sink<'a> {
    /// A sink that hands each outcome to `push`; `cancel` is set from outside (Ctrl-C) and read between steps.
    pub fn new(push: &'a mut dyn FnMut(Outcome) -> ControlFlow<()>, cancel: &'a AtomicBool) -> Self {
        Sink { push, cancel }
    }

    /// Hands over one outcome. `Break` means: stop, give up what is in flight.
    pub fn push(&mut self, outcome: Outcome) -> ControlFlow<()> {
        (self.push)(outcome)?;
        if self.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// The flag that [`Sink::cancelled`] reads, for an engine that asks while it holds the sink.
    pub fn cancel_flag(&self) -> &'a AtomicBool {
        self.cancel
    }

    /// Whether the caller wants no more answers. Engines ask this between steps.
    pub fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

/// Who answers. Written to `run.json`; its short form stands in every signature.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// `llama`, `endpoint`, `replay` or `demo`.
    pub engine: String,
    /// Model name, hub id or directory name as the user gave it.
    pub model: String,
    /// Hub revision or commit, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// SHA-256 over the weight files, where they are at hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_sha256: Option<String>,
    /// SHA-256 of tokenizer.json, where it is at hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_sha256: Option<String>,
    /// Data type of the weights in computation: `f32`, `bf16`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// `cpu`, `cuda`: which GPU of a machine it was does not matter to a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What a GPU says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// `fused` where tensors are computed with by this program's own operations, which round otherwise than the library's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor_ops: Option<String>,
    /// Devices that hold the model together, where it is more than one: their sums round otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor_parallel_size: Option<u32>,
    /// Whole models that answered side by side, where it was more than one. As the company of a request in a batch it is no part of a signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_parallel_size: Option<u32>,
    /// What the endpoint's probe found (kind, version, limits), free form but stable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<serde_json::Value>,
}

impl Identity {
    /// The part of a signature that names the engine: `llama-cpu-f32`, `llama-cuda-bf16-tp2`, `endpoint-vllm`.
    pub fn short(&self) -> String {
        let kind = self.capabilities.as_ref().and_then(|c| c.get("kind")).and_then(|k| k.as_str());
        let split = self.tensor_parallel_size.map(|size| format!("tp{size}"));
        let parts =
            [Some(self.engine.as_str()), kind, self.device.as_deref(), self.dtype.as_deref(), self.tensor_ops.as_deref(), split.as_deref()];
        parts.into_iter().flatten().collect::<Vec<_>>().join("-")
    }
}

/// What serving cost. Written under `timing` in `run.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Prompt tokens computed.
    pub prefill_tokens: u64,
    /// Prompt tokens that were not computed because another request shares them.
    pub shared_tokens: u64,
    /// New tokens.
    pub decode_tokens: u64,
    /// Rows of logits computed: one a new token, one a scored token, and of equal rows one.
    #[serde(default)]
    pub logit_rows: u64,
    /// Seconds spent in prefill steps.
    pub prefill_seconds: f64,
    /// Seconds spent in decode-only steps.
    pub decode_seconds: f64,
    /// HTTP requests sent, retries included.
    pub http_requests: u64,
    /// Greedy choices and tokens of continuations that were decided by less than the noise of the logits' data type; 0 where the engine
    /// sees no logits.
    #[serde(default)]
    pub near_ties: u64,
}

impl Stats {
    /// Adds another serving's figures to these.
    pub fn add(&mut self, other: &Stats) {
        self.prefill_tokens += other.prefill_tokens;
        self.shared_tokens += other.shared_tokens;
        self.decode_tokens += other.decode_tokens;
        self.logit_rows += other.logit_rows;
        self.prefill_seconds += other.prefill_seconds;
        self.decode_seconds += other.decode_seconds;
        self.http_requests += other.http_requests;
        self.near_ties += other.near_ties;
    }
}

/// Why an engine cannot do its work at all (exit code 5). Trouble with one request is a [`RequestFailure`].
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct EngineError {
    /// Lowercase sentence: what failed, naming file or URL, value and limit.
    pub message: String,
    /// What the user can do, without the word "hint".
    pub hint: Option<String>,
}

impl EngineError {
    /// An error with advice.
    pub fn with_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        EngineError { message: message.into(), hint: Some(hint.into()) }
    }

    /// An error that speaks for itself.
    pub fn new(message: impl Into<String>) -> Self {
        EngineError { message: message.into(), hint: None }
    }
}

/// A model that answers requests: in-process, behind HTTP, or recorded.
pub trait Engine {
    /// Who answers.
    fn identity(&self) -> &Identity;

    /// What it knows of its model.
    fn facts(&self) -> ModelFacts {
        ModelFacts::default()
    }

    /// Why this engine cannot answer such a request as its protocol wants it, or `None` when it can. Asked for every kind of request of a
    /// task before the first one is served, so that a task that cannot work stops early.
    fn refusal(&self, request: &Request) -> Option<EngineError>;

    /// Answers all requests, pushing each outcome as soon as it is known, in any order; stops early when the sink says so.
    ///
    /// # Errors
    /// When nothing more can be answered (a dead server, a broken model). What was pushed before stays valid.
    fn serve(&mut self, requests: &[Request], sink: &mut Sink<'_>) -> Result<Stats, EngineError>;
}
