//! OpenAI's batch API: a file of requests is uploaded, a batch made of it, and its answers fetched when it has ended, within 24 hours.
//!
//! This is the wire: each function does one thing at the server. What is asked in which batch, and what is written down so that none is
//! lost or made twice, is `run::judge_batch`. A request in a batch has the body that [`super::chat_server`] sends, and its answer is read by
//! the same rules (`lines`).
//!
//! Wire form: `CreateBatchRequest` and `Batch` of openai/openai-openapi @f85dbe2. Azure's routes are not known well enough to be asked.

mod lines;

pub use lines::{Gathered, LIMITS, Limits};

use super::chat_server::{ChatOptions, Service};
use super::http::{Class, Credential, Fault, Server};
use super::retry::Again;
use super::serve::CANCEL_POLL;
use super::{probe, url::BaseUrl};
use crate::engine::{EngineError, Request, RequestId};
use bytes::Bytes;
use reqwest::{
    Body, Url,
    multipart::{Form, Part},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fmt,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::runtime::Runtime;

/// Under this name a batch carries its maker's key.
const KEY: &str = "swallow_eval";
/// Pause before the first look at a batch, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why something was not done at the server.
#[derive(Debug)]
pub enum BatchError {
    /// The caller wants no more. Whether the server did it is not known.
    Cancelled,
    /// The server has not done it.
    Refused(EngineError),
    /// The server may have done it, or may do it later.
    Unsure(EngineError),
}

/// A server with OpenAI's batch API.
pub struct BatchServer {
    runtime: Runtime,
    server: Server,
    options: ChatOptions,
}

impl fmt::Debug for BatchServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchServer").field("options", &self.options).finish_non_exhaustive()
    }
}

/// A batch as the server tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The server's name for it.
    pub id: String,
    /// In the server's words.
    pub status: String,
    /// Requests that were answered.
    pub done: u64,
    /// Requests that failed.
    pub failed: u64,
    /// What follows from the status.
    pub stage: Stage,
    files: Vec<String>,
}

/// What follows from the status of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It goes on.
    Waiting,
    /// Every request was tried.
    Completed,
    /// It ended before every request was tried (expired, cancelled).
    CutShort,
    /// It was not begun (a file that did not pass validation). Why, in the server's words.
    Rejected(String),
}

