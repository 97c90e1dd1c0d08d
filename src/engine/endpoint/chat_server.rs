//! Services that answer messages: `/v1/chat/completions` of OpenAI and of every server with its routes, and Azure's paths. It serves judges, API
//! models, and open models whose server applies their own template.
//!
//! Nothing is probed: a hosted service is asked what it is paid for and nothing else. A refusal and a content filter are answers without a
//! text, recorded at once. What is retried, and how long it waits, is the rule of `retry`.
//!
//! Wire form: openai 0.28.1 as upstream calls it (`fastchat/llm_judge/common.py:478-503`, swallow-evaluation v202407).

use super::http::{Class, Credential, Fault, Server};
use super::retry::Again;
use super::serve::{Next, next};
use super::{Backoff, Secret, probe, url::BaseUrl};
use crate::engine::chat::fastchat::messages;
use crate::engine::{
    Chat, Engine, EngineError, Finish, Generated, Identity, Outcome, Output, Request, RequestFailure, RequestKind, Response, Sink, Stats,
    Template, Turn,
};
use reqwest::Url;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};
use tokio::{runtime::Runtime, task::JoinSet};

/// Upstream gives a judge this many attempts (`fastchat/llm_judge/common.py:28`), and this program a service that many requests in a row.
pub const ATTEMPTS: u32 = 16;

/// Where messages are sent, and how the service writes its paths.
#[derive(Clone)]
pub enum Service {
    /// `BASE/chat/completions`, the model in the body, `Authorization: Bearer`.
    OpenAi {
        /// `https://api.openai.com/v1`, `http://host:8000/v1`.
        base_url: String,
    },
    /// `ENDPOINT/openai/deployments/NAME/chat/completions?api-version=...`, no model in the body, header `api-key`.
    Azure {
        /// `https://resource.openai.azure.com`.
        endpoint: String,
        /// Name of the deployment, which stands for a model.
        deployment: String,
        /// `2023-07-01-preview`.
        api_version: String,
    },
}

/// What a service needs to be asked. `Debug` shows no key and no user-info.
#[derive(Clone)]
pub struct ChatOptions {
    /// Where and how.
    pub service: Service,
    /// Model, as the service knows it; the name in files and tables.
    pub model: String,
    /// The key.
    pub api_key: Option<Secret>,
    /// Most requests in flight; at least 1.
    pub max_connections: usize,
    /// Attempts after the first.
    pub max_retries: u32,
    /// Limit of one attempt.
    pub timeout: Duration,
    /// Pauses where the service names none.
    pub backoff: Backoff,
}

impl ChatOptions {
    /// 8 in flight, 16 attempts, 10 minutes each.
    pub fn new(service: Service, model: impl Into<String>) -> Self {
        ChatOptions {
            service,
            model: model.into(),
            api_key: None,
            max_connections: 8,
            max_retries: ATTEMPTS - 1,
            timeout: Duration::from_secs(600),
            backoff: Backoff::default(),
        }
    }
}

impl fmt::Debug for ChatOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatOptions").field("model", &self.model).field("api_key", &self.api_key).finish_non_exhaustive()
    }
}

/// A service that answers messages.
pub struct ChatServer {
    runtime: Runtime,
    line: Arc<Line>,
    identity: Identity,
}

/// What an attempt needs.
struct Line {
    server: Server,
    route: Url,
    options: ChatOptions,
}

impl ChatServer {
    /// Checks address and key; sends nothing.
    ///
    /// # Errors
    /// A bad URL or a key that no header can carry.
    pub fn new(options: ChatOptions) -> Result<Self, EngineError> {
        let (base, credential, kind) = match &options.service {
            Service::OpenAi { base_url } => (BaseUrl::parse(base_url)?, options.api_key.as_ref().map(Credential::Bearer), "chat"),
            Service::Azure { endpoint, .. } => (BaseUrl::parse(endpoint)?, options.api_key.as_ref().map(Credential::ApiKey), "azure"),
        };
        let route = match &options.service {
            Service::OpenAi { .. } => base.api("chat/completions"),
            Service::Azure { deployment, api_version, .. } => {
                let mut route = base.root(&format!("openai/deployments/{deployment}/chat/completions"));
                route.query_pairs_mut().append_pair("api-version", api_version);
                route
            }
        };
        let server = Server::with_credential(base, credential)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("chat")
            .enable_all()
            .build()
            .map_err(|e| EngineError::new(format!("cannot start the network threads: {e}")))?;
        let identity = Identity {
            engine: "endpoint".into(),
            model: options.model.clone(),
            capabilities: Some(json!({ "kind": kind })),
            ..Identity::default()
        };
        Ok(ChatServer { runtime, line: Arc::new(Line { server, route, options }), identity })
    }
}

