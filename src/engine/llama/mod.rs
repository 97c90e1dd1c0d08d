//! The in-process engine: Llama and Qwen2 models in Hugging Face layout, on the CPU in f32 or on a device of the tensor library.
//!
//! `config`, `weights`, `checkpoint` and `memory` load; `model` computes, by `kernels` (the CPU's own) or by `tensors` (any `device`); `dist` has
//! several devices work together; `kv` and `plan` share what prompts share; `batch` packs steps; `sample` chooses tokens; `encode` and this file turn requests into ids and ids into
//! responses. Nothing of generation_config.json acts by itself: a request says everything.

pub mod batch;
mod checkpoint;
pub mod config;
pub mod device;
mod dialogue;
pub mod dist;
pub mod encode;
mod gguf;
mod kernels;
pub mod kv;
pub mod memory;
pub mod model;
pub mod ops;
pub mod plan;
pub mod sample;
pub mod shapes;
mod tensors;
pub mod throughput;
pub mod weights;

use super::{
    ContinuationScore, Decode, EndTokens, Engine, EngineError, Finish, Generate, Generated, Identity, LogLikelihood, ModelFacts, Note,
    Outcome, Output, Request, RequestFailure, RequestId, RequestKind, Response, Sink, Stats,
};
use crate::text::tokenizer::Tokenizer;
use batch::{Limits, Listener, TokenFinish, TokenOutput, TokenRequest};
use device::{BackendKind, Numbers};
use dist::{layout::Layout, replicas::Replicas};
use encode::Stops;
use model::{Reading, RowLogits};
use rayon::prelude::*;
use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    path::Path,
    sync::{Arc, atomic::Ordering},
};
use weights::ModelFiles;

/// How a model is loaded and run.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The model's name as the user gave it.
    pub model: String,
    /// Hub revision, where there is one.
    pub revision: Option<String>,
    /// `f32`, `bf16`, `f16`. The CPU always computes in f32; the other two round the weights first, and the logits in the end. A GPU computes
    /// in the type, that of the weights unless one is named.
    pub dtype: Option<String>,
    /// Whether logits are rounded with the weights.
    pub logits: LogitType,
    /// By which operations a device computes.
    pub tensor_ops: TensorOps,
    /// `cpu` where `None`; one or several, see [`Layout::find`].
    pub device: Option<String>,
    /// Devices that hold one model together; 1 where `None`.
    pub tensor_parallel: Option<NonZeroUsize>,
    /// Whole models; as many as the named devices hold where `None`.
    pub data_parallel: Option<NonZeroUsize>,
    /// Threads; all cores where `None`.
    pub threads: Option<usize>,
    /// Rows of a step and generations at once.
    pub limits: Limits,
}

/// The data type of logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogitType {
    /// That of the weights: a harness that loads a model in bf16 takes log-probabilities of bf16 logits.
    #[default]
    AsWeights,
    /// f32, finer than the protocol's harness had them (`--logits-f32`).
    F32,
}

/// By which operations tensors are computed with (`--tensor-ops`). The CPU's kernels know no difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TensorOps {
    /// The tensor library's, one after the other, as transformers' eager attention.
    #[default]
    Eager,
    /// This program's own: paged attention, and several small operations in one.
    Fused,
}

/// A loaded model with its tokenizer.
pub struct Llama {
    models: Replicas,
    tokenizer: Tokenizer,
    identity: Identity,
    limits: Limits,
    notes: Vec<String>,
}

impl Llama {
    /// Loads a model directory, or a GGUF file.
    ///
    /// # Errors
    /// A missing, broken or unsupported file, a tokenizer that does not fit the model, an unknown device or data type.
    pub fn load(dir: &Path, options: &LoadOptions) -> Result<Self, EngineError> {
        let in_dir = |e: EngineError| EngineError { message: format!("model {}: {}", dir.display(), e.message), hint: e.hint };
        Self::from_files(&ModelFiles::open(dir)?, options).map_err(in_dir)
    }