impl BatchServer {
    /// Checks address and key; sends nothing.
    ///
    /// # Errors
    /// A bad URL, a key that no header can carry, Azure.
    pub fn new(options: ChatOptions) -> Result<Self, EngineError> {
        let Service::OpenAi { base_url } = &options.service else {
            return Err(EngineError::with_hint(
                "Azure OpenAI has batch routes and deployments of its own kind, which this program does not speak",
                "ask this judge one by one, or name a server with OpenAI's routes",
            ));
        };
        let server = Server::with_credential(BaseUrl::parse(base_url)?, options.api_key.as_ref().map(Credential::Bearer))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| EngineError::new(format!("cannot start the network thread: {e}")))?;
        Ok(BatchServer { runtime, server, options })
    }

    /// Where it is, without user-info.
    pub fn address(&self) -> String {
        self.server.base.to_string()
    }

    /// HTTP requests sent so far.
    pub fn sent(&self) -> u64 {
        self.server.sent()
    }

    /// Tries of a request after the first.
    pub fn max_retries(&self) -> u32 {
        self.options.max_retries
    }

    /// These requests, distributed over as few files as the limits allow, in their order.
    pub fn split<'r>(&self, requests: &[&'r Request], limits: Limits) -> Vec<Vec<&'r Request>> {
        let lengths = requests.iter().map(|request| lines::line(&self.options, request).len());
        lines::ranges(lengths, limits).into_iter().map(|range| requests[range].to_vec()).collect()
    }

    /// The file that asks for them.
    pub fn content(&self, requests: &[&Request]) -> String {
        requests.iter().map(|request| lines::line(&self.options, request)).collect()
    }

    /// Uploads a file for a batch, once: where it is not clear whether it arrived, the server is asked for its name. Gives its id.
    ///
    /// # Errors
    /// [`BatchError`].
    pub fn upload(&self, name: &str, content: String, cancel: &AtomicBool) -> Result<String, BatchError> {
        let content = Bytes::from(content);
        let deed = async || {
            let length = content.len() as u64;
            let file = Part::stream_with_length(Body::from(content.clone()), length).file_name(name.to_owned());
            let file = file.mime_str("application/jsonl").map_err(|e| self.server.garbage(&e.to_string()))?;
            let form = Form::new().text("purpose", "batch").part("file", file);
            let reply = self.server.post_form(self.server.base.api("files"), form, self.options.timeout).await?;
            self.parsed::<Named>(&reply.body).map(|file| file.id)
        };
        self.until(cancel, self.once(deed, async || self.named_file(name).await)).map_err(|e| self.no_batches(e))
    }

    /// The id of a file of that name, where the server has one.
    ///
    /// # Errors
    /// [`BatchError`].
    pub fn find_file(&self, name: &str, cancel: &AtomicBool) -> Result<Option<String>, BatchError> {
        self.until(cancel, self.look(async || self.named_file(name).await)).map_err(told)
    }

    /// Makes a batch of an uploaded file, once: where it is not clear whether it was made, the server is asked for a batch with that key.
    ///
    /// # Errors
    /// [`BatchError`].
    pub fn create(&self, file: &str, key: &str, cancel: &AtomicBool) -> Result<Batch, BatchError> {
        let wanted = json!({
            "input_file_id": file,
            "endpoint": lines::ROUTE,
            "completion_window": "24h",
            "metadata": { KEY: key },
        });
        let deed = async || {
            let reply = self.server.post(self.server.base.api("batches"), wanted.to_string().into_bytes(), self.options.timeout).await?;
            self.parsed::<RawBatch>(&reply.body).map(Batch::from)
        };
        self.until(cancel, self.once(deed, async || self.made_batch(file, key).await)).map_err(|e| self.no_batches(e))
    }

    /// The batch that was made of that file or carries that key, where the server has one.
    ///
    /// # Errors
    /// [`BatchError`].
    pub fn find(&self, file: &str, key: &str, cancel: &AtomicBool) -> Result<Option<Batch>, BatchError> {
        self.until(cancel, self.look(async || self.made_batch(file, key).await)).map_err(told)
    }

    /// How far a batch is.
    ///
    /// # Errors
    /// [`BatchError`].
    pub fn state(&self, id: &str, cancel: &AtomicBool) -> Result<Batch, BatchError> {
        let url = self.server.base.api(&format!("batches/{id}"));
        let look = async || {
            let reply = self.server.get(url.clone(), self.options.timeout).await?;
            self.parsed::<RawBatch>(&reply.body).map(Batch::from)
        };
        self.until(cancel, self.look(look)).map_err(told)
    }

    /// What became of the requests `asked` in a batch that has ended; this was their `attempt`-th try, counted from 1.
    ///
    /// # Errors
    /// [`BatchError`].
    pub fn gather(&self, batch: &Batch, asked: &BTreeSet<&RequestId>, attempt: u32, cancel: &AtomicBool) -> Result<Gathered, BatchError> {
        let mut files = Vec::new();
        for file in &batch.files {
            let url = self.server.base.api(&format!("files/{file}/content"));
            let look = async || self.server.download(url.clone(), self.options.timeout).await;
            files.push(self.until(cancel, self.look(look)).map_err(told)?.body);
        }
        Ok(lines::gathered(&self.server, batch, &files, asked, attempt))
    }

    /// Waits before the next look, longer from look to look. `false` when the caller wants no more.
    pub fn pause(&self, looks: u32, cancel: &AtomicBool) -> bool {
        let pause = FIRST_PAUSE.saturating_mul(1 << looks.min(10)).min(LONGEST_PAUSE);
        let sleep = async {
            tokio::time::sleep(pause).await;
            Ok(())
        };
        self.until(cancel, sleep).is_ok()
    }

    /// Runs to the end, or until the caller wants no more.
    fn until<T>(&self, cancel: &AtomicBool, work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
        self.runtime.block_on(async {
            let mut work = pin!(work);
            while !cancel.load(Ordering::Relaxed) {
                if let Ok(done) = tokio::time::timeout(CANCEL_POLL, &mut work).await {
                    return done;
                }
            }
            Err(Trouble::Cancelled)
        })
    }

    /// Looks until there is an answer, as patiently as requests are asked.
    async fn look<T>(&self, look: impl AsyncFn() -> Result<T, Fault>) -> Result<T, Trouble> {
        self.once(&look, async || look().await.map(Some)).await
    }

    /// Does what must be done once: after a fault that leaves open whether it was done, `done` is asked before it is tried again.
    async fn once<T>(
        &self,
        deed: impl AsyncFn() -> Result<T, Fault>,
        done: impl AsyncFn() -> Result<Option<T>, Fault>,
    ) -> Result<T, Trouble> {
        let mut pauses = self.options.backoff.pauses();
        let (mut attempts, mut unsure) = (0, false);
        loop {
            attempts += 1;
            let known = if unsure { done().await } else { Ok(None) };
            let tried = matches!(known, Ok(None));
            let fault = match known {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => match deed().await {
                    Ok(new) => return Ok(new),
                    Err(fault) => fault,
                },
                Err(fault) => fault,
            };
            let refused = tried && fault.again == Again::No;
            unsure |= !refused && fault.class != Class::Unreachable;
            if fault.again == Again::No || attempts > self.options.max_retries {
                return Err(Trouble::Fault { fault, unsure: unsure && !refused });
            }
            let pause = pauses.next().unwrap_or_default();
            tokio::time::sleep(if let Again::After(wished) = fault.again { wished } else { pause }).await;
        }
    }

    async fn named_file(&self, name: &str) -> Result<Option<String>, Fault> {
        let pick = |file: &Value| {
            let same = file.get("filename").and_then(Value::as_str) == Some(name);
            same.then(|| file.get("id").and_then(Value::as_str).map(str::to_owned)).flatten()
        };
        self.in_pages("files", &[("purpose", "batch")], pick).await
    }

    async fn made_batch(&self, file: &str, key: &str) -> Result<Option<Batch>, Fault> {
        let pick = |batch: &Value| {
            let of_key = batch.get("metadata").and_then(|m| m.get(KEY)).and_then(Value::as_str) == Some(key);
            let of_file = batch.get("input_file_id").and_then(Value::as_str) == Some(file);
            (of_key || of_file).then(|| RawBatch::deserialize(batch).ok().map(Batch::from)).flatten()
        };
        self.in_pages("batches", &[], pick).await
    }

    /// The first thing in a list of the server's, page by page, that `pick` takes.
    async fn in_pages<T>(&self, route: &str, query: &[(&str, &str)], pick: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, Fault> {
        let mut after: Option<String> = None;
        loop {
            let mut url: Url = self.server.base.api(route);
            url.query_pairs_mut().extend_pairs(query).extend_pairs([("limit", "100")]);
            if let Some(id) = &after {
                url.query_pairs_mut().append_pair("after", id);
            }
            let page: Page = self.parsed(&self.server.get(url, self.options.timeout).await?.body)?;
            if let Some(found) = page.data.iter().find_map(&pick) {
                return Ok(Some(found));
            }
            let last = page.data.last().and_then(|item| item.get("id")).and_then(Value::as_str).map(str::to_owned);
            // A server that knows no pages gives the first again and again.
            if !page.has_more || last.is_none() || last == after {
                return Ok(None);
            }
            after = last;
        }
    }

    fn parsed<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Fault> {
        let start = || String::from_utf8_lossy(&body[..body.len().min(1000)]).into_owned();
        serde_json::from_slice(body).map_err(|e| self.server.garbage(&format!("{e} in `{}`", start())))
    }

    /// What a refusal to take a batch means.
    fn no_batches(&self, trouble: Trouble) -> BatchError {
        match trouble {
            Trouble::Fault { fault, unsure: false } if matches!(fault.class, Class::Missing | Class::Refused) => {
                let what =
                    if fault.class == Class::Missing { "the server has no batch API" } else { "the server does not take this batch" };
                BatchError::Refused(EngineError::with_hint(format!("{}: {what}", fault.message), DIRECTLY))
            }
            other => told(other),
        }
    }
}

