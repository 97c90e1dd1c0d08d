//! Log-probabilities of given tokens on the wire: token ids become a body, a body becomes one [`Scored`] a token. Pure functions.
//!
//! Everything an answer can be checked for is checked on every answer: the number of values, the token each belongs to, and that the
//! server counted the tokens that were sent. A server that ignores `echo` answers 200 and has nothing of this.

use super::capabilities::{Scoring, ServerKind};
use crate::engine::{ContinuationScore, LogLikelihood};
use crate::text::tokenizer::{Specials, Tokenizer};
use serde_json::{Value, json};

/// A log-probability above this is none; what rounding leaves above 0 becomes 0.
const ABOVE_ZERO: f64 = 1e-3;

/// What is written where the probability is 0 (vLLM). Such a number must not enter a sum.
const MINUS_INFINITY: f64 = -9999.0;

/// Context and continuation in token ids; neither is empty.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pair {
    pub(super) context: Vec<u32>,
    pub(super) continuation: Vec<u32>,
}

/// One token as the server saw it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scored {
    /// Natural logarithm.
    pub(super) logprob: f64,
    /// Whether no other token was more probable.
    pub(super) greedy: bool,
}

/// Where a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/v1/completions`.
    Completions,
    /// SGLang's `/generate`, outside `/v1`.
    Generate,
}

impl Scoring {
    pub(super) fn route(self) -> Route {
        if self == Scoring::SglangGenerate { Route::Generate } else { Route::Completions }
    }
}

/// The pairs of a request, or why one has none.
pub(super) fn pairs(tokenizer: &Tokenizer, scored: &LogLikelihood, max_positions: Option<u32>) -> Result<Vec<Pair>, String> {
    let pair = |text: &String| crate::engine::llama::encode::fitted_pair(tokenizer, scored, text, max_positions);
    scored.continuations.iter().map(pair).map(|p| p.map(|(context, continuation)| Pair { context, continuation })).collect()
}

/// The body that asks for the log-probabilities of `prompt` (token ids, or a text in a probe) from position `from` on, which is at
/// least 1: nothing stands before the first token.
pub(super) fn body(scoring: Scoring, model: &str, kind: ServerKind, prompt: Value, from: usize) -> Value {
    let plain = json!({"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0});
    match scoring {
        Scoring::PromptLogprobs => with(plain, json!({"prompt_logprobs": 0})),
        Scoring::Echo if kind == ServerKind::Vllm => with(plain, json!({"echo": true, "logprobs": 1, "return_tokens_as_token_ids": true})),
        Scoring::Echo => with(plain, json!({"echo": true, "logprobs": 1})),
        Scoring::SglangGenerate => {
            let name = if prompt.is_string() { "text" } else { "input_ids" };
            // The first entry of the list is null wherever it starts; the later it starts, the more of its cache the server can use.
            json!({name: prompt, "sampling_params": {"max_new_tokens": 1, "temperature": 0}, "return_logprob": true,
                "logprob_start_len": from - 1, "top_logprobs_num": 1})
        }
        Scoring::TopLogprobs { most } => with(plain, json!({"logprobs": most})),
        Scoring::None => plain,
    }
}

fn with(mut body: Value, more: Value) -> Value {
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    body
}

/// The tokens of `ids` from position `from` on. `ids` are what was sent, or what the text that was sent must have become.
///
/// # Errors
/// What is missing or contradicts what was asked.
pub(super) fn read(scoring: Scoring, body: &[u8], ids: &[u32], from: usize) -> Result<Vec<Scored>, String> {
    let answer: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    match scoring {
        Scoring::PromptLogprobs => prompt_logprobs(only_choice(&answer, ids)?, ids, from),
        Scoring::Echo => echo(&answer, only_choice(&answer, ids)?, ids, from),
        Scoring::SglangGenerate => sglang(&answer, ids, from),
        Scoring::TopLogprobs { .. } | Scoring::None => Err("no log-probabilities of a prompt".to_owned()),
    }
}

/// The one choice of an answer whose server counted as many prompt tokens as there are.
fn only_choice<'a>(answer: &'a Value, ids: &[u32]) -> Result<&'a Value, String> {
    counted(answer.pointer("/usage/prompt_tokens"), ids)?;
    match answer.get("choices").and_then(Value::as_array).map(Vec::as_slice) {
        Some([choice]) => Ok(choice),
        other => Err(format!("{} choices instead of 1", other.map_or(0, <[Value]>::len))),
    }
}