    /// Loads a model from the contents of its files.
    ///
    /// # Errors
    /// As [`Llama::load`].
    pub fn from_files(files: &ModelFiles, options: &LoadOptions) -> Result<Self, EngineError> {
        let layout = Layout::find(options.device.as_deref().unwrap_or("cpu"), options.tensor_parallel, options.data_parallel)?;
        let place = layout.first();
        Numbers::of(place.backend(), options.dtype.as_deref(), None, options.logits)?;
        let config = config::parse(&files.config, files.generation_config.as_deref())?;
        let numbers = Numbers::of(place.backend(), options.dtype.as_deref(), config.dtype.as_deref(), options.logits)?;
        let tokenizer = Tokenizer::from_bytes(&files.tokenizer, files.tokenizer_config.as_deref(), files.special_tokens_map.as_deref())
            .and_then(|tokenizer| tokenizer.with_chat_template(files.chat_template.clone()))
            .map_err(|e| EngineError::new(e.to_string()))?;
        if tokenizer.vocabulary() > config.vocab_size {
            return Err(EngineError::with_hint(
                format!(
                    "the tokenizer has token ids up to {}, but the model only {} embeddings",
                    tokenizer.vocabulary() - 1,
                    config.vocab_size
                ),
                "tokenizer.json belongs to another model",
            ));
        }
        let room = memory::room(&config, numbers, options.limits, &layout)?;
        let identity = Identity {
            engine: "llama".into(),
            model: options.model.clone(),
            revision: options.revision.clone(),
            weights_sha256: Some(files.weights_sha256()),
            tokenizer_sha256: Some(tokenizer.sha256().to_owned()),
            dtype: Some(match config.quantisation() {
                Some(types) => format!("{}({types}-weights)", numbers.label()),
                None => numbers.label().into(),
            }),
            device: Some(place.kind().into()),
            hardware: place.hardware().map(str::to_owned),
            tensor_ops: (place.backend() == BackendKind::Tensors && options.tensor_ops == TensorOps::Fused).then(|| "fused".to_owned()),
            tensor_parallel_size: several(layout.ranks()),
            data_parallel_size: several(layout.replicas().len()),
            capabilities: None,
        };
        let mut models = Replicas::load(&config, files, &layout, numbers, options.tensor_ops, options.threads)?;
        let mut limits = options.limits;
        let mut notes: Vec<String> = place.note().map(str::to_owned).into_iter().collect();
        if let Some(room) = room {
            limits = room.limits(limits);
            models = models.within(room.tokens);
            notes.push(room.told);
        }
        Ok(Llama { models, tokenizer, identity, limits, notes })
    }