/// What else can be done where batches cannot be had.
const DIRECTLY: &str = "without --judge-batch the same judgements are asked for one by one";

/// Why there is no result.
enum Trouble {
    Cancelled,
    Fault { fault: Fault, unsure: bool },
}

fn told(trouble: Trouble) -> BatchError {
    match trouble {
        Trouble::Cancelled => BatchError::Cancelled,
        Trouble::Fault { fault, unsure: true } => BatchError::Unsure(probe::engine_error(&fault)),
        Trouble::Fault { fault, unsure: false } => BatchError::Refused(probe::engine_error(&fault)),
    }
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Value>,
    #[serde(default)]
    has_more: bool,
}

#[derive(Deserialize)]
struct RawBatch {
    id: String,
    status: String,
    output_file_id: Option<String>,
    error_file_id: Option<String>,
    request_counts: Option<RawCounts>,
    errors: Option<RawErrors>,
}

#[derive(Deserialize)]
struct RawCounts {
    completed: Option<u64>,
    failed: Option<u64>,
}

#[derive(Deserialize)]
struct RawErrors {
    data: Option<Vec<RawError>>,
}

#[derive(Deserialize)]
struct RawError {
    code: Option<String>,
    message: Option<String>,
    line: Option<u64>,
}

impl From<RawBatch> for Batch {
    fn from(raw: RawBatch) -> Self {
        let stage = match raw.status.to_ascii_lowercase().as_str() {
            "completed" => Stage::Completed,
            "expired" | "cancelled" => Stage::CutShort,
            "failed" => Stage::Rejected(raw.errors.and_then(|e| e.data).map_or(String::new(), |list| complaint(&list))),
            _ => Stage::Waiting,
        };
        let (done, failed) = raw.request_counts.map_or((0, 0), |c| (c.completed.unwrap_or(0), c.failed.unwrap_or(0)));
        // An empty name stands for no file at some servers.
        let files = [raw.output_file_id, raw.error_file_id].into_iter().flatten().filter(|id| !id.is_empty()).collect();
        Batch { id: raw.id, status: raw.status, done, failed, stage, files }
    }
}

/// The first few of what a server found wrong.
fn complaint(errors: &[RawError]) -> String {
    let one = |e: &RawError| {
        let line = e.line.map_or(String::new(), |n| format!(" (line {n})"));
        format!("{}: {}{line}", e.code.as_deref().unwrap_or("error"), e.message.as_deref().unwrap_or("no message"))
    };
    let more = if errors.len() > 3 { format!("; {} more", errors.len() - 3) } else { String::new() };
    errors.iter().take(3).map(one).collect::<Vec<_>>().join("; ") + &more
}