fn counted(count: Option<&Value>, ids: &[u32]) -> Result<(), String> {
    match count.and_then(Value::as_u64) {
        Some(n) if n == ids.len() as u64 => Ok(()),
        Some(n) => Err(format!("the server counts {n} prompt tokens, and {} were sent", ids.len())),
        None => Err("the server does not count prompt tokens".to_owned()),
    }
}

/// A list with a number of entries that must be right.
fn list<'a>(value: Option<&'a Value>, name: &str, len: usize) -> Result<&'a [Value], String> {
    let list = value.and_then(Value::as_array).ok_or_else(|| format!("no {name} in the answer"))?;
    if list.len() == len { Ok(list) } else { Err(format!("{name} has {} entries instead of {len}", list.len())) }
}

fn logprob(value: Option<&Value>, at: usize) -> Result<f64, String> {
    match value.and_then(Value::as_f64) {
        Some(v) if v <= MINUS_INFINITY => Err(format!("token {at} has probability 0")),
        Some(v) if v <= ABOVE_ZERO => Ok(v.min(0.0)),
        Some(v) => Err(format!("token {at} has log-probability {v}, which is above 0")),
        None => Err(format!("token {at} has no log-probability")),
    }
}

/// vLLM: an object a position, keyed by token id; the token asked for is always among them.
fn prompt_logprobs(choice: &Value, ids: &[u32], from: usize) -> Result<Vec<Scored>, String> {
    let entries = list(choice.get("prompt_logprobs"), "prompt_logprobs", ids.len())?;
    let one = |at: usize| {
        let id = ids[at];
        let entry = entries[at].get(id.to_string()).ok_or_else(|| format!("token {at} is not {id}, which was sent"))?;
        // The rank counts tokens that are at least as probable.
        let rank = entry.get("rank").and_then(Value::as_u64).ok_or_else(|| format!("token {at} has no rank"))?;
        Ok(Scored { logprob: logprob(entry.get("logprob"), at)?, greedy: rank == 1 })
    };
    (from..ids.len()).map(one).collect()
}

/// OpenAI's legacy lists over prompt and answer together. How many entries are generated, `usage.completion_tokens` says: it may be 0.
fn echo(answer: &Value, choice: &Value, ids: &[u32], from: usize) -> Result<Vec<Scored>, String> {
    let new = answer.pointer("/usage/completion_tokens").and_then(Value::as_u64).ok_or("the server does not count new tokens")?;
    let len = ids.len() + usize::try_from(new).map_err(|e| e.to_string())?;
    let values = list(choice.pointer("/logprobs/token_logprobs"), "token_logprobs", len)?;
    let tokens = list(choice.pointer("/logprobs/tokens"), "tokens", len)?;
    let tops = list(choice.pointer("/logprobs/top_logprobs"), "top_logprobs", len)?;
    let one = |at: usize| {
        if let Some(id) = named_id(&tokens[at]).filter(|id| *id != ids[at]) {
            return Err(format!("token {at} is {id}, and {} was sent", ids[at]));
        }
        let logprob = logprob(values.get(at), at)?;
        let top = tops[at].as_object().ok_or_else(|| format!("token {at} has no top_logprobs"))?;
        let best = top.values().filter_map(Value::as_f64).fold(f64::NEG_INFINITY, f64::max);
        Ok(Scored { logprob, greedy: logprob >= best })
    };
    (from..ids.len()).map(one).collect()
}