impl Engine for ChatServer {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn refusal(&self, request: &Request) -> Option<EngineError> {
        match &request.kind {
            RequestKind::Chat(Chat { template: Template::Messages { .. } | Template::Model, .. }) => None,
            RequestKind::Chat(_) => Some(EngineError::with_hint(
                "this service takes messages, and the conversation is to be written with a template of FastChat's or a file",
                "use --chat-template model, or an in-process model or /v1/completions server",
            )),
            _ => Some(EngineError::new("this service takes messages, and the task asks for plain completion or log-likelihoods")),
        }
    }

    /// Stops with an error when the service lets nobody in, knows no such model, or failed [`ATTEMPTS`] requests in a row.
    fn serve(&mut self, requests: &[Request], sink: &mut Sink<'_>) -> Result<Stats, EngineError> {
        let line = Arc::clone(&self.line);
        self.runtime.block_on(run(&line, requests, sink))
    }
}

async fn run(line: &Arc<Line>, requests: &[Request], sink: &mut Sink<'_>) -> Result<Stats, EngineError> {
    let before = line.server.sent();
    let mut stats = Stats::default();
    let mut queue: VecDeque<Request> = requests.iter().cloned().collect();
    let mut running = JoinSet::new();
    let mut failed_in_a_row = 0;
    let mut end = Ok(());
    while !sink.cancelled() {
        while running.len() < line.options.max_connections.max(1)
            && let Some(request) = queue.pop_front()
        {
            running.spawn(Arc::clone(line).answer(request));
        }
        let done = match next(&mut running).await? {
            Next::NotYet => continue,
            Next::Nothing => break,
            Next::Done(done) => done,
        };
        let (outcome, fault) = done;
        count(&outcome, &mut stats);
        failed_in_a_row = if outcome.is_ok() { 0 } else { failed_in_a_row + 1 };
        if let Some(fault) = fault.filter(|f| failed_in_a_row >= ATTEMPTS || hopeless(f.class)) {
            let attempts =
                if hopeless(fault.class) { String::new() } else { format!("{failed_in_a_row} requests in a row failed; the last: ") };
            let error = probe::engine_error(&fault);
            end = Err(EngineError { message: format!("{attempts}{}", error.message), hint: error.hint });
        }
        if sink.push(outcome).is_break() || end.is_err() {
            break;
        }
    }
    drop(running);
    stats.http_requests = line.server.sent() - before;
    end.map(|()| stats)
}

/// Faults that every other request would meet too.
pub(super) fn hopeless(class: Class) -> bool {
    matches!(class, Class::Denied | Class::Missing | Class::Quota)
}

fn count(outcome: &Outcome, stats: &mut Stats) {
    let Ok(Response { output: Output::Dialogue { turns }, .. }) = outcome else { return };
    for turn in turns {
        stats.prefill_tokens += u64::from(turn.raw.prompt_tokens.unwrap_or(0));
        stats.decode_tokens += u64::from(turn.raw.new_tokens.unwrap_or(0));
    }
}

impl Line {
    /// Plays all turns of one request.
    async fn answer(self: Arc<Self>, request: Request) -> (Outcome, Option<Fault>) {
        let RequestKind::Chat(chat) = &request.kind else { unreachable!("refusal() lets only conversations pass") };
        let users = chat.users();
        let mut turns: Vec<Turn> = Vec::new();
        for at in 0..users.len() {
            let answers: Vec<&str> = turns.iter().map(|t| t.answer.as_str()).collect();
            match self.ask(&body(&self.options, chat, &users[..=at], &answers)).await {
                Ok(turn) => turns.push(turn),
                Err((fault, attempts)) => {
                    let failure = RequestFailure { id: request.id.clone(), message: fault.message.clone(), attempts };
                    return (Err(failure), Some(fault));
                }
            }
        }
        (Ok(Response { id: request.id.clone(), output: Output::Dialogue { turns } }), None)
    }

    async fn ask(&self, body: &Value) -> Result<Turn, (Fault, u32)> {
        let body = body.to_string().into_bytes();
        let mut pauses = self.options.backoff.pauses();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let fault = match self.server.post(self.route.clone(), body.clone(), self.options.timeout).await {
                Ok(reply) => match read(&reply.body) {
                    Ok(turn) => return Ok(turn),
                    Err(what) => self.server.garbage(&what),
                },
                Err(fault) if fault.filtered => return Ok(silent(Finish::ContentFilter)),
                Err(fault) => fault,
            };
            if fault.again == Again::No || attempts > self.options.max_retries {
                return Err((fault, attempts));
            }
            let pause = pauses.next().unwrap_or_default();
            tokio::time::sleep(if let Again::After(wished) = fault.again { wished } else { pause }).await;
        }
    }
}

/// A turn without a text: a refusal, a filter.
pub(super) fn silent(finish: Finish) -> Turn {
    let raw = Generated { text: String::new(), token_ids: None, finish, prompt_tokens: None, new_tokens: None, notes: vec![] };
    Turn { answer: String::new(), raw }
}