    /// What a person should know: which device was not used, what memory is for.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The same engine under another name (`demo`).
    pub fn named(mut self, engine: &str) -> Self {
        engine.clone_into(&mut self.identity.engine);
        self
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Shape and constants of the model.
    pub fn config(&self) -> &config::Config {
        self.models.first().config()
    }

    /// The model without its tokenizer, on all its devices.
    pub fn into_models(self) -> Replicas {
        self.models
    }

    /// Runs requests in token ids.
    ///
    /// # Errors
    /// Broken weights.
    pub fn run(&mut self, requests: &[TokenRequest], listener: &mut Listener<'_>) -> Result<Stats, EngineError> {
        self.models.run(requests, self.limits, listener)
    }

    /// Logits of a sequence at some positions, `vocab_size` values each.
    ///
    /// # Errors
    /// Broken weights.
    pub fn logits(&mut self, ids: &[u32], positions: &[u32]) -> Result<Vec<Vec<f32>>, EngineError> {
        let model = self.models.first_mut();
        let mut pool = model.pool();
        let mut sequence = kv::Sequence::default();
        pool.reserve(&mut sequence, ids.len());
        let segment = ops::Segment { row: 0, rows: ids.len(), position: 0, pages: sequence.pages().to_vec() };
        let mut rows = vec![Vec::new(); positions.len()];
        let readings = vec![Reading::Whole; positions.len()];
        model.step((ids, &[segment]), (positions, &readings), &mut pool, &mut |first, made| {
            for (row, made) in rows[first..].iter_mut().zip(made) {
                if let RowLogits::Whole(logits) = made {
                    *row = logits.to_vec();
                }
            }
        })?;
        pool.release(sequence);
        Ok(rows)
    }

    /// Token ids that end a generation under a rule.
    fn end_ids(&self, rule: EndTokens) -> Vec<u32> {
        match rule {
            EndTokens::Tokenizer => self.tokenizer.eos_id().into_iter().collect(),
            EndTokens::GenerationConfig => self.config().end_ids.clone(),
        }
    }

    /// A request in token ids (none where nothing is asked), or why it has none.
    fn encode(&self, request: &Request) -> Result<Vec<TokenRequest>, String> {
        match &request.kind {
            RequestKind::Generate(generate) if generate.max_new_tokens == 0 => Ok(Vec::new()),
            RequestKind::Generate(generate) => self.encode_generate(generate).map(|r| vec![r]),
            RequestKind::LogLikelihood(scored) => scored.continuations.iter().map(|c| self.encode_pair(scored, c)).collect(),
            RequestKind::Chat(_) => unreachable!("conversations are served by themselves"),
        }
    }

    fn encode_generate(&self, generate: &Generate) -> Result<TokenRequest, String> {
        let mut prompt = encode::prompt(&self.tokenizer, &generate.prompt, generate.rules.bos).map_err(|e| e.to_string())?;
        if let Some(truncation) = generate.rules.truncation {
            let length = truncation.length(Some(self.config().max_position_embeddings as u32));
            let room = length.saturating_sub(generate.max_new_tokens);
            if room == 0 {
                return Err(format!(
                    "of the model's {length} positions {} belong to the answer: none is left for the prompt",
                    generate.max_new_tokens
                ));
            }
            encode::keep_last(&mut prompt, room as usize);
        }
        if prompt.is_empty() {
            return Err("the prompt has no token, and this tokenizer adds none".into());
        }
        Ok(TokenRequest::Generate {
            prompt,
            max_new: generate.max_new_tokens as usize,
            end: self.end_ids(generate.rules.end),
            sampling: generate.sampling.clone(),
            sample: generate.sample,
        })
    }

    fn encode_pair(&self, scored: &LogLikelihood, continuation: &str) -> Result<TokenRequest, String> {
        let max_positions = u32::try_from(self.config().max_position_embeddings).ok();
        let (context, continuation) = encode::fitted_pair(&self.tokenizer, scored, continuation, max_positions)?;
        Ok(TokenRequest::Score { context, continuation })
    }
}

/// A number of devices that is worth telling.
fn several(count: usize) -> Option<u32> {
    u32::try_from(count).ok().filter(|count| *count > 1)
}

/// Threads of a model's own; `None` where it uses all cores.
///
/// # Errors
/// When the system starts none.
pub fn threads(count: Option<usize>) -> Result<Option<rayon::ThreadPool>, EngineError> {
    let threads = count.map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build()).transpose();
    threads.map_err(|e| EngineError::new(format!("failed to start threads: {e}")))
}

impl Engine for Llama {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn facts(&self) -> ModelFacts {
        let config = self.config();
        ModelFacts {
            tokenizer: Some(Arc::new(self.tokenizer.clone())),
            max_positions: u32::try_from(config.max_position_embeddings).ok(),
            repetition_penalty: config.repetition_penalty,
            top_k: config.top_k,
            top_p: config.top_p,
            template: None,
        }
    }

