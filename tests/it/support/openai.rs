//! An OpenAI-compatible server on loopback around any engine: `/v1/models` and `/v1/completions` with a stop limit, `n`, seeds and usage.

use super::outcome_id;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, mpsc};
use swallow_eval::engine::{Bos, Engine, Finish, Generate, Outcome, Output, Request, RequestKind, Sampling, Sink, TokenRules};
use tokio::sync::oneshot;

/// How the server differs from a generous one.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) model: String,
    /// Most stop strings in a request.
    pub(crate) max_stops: usize,
    pub(crate) max_model_len: Option<u32>,
    pub(crate) owned_by: String,
    /// What the server does to token ids, but for the BOS, which a body chooses.
    pub(crate) token_rules: TokenRules,
}

impl Rules {
    /// The limits of vLLM, under another name.
    pub(crate) fn new(model: &str) -> Self {
        Rules {
            model: model.into(),
            max_stops: 4,
            max_model_len: None,
            owned_by: "swallow-eval tests".into(),
            token_rules: TokenRules::default(),
        }
    }
}

/// What goes to the engine's thread: the requests of one body, and where the outcomes go.
type Work = (Vec<Request>, oneshot::Sender<Vec<Outcome>>);

#[derive(Clone)]
struct Shared {
    rules: Rules,
    work: mpsc::Sender<Work>,
    bodies: Arc<Mutex<Vec<Value>>>,
}

/// A running server; dropping it ends it.
pub(crate) struct EngineServer {
    pub(crate) base_url: String,
    bodies: Arc<Mutex<Vec<Value>>>,
    _runtime: tokio::runtime::Runtime,
}

impl EngineServer {
    /// Starts a server around the engine that `make` builds on its own thread. Requests that arrive together are served together.
    pub(crate) fn start(make: impl FnOnce() -> Box<dyn Engine> + Send + 'static, rules: Rules) -> Self {
        let (work, todo) = mpsc::channel::<Work>();
        std::thread::spawn(move || run_engine(&mut *make(), &todo));
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let shared = Shared { rules, work, bodies: Arc::clone(&bodies) };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let routes = Router::new().route("/v1/models", get(models)).route("/v1/completions", post(completions)).with_state(shared);
        runtime.spawn(async move { axum::serve(listener, routes).await });
        EngineServer { base_url, bodies, _runtime: runtime }
    }

    /// Bodies received since the last call.
    pub(crate) fn take_bodies(&self) -> Vec<Value> {
        std::mem::take(&mut self.bodies.lock().unwrap())
    }
}

fn run_engine(engine: &mut dyn Engine, todo: &mpsc::Receiver<Work>) {
    while let Ok(first) = todo.recv() {
        let batch: Vec<Work> = std::iter::once(first).chain(todo.try_iter()).collect();
        let requests: Vec<Request> = batch.iter().flat_map(|(requests, _)| requests.clone()).collect();
        let mut outcomes = Vec::new();
        let mut push = |outcome| {
            outcomes.push(outcome);
            ControlFlow::Continue(())
        };
        engine.serve(&requests, &mut Sink::new(&mut push, &AtomicBool::new(false))).unwrap();
        for (requests, reply) in batch {
            let of = |r: &Request| outcomes.iter().find(|o| outcome_id(o) == r.id.0).cloned().unwrap();
            // The client may have gone away: nobody waits for the answer then.
            let _ = reply.send(requests.iter().map(of).collect());
        }
    }
}

async fn models(State(shared): State<Shared>) -> Json<Value> {
    Json(models_body(&shared.rules))
}

async fn completions(State(shared): State<Shared>, Json(body): Json<Value>) -> (StatusCode, Json<Value>) {
    shared.bodies.lock().unwrap().push(body.clone());
    let requests = match requests_of(&body, &shared.rules) {
        Ok(requests) => requests,
        Err((status, error)) => return (StatusCode::from_u16(status).unwrap(), Json(error)),
    };
    let (reply, outcomes) = oneshot::channel();
    shared.work.send((requests, reply)).unwrap();
    let (status, answer) = answer_of(&outcomes.await.unwrap(), &shared.rules);
    (StatusCode::from_u16(status).unwrap(), Json(answer))
}