/// What is sent: upstream's fields and no other. Azure's path names the model, so its body does not.
pub(super) fn body(options: &ChatOptions, chat: &Chat, users: &[&str], answers: &[&str]) -> Value {
    let system = match &chat.template {
        Template::Messages { system } => system.as_str(),
        _ => "",
    };
    let mut body = Map::new();
    if matches!(options.service, Service::OpenAi { .. }) {
        body.insert("model".into(), json!(options.model));
    }
    body.insert("messages".into(), json!(messages(system, users, answers)));
    body.insert("n".into(), json!(1));
    let temperature = chat.sampling.temperature;
    body.insert("temperature".into(), if temperature == 0.0 { json!(0) } else { json!(temperature) });
    body.insert("max_tokens".into(), json!(chat.max_new_tokens));
    Value::Object(body)
}

#[derive(Deserialize)]
struct Raw {
    choices: Option<Vec<RawChoice>>,
    usage: Option<RawUsage>,
}

#[derive(Deserialize)]
struct RawChoice {
    message: Option<RawMessage>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct RawMessage {
    content: Option<String>,
}

#[derive(Deserialize)]
struct RawUsage {
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
}

/// An answer of status 200. A message without content (a refusal) is an empty text.
pub(super) fn read(body: &[u8]) -> Result<Turn, String> {
    let start = || String::from_utf8_lossy(&body[..body.len().min(1000)]).into_owned();
    let raw: Raw = serde_json::from_slice(body).map_err(|e| format!("{e} in `{}`", start()))?;
    let choice = raw.choices.and_then(|c| c.into_iter().next()).ok_or_else(|| format!("no choices in `{}`", start()))?;
    let finish = match choice.finish_reason.as_deref() {
        Some("content_filter") => Finish::ContentFilter,
        Some("length") => Finish::Length,
        _ => Finish::EndToken,
    };
    let mut turn = silent(finish);
    turn.answer = choice.message.and_then(|m| m.content).unwrap_or_default();
    turn.raw.text.clone_from(&turn.answer);
    let usage = raw.usage;
    turn.raw.prompt_tokens = usage.as_ref().and_then(|u| u.prompt_tokens);
    turn.raw.new_tokens = usage.and_then(|u| u.completion_tokens);
    Ok(turn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Sampling;

    fn chat() -> Chat {
        Chat {
            prompt: "評価してください".into(),
            follow_ups: vec![],
            sample: 2,
            max_new_tokens: 2048,
            template: Template::Messages { system: "S".into() },
            sampling: Sampling::GREEDY,
        }
    }

    #[test]
    fn the_body_is_upstreams() {
        let azure = Service::Azure { endpoint: "http://h".into(), deployment: "gpt-4".into(), api_version: "v".into() };
        let messages = json!([{"role": "system", "content": "S"}, {"role": "user", "content": "評価してください"}]);
        let sent = body(&ChatOptions::new(azure, "m"), &chat(), &["評価してください"], &[]);
        assert_eq!(sent, json!({"messages": messages, "n": 1, "temperature": 0, "max_tokens": 2048}));
        let sent = body(&ChatOptions::new(Service::OpenAi { base_url: "http://h".into() }, "m"), &chat(), &["評価してください"], &[]);
        assert_eq!(sent["model"], "m");
    }

    #[test]
    fn answers_without_a_text_are_answers() {
        for (body, text, finish) in [
            (
                r#"{"choices":[{"message":{"content":"[[8]]"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2}}"#,
                "[[8]]",
                Finish::EndToken,
            ),
            (r#"{"choices":[{"message":{"content":null,"refusal":"no"},"finish_reason":"stop"}]}"#, "", Finish::EndToken),
            (r#"{"choices":[{"message":{},"finish_reason":"content_filter"}]}"#, "", Finish::ContentFilter),
        ] {
            let turn = read(body.as_bytes()).expect(body);
            assert_eq!((turn.answer.as_str(), turn.raw.finish), (text, finish), "{body}");
        }
        for body in ["", "{}", r#"{"choices":[]}"#, "<html>"] {
            assert!(read(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn azure_names_the_deployment_in_its_path() {
        let azure = Service::Azure { endpoint: "http://h:1/".into(), deployment: "gpt-4".into(), api_version: "2023-07-01-preview".into() };
        let server =
            ChatServer::new(ChatOptions { api_key: Some(Secret::new("sk-x")), ..ChatOptions::new(azure, "gpt-4") }).expect("valid");
        assert_eq!(server.line.route.as_str(), "http://h:1/openai/deployments/gpt-4/chat/completions?api-version=2023-07-01-preview");
        assert!(!format!("{:?}", server.line.options).contains("sk-x"));
    }
}