/// `token_id:505`, as vLLM writes tokens when asked to.
pub(super) fn named_id(token: &Value) -> Option<u32> {
    token.as_str()?.strip_prefix("token_id:")?.parse().ok()
}

/// SGLang: `[logprob, id, text]` a position, from the one before `from`.
fn sglang(answer: &Value, ids: &[u32], from: usize) -> Result<Vec<Scored>, String> {
    let about = answer.get("meta_info").ok_or("no meta_info in the answer")?;
    counted(about.get("prompt_tokens"), ids)?;
    let len = ids.len() + 1 - from;
    let entries = list(about.get("input_token_logprobs"), "input_token_logprobs", len)?;
    let tops = list(about.get("input_top_logprobs"), "input_top_logprobs", len)?;
    let one = |at: usize| {
        let (entry, top) = (&entries[at + 1 - from], &tops[at + 1 - from]);
        if entry.get(1).and_then(Value::as_u64) != Some(u64::from(ids[at])) {
            return Err(format!("token {at} is {}, and {} was sent", entry.get(1).unwrap_or(&Value::Null), ids[at]));
        }
        let best = top.pointer("/0/1").and_then(Value::as_u64).ok_or_else(|| format!("token {at} has no top_logprobs"))?;
        Ok(Scored { logprob: logprob(entry.get(0), at)?, greedy: best == u64::from(ids[at]) })
    };
    (from..ids.len()).map(one).collect()
}

/// The most probable next tokens of an answer of one new token, by id or, where the server names none, by text.
pub(super) struct Top {
    by_id: Vec<(u32, f64)>,
    by_text: Vec<(String, f64)>,
}

impl Top {
    /// Reads llama-server's chat-style list or OpenAI's legacy object.
    ///
    /// # Errors
    /// As [`read`].
    pub(super) fn read(body: &[u8], ids: &[u32]) -> Result<Top, String> {
        let answer: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        let choice = only_choice(&answer, ids)?;
        let mut top = Top { by_id: Vec::new(), by_text: Vec::new() };
        if let Some(entries) = choice.pointer("/logprobs/content/0/top_logprobs").and_then(Value::as_array) {
            for entry in entries {
                let id = entry.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok()).ok_or("a token without id")?;
                top.by_id.push((id, logprob(entry.get("logprob"), 0)?));
            }
        } else if let Some(entries) = choice.pointer("/logprobs/top_logprobs/0").and_then(Value::as_object) {
            for (text, value) in entries {
                top.by_text.push((text.clone(), logprob(Some(value), 0)?));
            }
        }
        if top.values().next().is_none() { Err("no top_logprobs in the answer".to_owned()) } else { Ok(top) }
    }

    pub(super) fn values(&self) -> impl Iterator<Item = f64> {
        self.by_id.iter().map(|(_, v)| *v).chain(self.by_text.iter().map(|(_, v)| *v))
    }

    /// The token `id`.
    ///
    /// # Errors
    /// It is not among those that the server named.
    pub(super) fn token(&self, id: u32, tokenizer: &Tokenizer) -> Result<Scored, String> {
        let text = tokenizer.decode(&[id], Specials::Keep);
        let by_text = || self.by_text.iter().find(|(t, _)| *t == text && !t.contains(char::REPLACEMENT_CHARACTER));
        let found = self.by_id.iter().find(|(i, _)| *i == id).map(|(_, v)| *v).or_else(|| by_text().map(|(_, v)| *v));
        let logprob = found.ok_or_else(|| format!("{text:?} is not among the {} tokens the server names", self.values().count()))?;
        Ok(Scored { logprob, greedy: self.values().all(|v| v <= logprob) })
    }
}

/// The sum over a continuation's tokens.
pub(super) fn sum(tokens: &[Scored]) -> ContinuationScore {
    ContinuationScore {
        logprob: tokens.iter().map(|t| t.logprob).sum(),
        is_greedy: tokens.iter().all(|t| t.greedy),
        tokens: u32::try_from(tokens.len()).unwrap_or(u32::MAX),
    }
}
