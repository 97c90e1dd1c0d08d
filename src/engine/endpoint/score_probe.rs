//! Whether a server's log-probabilities can be believed, found out before the first request.
//!
//! What is scored must agree with what is generated: the tokens a server chooses, with the log-probabilities it states while choosing
//! them, must be those it states when they are part of a prompt. Shifted lists, an ignored `echo`, a BOS that nobody asked for and rounded
//! values all fail one of the checks, and the first failure is kept as the reason.

use super::capabilities::{PromptIds, Scoring, ServerKind};
use super::http::{Fault, Server};
use super::score::{self, Route, Scored, Top};
use super::{EndpointOptions, probe};
use crate::text::tokenizer::{Special, Specials, Tokenizer};
use serde_json::{Value, json};

/// Texts that any language model goes on with. The first whose next tokens can be told apart is scored; all of them must have as many
/// tokens here as there.
const PROMPTS: [&str; 4] =
    ["Question: Which country is Oslo in?\nAnswer: Norway", "The capital of France is", "1, 2, 3, 4,", "日本の首都は東京です。"];
/// Tokens that are generated, then scored.
const TOKENS: usize = 6;
/// Two computations of one log-probability, on a device that rounds to bf16 and batches as it likes, are closer than this.
const CLOSE: f64 = 0.25;
/// The same on average over a prompt.
const CLOSE_ON_AVERAGE: f64 = 0.05;
/// Decimals up to which values must not all be rounded.
const DECIMALS: i32 = 4;
/// Numbers of top tokens to try: llama-server takes any, vLLM and chat routes 20, OpenAI 5.
const MOST: [u32; 3] = [1000, 20, 5];

/// What was found.
pub(super) struct Found {
    pub(super) prompt_ids: PromptIds,
    pub(super) scoring: Scoring,
    /// Why there is no scoring, or only that of single tokens.
    pub(super) missing: Option<String>,
}

/// A server and the tokenizer that its model should have.
pub(super) struct ScoreProbe<'a> {
    pub(super) server: &'a Server,
    pub(super) options: &'a EndpointOptions,
    pub(super) kind: ServerKind,
    pub(super) tokenizer: &'a Tokenizer,
}

/// A token that a server chose, and the log-probability it stated.
#[derive(Clone, Copy, Debug)]
struct Chosen {
    id: u32,
    logprob: f64,
}