/// The body of `/v1/models`.
pub(crate) fn models_body(rules: &Rules) -> Value {
    let mut entry = json!({"id": rules.model, "object": "model", "owned_by": rules.owned_by});
    if let Some(length) = rules.max_model_len {
        entry["max_model_len"] = json!(length);
    }
    json!({"object": "list", "data": [entry]})
}

/// The requests that a body asks for, one for each choice, or status and error.
pub(crate) fn requests_of(body: &Value, rules: &Rules) -> Result<Vec<Request>, (u16, Value)> {
    let error =
        |status: u16, message: String| Err((status, json!({"error": {"message": message, "type": "BadRequestError", "code": status}})));
    let number = |name: &str, default: f64| body.get(name).and_then(Value::as_f64).unwrap_or(default);
    let model = body["model"].as_str().unwrap_or_default();
    if model != rules.model {
        return error(404, format!("The model `{model}` does not exist."));
    }
    let Some(prompt) = body["prompt"].as_str() else { return error(400, "prompt must be a string".into()) };
    let stop: Vec<String> = serde_json::from_value(body.get("stop").cloned().unwrap_or(json!([]))).unwrap();
    if stop.len() > rules.max_stops {
        return error(400, format!("List should have at most {} items after validation, not {}", rules.max_stops, stop.len()));
    }
    if stop.iter().any(String::is_empty) {
        return error(400, "stop cannot contain an empty string.".into());
    }
    let (n, temperature) = (number("n", 1.0) as u64, number("temperature", 1.0));
    if n > 1 && temperature == 0.0 {
        return error(400, format!("n must be 1 when using greedy sampling, got {n}."));
    }
    let bos = if body.get("add_special_tokens") == Some(&json!(false)) { Bos::Never } else { Bos::Tokenizer };
    let rules = TokenRules { bos, ..rules.token_rules.clone() };
    let request = |i: u64| {
        let sampling = Sampling {
            temperature,
            top_k: number("top_k", 0.0) as u32,
            top_p: number("top_p", 1.0),
            repetition_penalty: number("repetition_penalty", 1.0),
            seed: body.get("seed").and_then(Value::as_u64).unwrap_or(0) + i,
        };
        Request::new(RequestKind::Generate(Generate {
            prompt: prompt.to_owned(),
            sample: i as u32,
            max_new_tokens: number("max_tokens", 16.0) as u32,
            stop: stop.clone(),
            enough: vec![],
            sampling,
            rules: rules.clone(),
        }))
    };
    Ok((0..n).map(request).collect())
}

/// Status and body for the outcomes of one body.
pub(crate) fn answer_of(outcomes: &[Outcome], rules: &Rules) -> (u16, Value) {
    let mut choices = Vec::new();
    let (mut prompt_tokens, mut completion_tokens) = (0, 0);
    for (index, outcome) in outcomes.iter().enumerate() {
        let generated = match outcome {
            Ok(response) => match &response.output {
                Output::Generated(generated) => generated,
                other => return (500, json!({"error": {"message": format!("{other:?}")}})),
            },
            Err(failure) => return (400, json!({"error": {"message": failure.message}})),
        };
        prompt_tokens = generated.prompt_tokens.unwrap_or(0);
        completion_tokens += generated.new_tokens.unwrap_or(0);
        let finish = if generated.finish == Finish::Length { "length" } else { "stop" };
        choices.push(json!({"index": index, "text": generated.text, "finish_reason": finish, "logprobs": null}));
    }
    let usage = json!({"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens});
    (200, json!({"id": "cmpl-0", "object": "text_completion", "model": rules.model, "choices": choices, "usage": usage}))
}
