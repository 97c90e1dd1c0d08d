//! A server around the in-process engine that takes token ids and tells log-probabilities of a prompt, as vLLM does: what it says, the engine
//! behind it computed one sequence at a time, without a batch and without shared prefixes.

use super::faults::{Act, Asked, FaultServer};
use super::openai::{Rules, requests_of};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::Path;
use swallow_eval::engine::llama::batch::{Listener, TokenFinish, TokenOutput, TokenRequest};
use swallow_eval::engine::llama::encode::{Stops, prompt as encode};
use swallow_eval::engine::llama::{Llama, LoadOptions};
use swallow_eval::engine::{Bos, Decode, Generate, RequestKind};

/// Starts a server that serves the model of a directory under the name `model`.
pub(crate) fn start(directory: &Path, model: &str) -> FaultServer {
    let mut llama = Llama::load(directory, &LoadOptions::default()).unwrap();
    let window = llama.config().max_position_embeddings as u32;
    let rules = Rules { owned_by: "vllm".into(), max_model_len: Some(window), ..Rules::new(model) };
    FaultServer::with_rules(rules.clone(), move |asked: &Asked| {
        if asked.path.ends_with("/generate") {
            return Act::Say(404, "", r#"{"detail":"Not Found"}"#.into());
        }
        let (status, body) = completions(&mut llama, &rules, &asked.body);
        Act::Say(status, "", body.to_string())
    })
}

fn completions(llama: &mut Llama, rules: &Rules, body: &Value) -> (u16, Value) {
    let mut textual = body.clone();
    let ids = match &body["prompt"] {
        Value::Array(ids) => {
            textual["prompt"] = json!("");
            ids.iter().map(|id| id.as_u64().unwrap() as u32).collect()
        }
        text => {
            let bos = if body.get("add_special_tokens") == Some(&json!(false)) { Bos::Never } else { Bos::Tokenizer };
            encode(llama.tokenizer(), text.as_str().unwrap_or_default(), bos).unwrap()
        }
    };
    let asked = match requests_of(&textual, rules) {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    let (mut choices, mut new) = (Vec::new(), 0);
    for (index, request) in asked.iter().enumerate() {
        let RequestKind::Generate(generate) = &request.kind else { unreachable!("completions are generations") };
        let (mut choice, tokens) = generated(llama, &ids, generate);
        choice["index"] = json!(index);
        if body.get("logprobs").is_some() {
            choice["logprobs"] = logprobs(llama, &ids, &tokens);
        }
        new += tokens.len();
        choices.push(choice);
    }
    if body.get("prompt_logprobs").is_some() {
        choices[0]["prompt_logprobs"] = prompt_logprobs(llama, &ids);
    }
    let usage = json!({"prompt_tokens": ids.len(), "completion_tokens": new});
    (200, json!({"id": "cmpl-0", "object": "text_completion", "model": rules.model, "choices": choices, "usage": usage}))
}

/// A choice, and its tokens.
fn generated(llama: &mut Llama, ids: &[u32], asked: &Generate) -> (Value, Vec<u32>) {
    let (tokenizer, end) = (llama.tokenizer().clone(), llama.config().end_ids.clone());
    let stops = Stops::new(asked.stop.clone(), Decode::Alone);
    let request = TokenRequest::Generate {
        prompt: ids.to_vec(),
        max_new: asked.max_new_tokens as usize,
        end,
        sampling: asked.sampling.clone(),
        sample: asked.sample,
    };
    let mut output = None;
    let mut done = |_, told| {
        output = Some(told);
        ControlFlow::Continue(())
    };
    let stopped = |_, new: &[u32]| stops.reached(&tokenizer, ids, new);
    llama.run(&[request], &mut Listener { stops: &stopped, done: &mut done, go_on: &|| true }).unwrap();
    let Some(TokenOutput::Generated { tokens, finish, .. }) = output else { panic!("a generation was asked for") };
    let (text, cut) = stops.cut(&tokenizer, ids, &tokens);
    let reason = if finish == TokenFinish::Length && !cut { "length" } else { "stop" };
    let last = tokens.last().filter(|_| finish == TokenFinish::End && !cut);
    (json!({"text": text, "finish_reason": reason, "stop_reason": last, "logprobs": null}), tokens)
}

/// Of the new tokens, in OpenAI's legacy lists; tokens are named by their ids.
fn logprobs(llama: &mut Llama, ids: &[u32], new: &[u32]) -> Value {
    let whole = [ids, new].concat();
    let scored: Vec<(f64, u64)> = scores(llama, &whole).split_off(ids.len() - 1);
    let tokens: Vec<String> = new.iter().map(|id| format!("token_id:{id}")).collect();
    let values: Vec<f64> = scored.iter().map(|(value, _)| *value).collect();
    let tops: Vec<Value> = tokens.iter().zip(&values).map(|(token, value)| json!({ (token.as_str()): value })).collect();
    json!({"tokens": tokens, "token_logprobs": values, "top_logprobs": tops})
}

fn prompt_logprobs(llama: &mut Llama, ids: &[u32]) -> Value {
    let one = |(id, (value, rank)): (&u32, (f64, u64))| json!({ (id.to_string()): {"logprob": value, "rank": rank, "decoded_token": "?"} });
    let told: Vec<Value> = ids[1..].iter().zip(scores(llama, ids)).map(one).collect();
    [Value::Null].into_iter().chain(told).collect()
}

/// Log-probability and rank of every token but the first.
fn scores(llama: &mut Llama, ids: &[u32]) -> Vec<(f64, u64)> {
    let positions: Vec<u32> = (0..ids.len() as u32 - 1).collect();
    let rows = llama.logits(ids, &positions).unwrap();
    let one = |(logits, id): (Vec<f32>, &u32)| {
        let own = f64::from(logits[*id as usize]);
        let best = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let total = best + logits.iter().map(|l| (f64::from(*l) - best).exp()).sum::<f64>().ln();
        (own - total, 1 + logits.iter().filter(|l| f64::from(**l) > own).count() as u64)
    };
    rows.into_iter().zip(&ids[1..]).map(one).collect()
}