    fn refusal(&self, request: &Request) -> Option<EngineError> {
        let generate = match &request.kind {
            RequestKind::Generate(generate) => generate,
            RequestKind::LogLikelihood(_) => return None,
            RequestKind::Chat(chat) => return dialogue::refusal(&self.tokenizer, chat),
        };
        (generate.rules.end == EndTokens::Tokenizer && self.tokenizer.eos_id().is_none()).then(|| {
            EngineError::with_hint(
                "the protocol ends an answer at the tokenizer's eos_token, and this tokenizer names none",
                "tokenizer_config.json or special_tokens_map.json must have eos_token",
            )
        })
    }

    fn serve(&mut self, requests: &[Request], sink: &mut Sink<'_>) -> Result<Stats, EngineError> {
        if requests.iter().any(|r| matches!(r.kind, RequestKind::Chat(_))) {
            let others: Vec<Request> = requests.iter().filter(|r| !matches!(r.kind, RequestKind::Chat(_))).cloned().collect();
            let mut stats = self.serve_chats(requests, sink)?;
            if !others.is_empty() && !sink.cancelled() {
                stats.add(&self.serve(&others, sink)?);
            }
            return Ok(stats);
        }
        let mut serving = Serving::default();
        // A suite is tens of megabytes of prompts: encoded one after the other they would keep a model waiting for seconds.
        let encoded: Vec<_> = requests.par_iter().map(|request| self.encode(request)).collect();
        for (index, (request, encoded)) in requests.iter().zip(encoded).enumerate() {
            let outcome = match encoded {
                Ok(parts) if !parts.is_empty() => {
                    serving.add(index, parts);
                    continue;
                }
                Ok(_) => Ok(nothing_asked(request)),
                Err(message) => Err(RequestFailure { id: request.id.clone(), message, attempts: 1 }),
            };
            if sink.cancelled() || sink.push(outcome).is_break() {
                return Ok(Stats::default());
            }
        }
        let Serving { tokens, places, mut open } = serving;
        let (tokenizer, limit) = (self.tokenizer.clone(), self.config().max_position_embeddings);
        let stops = requests.iter().map(stops_of).collect();
        let reader = Reader { tokenizer: &tokenizer, requests, stops, tokens: &tokens, places: &places, limit };
        let cancel = sink.cancel_flag();
        let mut done = |part: usize, output: TokenOutput| {
            let (request, _) = places[part];
            let parts = &mut open[request];
            parts.push((part, output));
            if parts.len() < reader.parts(request) {
                return ControlFlow::Continue(());
            }
            sink.push(reader.outcome(request, std::mem::take(parts)))
        };
        let mut listener =
            Listener { stops: &|part, new| reader.stopped(part, new), done: &mut done, go_on: &|| !cancel.load(Ordering::Relaxed) };
        self.run(&tokens, &mut listener)
    }
}

/// Stop strings of a request, with those after which its protocol reads nothing.
fn stops_of(request: &Request) -> Stops {
    match &request.kind {
        RequestKind::Generate(g) => Stops::new(g.stop.iter().chain(&g.enough).cloned(), g.rules.decode),
        RequestKind::LogLikelihood(scored) => Stops::new([], scored.rules.decode),
        RequestKind::Chat(_) => Stops::new([], Decode::Alone),
    }
}

/// The answer to a request for no token, or for the log-probabilities of no continuation.
fn nothing_asked(request: &Request) -> Response {
    let output = match &request.kind {
        RequestKind::Generate(_) => Output::Generated(Generated {
            text: String::new(),
            token_ids: Some(Vec::new()),
            finish: Finish::Length,
            prompt_tokens: None,
            new_tokens: Some(0),
            notes: Vec::new(),
        }),
        RequestKind::LogLikelihood(_) => Output::LogLikelihoods { continuations: Vec::new() },
        RequestKind::Chat(_) => Output::Dialogue { turns: Vec::new() },
    };
    Response { id: request.id.clone(), output }
}