impl ScoreProbe<'_> {
    pub(super) async fn run(&self) -> Found {
        if let Err(why) = self.prompt_ids().await {
            return Found { prompt_ids: PromptIds::Unproven, scoring: Scoring::None, missing: Some(why) };
        }
        let mut missing = Vec::new();
        for scoring in [Scoring::PromptLogprobs, Scoring::Echo, Scoring::SglangGenerate] {
            match self.prove(scoring).await {
                Ok(()) => return Found { prompt_ids: PromptIds::AsGiven, scoring, missing: None },
                Err(why) => missing.push(format!("{}: {why}", scoring.name())),
            }
        }
        for most in MOST {
            let scoring = Scoring::TopLogprobs { most };
            match self.prove_top(scoring).await {
                Ok(()) => return Found { prompt_ids: PromptIds::AsGiven, scoring, missing: Some(missing.join("; ")) },
                Err(why) if most == 5 => missing.push(format!("{}: {why}", scoring.name())),
                Err(_) => {}
            }
        }
        Found { prompt_ids: PromptIds::AsGiven, scoring: Scoring::None, missing: Some(missing.join("; ")) }
    }

    /// The tokenizer is the model's, and token ids are taken as they are.
    async fn prompt_ids(&self) -> Result<(), String> {
        let mut alike = 0;
        for prompt in PROMPTS {
            let (bare, full) = (self.encode(prompt, Special::None)?, self.encode(prompt, Special::Add)?);
            let (text, next) = self.count(json!(prompt)).await?;
            if ![bare.len(), full.len()].contains(&text) {
                let (bare, full) = (bare.len(), full.len());
                return Err(format!(
                    "the server counts {text} tokens in a text for which --tokenizer gives {bare} ({full} with special tokens): it is not this model's"
                ));
            }
            let ids = if text == full.len() { full } else { bare };
            let (count, by_ids) = self.count(json!(ids)).await.map_err(|why| format!("token ids as a prompt: {why}"))?;
            if count != ids.len() {
                return Err(format!("token ids as a prompt: the server counts {count} tokens, and {} were sent", ids.len()));
            }
            alike += usize::from(next == by_ids);
        }
        // The same prompt said twice has the same next token, but for a near tie.
        if alike + 1 < PROMPTS.len() {
            return Err(
                "a text and its token ids are continued otherwise: --tokenizer is not this model's, or the server adds a BOS to ids"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, String> {
        self.tokenizer.encode(text, special).map_err(|e| e.to_string())
    }

    /// Tokens of a prompt as the server counts them, and the text of the next one.
    async fn count(&self, prompt: Value) -> Result<(usize, String), String> {
        let answer = self.post(Route::Completions, &self.plain(prompt, 1)).await?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|e| e.to_string())?;
        let count = answer.pointer("/usage/prompt_tokens").and_then(Value::as_u64).ok_or("the server does not count prompt tokens")?;
        let next = answer.pointer("/choices/0/text").and_then(Value::as_str).ok_or("a completion without text")?;
        Ok((usize::try_from(count).map_err(|e| e.to_string())?, next.to_owned()))
    }

    fn plain(&self, prompt: Value, tokens: usize) -> Value {
        json!({"model": self.options.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0})
    }

    async fn post(&self, route: Route, body: &Value) -> Result<Vec<u8>, String> {
        let base = &self.server.base;
        let url = if route == Route::Generate { base.root("generate") } else { base.api("completions") };
        let reply = self.server.post(url, body.to_string().into_bytes(), probe::limit(self.options)).await;
        reply.map(|r| r.body).map_err(|fault: Fault| fault.message)
    }

    async fn score(&self, scoring: Scoring, prompt: Value, ids: &[u32]) -> Result<Vec<Scored>, String> {
        let body = score::body(scoring, &self.options.model, self.kind, prompt, 1);
        score::read(scoring, &self.post(scoring.route(), &body).await?, ids, 1)
    }

    async fn prove(&self, scoring: Scoring) -> Result<(), String> {
        let mut last = Err("nothing to score with".to_owned());
        for prompt in PROMPTS {
            let ids = self.encode(prompt, Special::None)?;
            // The cheapest question first: most servers fail it.
            self.score(scoring, json!(ids), &ids).await?;
            match self.chosen(scoring, &ids).await {
                Ok(chosen) => return self.agrees(scoring, &ids, &chosen).await,
                Err(why) => last = Err(why),
            }
        }
        last
    }

    /// The tokens that the server chooses greedily after `ids`, one at a time so that each is seen alone.
    async fn chosen(&self, scoring: Scoring, ids: &[u32]) -> Result<Vec<Chosen>, String> {
        let (mut prompt, mut chosen) = (ids.to_vec(), Vec::new());
        while chosen.len() < TOKENS {
            let next = match scoring {
                Scoring::SglangGenerate => self.next_of_sglang(&prompt).await?,
                _ => self.next_of_completions(&prompt).await?,
            };
            prompt.push(next.id);
            chosen.push(next);
        }
        Ok(chosen)
    }

    async fn next_of_sglang(&self, prompt: &[u32]) -> Result<Chosen, String> {
        let body = json!({"input_ids": prompt, "sampling_params": {"max_new_tokens": 1, "temperature": 0}, "return_logprob": true});
        let answer: Value = serde_json::from_slice(&self.post(Route::Generate, &body).await?).map_err(|e| e.to_string())?;
        let entry = answer.pointer("/meta_info/output_token_logprobs/0").ok_or("no log-probability of a generated token")?;
        let id = entry.get(1).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        let logprob = entry.get(0).and_then(Value::as_f64);
        id.zip(logprob).map(|(id, logprob)| Chosen { id, logprob }).ok_or_else(|| "a generated token without id".to_owned())
    }

    async fn next_of_completions(&self, prompt: &[u32]) -> Result<Chosen, String> {
        let mut body = self.plain(json!(prompt), 1);
        body["logprobs"] = json!(1);
        // Other kinds may refuse a field that they do not know.
        if self.kind == ServerKind::Vllm {
            body["return_tokens_as_token_ids"] = json!(true);
        }
        let answer: Value = serde_json::from_slice(&self.post(Route::Completions, &body).await?).map_err(|e| e.to_string())?;
        let none = || "no log-probability of a generated token".to_owned();
        let logprobs = answer.pointer("/choices/0/logprobs").ok_or_else(none)?;
        if let Some(entry) = logprobs.pointer("/content/0") {
            let id = entry.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
            return id.zip(entry.get("logprob").and_then(Value::as_f64)).map(|(id, logprob)| Chosen { id, logprob }).ok_or_else(none);
        }
        let token = logprobs.pointer("/tokens/0").ok_or_else(none)?;
        let logprob = logprobs.pointer("/token_logprobs/0").and_then(Value::as_f64).ok_or_else(none)?;
        let id = score::named_id(token).or_else(|| self.id_of(token.as_str()?));
        id.map(|id| Chosen { id, logprob }).ok_or_else(|| format!("the generated token {token} has no id that its text tells"))
    }

    /// The one token with that text.
    fn id_of(&self, text: &str) -> Option<u32> {
        let of = |id: u32| self.tokenizer.decode(&[id], Specials::Keep) == text;
        let mut all = (0..u32::try_from(self.tokenizer.vocabulary()).ok()?).filter(|id| of(*id));
        all.next().filter(|_| all.next().is_none())
    }

    /// Scored and generated are the same; another token at the end has another value, and leaves what stands before it alone; values
    /// are not rounded; no BOS is added.
    async fn agrees(&self, scoring: Scoring, ids: &[u32], chosen: &[Chosen]) -> Result<(), String> {
        let whole: Vec<u32> = ids.iter().copied().chain(chosen.iter().map(|c| c.id)).collect();
        let scored = self.score(scoring, json!(whole), &whole).await?;
        let tail = &scored[scored.len() - chosen.len()..];
        let generated: Vec<f64> = chosen.iter().map(|c| c.logprob).collect();
        close(&values(tail), &generated).map_err(|why| format!("generated tokens scored as part of a prompt differ: {why}"))?;
        // One near tie may fall otherwise.
        if tail.iter().filter(|t| !t.greedy).count() > 1 {
            return Err("tokens that the server chose are not the most probable ones when they are scored".to_owned());
        }
        let mut other = whole.clone();
        let last = other.last_mut().expect("some tokens were chosen");
        *last = ids.iter().copied().find(|id| id != last).ok_or("a prompt of one token only")?;
        let changed = self.score(scoring, json!(other), &other).await?;
        let (before, end) = (values(&scored[..scored.len() - 1]), [scored[scored.len() - 1].logprob, changed[changed.len() - 1].logprob]);
        close(&values(&changed[..changed.len() - 1]), &before).map_err(|why| format!("the same prefix is scored otherwise: {why}"))?;
        if end[0] == end[1] || end.iter().map(|v| v.exp()).sum::<f64>() > 1.0 + CLOSE_ON_AVERAGE {
            return Err(format!("two different last tokens have the log-probabilities {} and {}", end[0], end[1]));
        }
        not_rounded(values(&scored).into_iter().chain(values(&changed)))?;
        self.adds_nothing(scoring, ids, &values(&scored[..ids.len() - 1])).await
    }

    /// A BOS in front of the ids changes their values, and gives those of the text where the server puts a BOS before texts: what adds one
    /// by itself, and does not say so, fails here.
    async fn adds_nothing(&self, scoring: Scoring, ids: &[u32], bare: &[f64]) -> Result<(), String> {
        let text = self.tokenizer.decode(ids, Specials::Keep);
        let full = self.encode(&text, Special::Add)?;
        if full.len() <= ids.len() || !full.ends_with(ids) || self.count(json!(text)).await?.0 != full.len() {
            return Ok(());
        }
        let skip = full.len() - ids.len();
        let with = self.score(scoring, json!(full), &full).await?;
        if values(&with[skip..]) == bare {
            return Err("ids with and without BOS have the same log-probabilities: the server adds or drops one by itself".to_owned());
        }
        // Not every server scores texts.
        let Ok(of_text) = self.score(scoring, json!(text), &full).await else { return Ok(()) };
        close(&values(&with[skip..]), &values(&of_text[skip..]))
            .map_err(|why| format!("ids with BOS and the text they stand for are scored otherwise, so one of them has another BOS: {why}"))
    }

    /// Top tokens of the next position: the best is the one that is generated, and another context has other values.
    async fn prove_top(&self, scoring: Scoring) -> Result<(), String> {
        let ids = self.encode(PROMPTS[0], Special::None)?;
        let top = self.top(scoring, &ids).await?;
        let chosen = self.next_of_completions(&ids).await?;
        let best = top.token(chosen.id, self.tokenizer)?;
        close(&[best.logprob], &[chosen.logprob]).map_err(|why| format!("the generated token has two log-probabilities: {why}"))?;
        let mass: f64 = top.values().map(f64::exp).sum();
        if !best.greedy || top.values().count() < 2 || mass > 1.0 + CLOSE_ON_AVERAGE {
            return Err(format!("{} top tokens with a probability of {mass} together are no distribution", top.values().count()));
        }
        let other = self.top(scoring, &ids[..ids.len() - 1]).await?;
        if top.values().eq(other.values()) {
            return Err("two different contexts have the same top tokens".to_owned());
        }
        not_rounded(top.values().chain(other.values()))
    }

    async fn top(&self, scoring: Scoring, ids: &[u32]) -> Result<Top, String> {
        let body = score::body(scoring, &self.options.model, self.kind, json!(ids), 1);
        Top::read(&self.post(Route::Completions, &body).await?, ids)
    }
}

fn values(tokens: &[Scored]) -> Vec<f64> {
    tokens.iter().map(|t| t.logprob).collect()
}

/// Whether two lists are one computation done twice.
fn close(a: &[f64], b: &[f64]) -> Result<(), String> {
    if a.len() != b.len() {
        return Err(format!("{} and {} values", a.len(), b.len()));
    }
    let apart = |(a, b): (&f64, &f64)| (a - b).abs();
    let most = a.iter().zip(b).map(apart).fold(0.0, f64::max);
    let average = a.iter().zip(b).map(apart).sum::<f64>() / a.len().max(1) as f64;
    if most > CLOSE || average > CLOSE_ON_AVERAGE {
        return Err(format!("by up to {most:.3}, {average:.3} on average"));
    }
    Ok(())
}

/// Values that all have few decimals are rounded: sums of them decide wrongly between choices.
fn not_rounded(values: impl Iterator<Item = f64>) -> Result<(), String> {
    // A value near 0 has few decimals by nature.
    let values: Vec<f64> = values.filter(|v| *v < -1e-2).collect();
    let whole = |v: f64| (v - v.round()).abs() < 2e-3;
    let rounded = (0..=DECIMALS).find(|k| values.iter().all(|v| whole(v * 10f64.powi(*k))));
    match rounded {
        Some(decimals) if values.len() > 3 => Err(format!("log-probabilities are rounded to {decimals} decimals")),
        _ => Ok(()),
    }
}