/// Token requests and whose parts they are.
#[derive(Default)]
struct Serving {
    tokens: Vec<TokenRequest>,
    /// Index of the request and of the part in it.
    places: Vec<(usize, usize)>,
    /// Finished parts of each request.
    open: Vec<Vec<(usize, TokenOutput)>>,
}

impl Serving {
    fn add(&mut self, request: usize, parts: Vec<TokenRequest>) {
        self.open.resize_with(request + 1, Vec::new);
        for (part, tokens) in parts.into_iter().enumerate() {
            self.tokens.push(tokens);
            self.places.push((request, part));
        }
    }
}

/// Turns token outputs into outcomes.
struct Reader<'r> {
    tokenizer: &'r Tokenizer,
    requests: &'r [Request],
    /// Stop strings of each request.
    stops: Vec<Stops>,
    tokens: &'r [TokenRequest],
    places: &'r [(usize, usize)],
    /// `max_position_embeddings`.
    limit: usize,
}

impl Reader<'_> {
    /// How many token requests a request became.
    fn parts(&self, request: usize) -> usize {
        match &self.requests[request].kind {
            RequestKind::Generate(_) | RequestKind::Chat(_) => 1,
            RequestKind::LogLikelihood(scored) => scored.continuations.len(),
        }
    }

    /// Whether a stop string (or one after which the protocol reads nothing) stands in the text so far.
    fn stopped(&self, part: usize, new: &[u32]) -> bool {
        self.stops[self.places[part].0].reached(self.tokenizer, self.tokens[part].prompt(), new)
    }

    fn outcome(&self, request: usize, mut parts: Vec<(usize, TokenOutput)>) -> Outcome {
        parts.sort_by_key(|(part, _)| self.places[*part].1);
        let id = &self.requests[request].id;
        let output = match &self.requests[request].kind {
            RequestKind::Generate(_) | RequestKind::Chat(_) => parts.pop().and_then(|(part, output)| self.generated(part, output)),
            RequestKind::LogLikelihood(_) => {
                let continuations = parts.iter().filter_map(|(_, output)| scored(output)).collect();
                Some(Output::LogLikelihoods { continuations })
            }
        };
        output.map(|output| Response { id: id.clone(), output }).ok_or_else(|| unanswered(id))
    }

    fn generated(&self, part: usize, output: TokenOutput) -> Option<Output> {
        let TokenOutput::Generated { tokens, finish, near_ties, .. } = output else { return None };
        let (prompt, stops) = (self.tokens[part].prompt(), &self.stops[self.places[part].0]);
        let (text, stopped) = stops.cut(self.tokenizer, prompt, &tokens);
        let prompt = prompt.len();
        let finish = match finish {
            _ if stopped => Finish::Stop,
            TokenFinish::End => Finish::EndToken,
            TokenFinish::Stop => Finish::Stop,
            TokenFinish::Length => Finish::Length,
        };
        // The last new token is never an input, so it has no position.
        let beyond = prompt + tokens.len() - 1 > self.limit;
        let notes = [(beyond, Note::BeyondContext), (near_ties > 0, Note::NearTie)];
        Some(Output::Generated(Generated {
            text,
            finish,
            prompt_tokens: Some(prompt as u32),
            new_tokens: Some(tokens.len() as u32),
            token_ids: Some(tokens),
            notes: notes.into_iter().filter(|(applies, _)| *applies).map(|(_, note)| note).collect(),
        }))
    }
}

fn scored(output: &TokenOutput) -> Option<ContinuationScore> {
    let TokenOutput::Scored { logprobs, is_greedy, .. } = output else { return None };
    Some(ContinuationScore { logprob: logprobs.iter().sum(), is_greedy: *is_greedy, tokens: logprobs.len() as u32 })
}

fn unanswered(id: &RequestId) -> RequestFailure {
    RequestFailure { id: id.clone(), message: "the engine gave an answer of another kind".into(), attempts: 1 }
}
