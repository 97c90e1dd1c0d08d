//! One server over HTTP: bytes out, bytes or a classified [`Fault`] back. Knows nothing of completions.

use super::retry::{self, Again};
use super::url::BaseUrl;
use super::{EngineError, Secret};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, SERVER};
use reqwest::{Client, RequestBuilder, StatusCode, Url, multipart::Form, redirect};
use serde_json::Value;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// An answer longer than this is not one.
const MAX_BODY: usize = 64 << 20;
/// Nor is a longer one a file: 50,000 answers of a batch stay far below it.
const MAX_FILE: usize = 2 << 30;
/// A server that does not accept a connection within this is unreachable.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Characters of a server's own words in a message.
const MAX_QUOTE: usize = 200;

/// What went wrong with one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// No connection: refused, no such host, TLS.
    Unreachable,
    /// The connection ended before the answer did.
    Interrupted,
    /// No whole answer within the time limit.
    TimedOut,
    /// An answer of status 200 that is not one.
    Garbage,
    /// 408, 409, 429: the server is alive and busy.
    Busy,
    /// 429 with `insufficient_quota`: the account is used up.
    Quota,
    /// 401, 403.
    Denied,
    /// 404: no such route, or no such model.
    Missing,
    /// Other 3xx and 4xx: the server read the request and does not want it.
    Refused,
    /// 5xx.
    Broken,
}

/// A failed attempt: why, in words that hold no secret, and whether to ask again.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) class: Class,
    pub(super) message: String,
    pub(super) again: Again,
    /// A content filter refused the prompt (Azure: 400 with the code `content_filter`).
    pub(super) filtered: bool,
}

/// How a key is sent.
#[derive(Clone, Copy)]
pub(super) enum Credential<'k> {
    /// `Authorization: Bearer KEY`.
    Bearer(&'k Secret),
    /// Azure's `api-key: KEY`.
    ApiKey(&'k Secret),
}

impl<'k> Credential<'k> {
    fn secret(self) -> &'k Secret {
        match self {
            Credential::Bearer(key) | Credential::ApiKey(key) => key,
        }
    }
}

/// An answer with a 2xx status.
pub(super) struct Reply {
    /// The `Server` header.
    pub(super) server: Option<String>,
    pub(super) body: Vec<u8>,
}

/// One base URL with its connections.
pub(super) struct Server {
    pub(super) base: BaseUrl,
    client: Client,
    secrets: Vec<String>,
    sent: AtomicU64,
}

impl Server {
    pub(super) fn new(base: BaseUrl, key: Option<&Secret>) -> Result<Self, EngineError> {
        Self::with_credential(base, key.map(Credential::Bearer))
    }

    pub(super) fn with_credential(mut base: BaseUrl, credential: Option<Credential<'_>>) -> Result<Self, EngineError> {
        let secrets = credential.map(|c| c.secret().expose()).into_iter().chain(base.password());
        let secrets = secrets.filter(|s| !s.is_empty()).map(str::to_owned).collect();
        // An error means that another room of this process has installed it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut headers = HeaderMap::new();
        if let Some(credential) = credential {
            let (name, value) = match credential {
                Credential::Bearer(key) => (AUTHORIZATION, format!("Bearer {}", key.expose())),
                Credential::ApiKey(key) => (HeaderName::from_static("api-key"), key.expose().to_owned()),
            };
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| EngineError::with_hint("the API key holds characters that a header cannot", "check for line breaks in it"))?;
            value.set_sensitive(true);
            headers.insert(name, value);
            base.drop_user();
        }
        // A redirect could lead away from what the user named, and turns a POST into a GET.
        let mut client = Client::builder().default_headers(headers).connect_timeout(CONNECT_LIMIT).redirect(redirect::Policy::none());
        if base.is_loopback() {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|e| EngineError::new(format!("HTTP client for {base}: {}", cause(&e))))?;
        Ok(Server { base, client, secrets, sent: AtomicU64::new(0) })
    }

    /// Requests sent so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(super) async fn get(&self, url: Url, limit: Duration) -> Result<Reply, Fault> {
        self.call(self.client.get(url), limit, MAX_BODY).await
    }

    /// Gets a file, which may be longer than an answer.
    pub(super) async fn download(&self, url: Url, limit: Duration) -> Result<Reply, Fault> {
        self.call(self.client.get(url), limit, MAX_FILE).await
    }

    /// Posts a JSON body.
    pub(super) async fn post(&self, url: Url, body: Vec<u8>, limit: Duration) -> Result<Reply, Fault> {
        self.call(self.client.post(url).header(CONTENT_TYPE, "application/json").body(body), limit, MAX_BODY).await
    }

    /// Posts a form.
    pub(super) async fn post_form(&self, url: Url, form: Form, limit: Duration) -> Result<Reply, Fault> {
        self.call(self.client.post(url).multipart(form), limit, MAX_BODY).await
    }

    async fn call(&self, request: RequestBuilder, limit: Duration, most: usize) -> Result<Reply, Fault> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        let mut answer = request.timeout(limit).send().await.map_err(|e| self.transport(&e, limit))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut body = Vec::new();
        loop {
            match answer.chunk().await {
                Ok(Some(part)) if body.len() + part.len() <= most => body.extend_from_slice(&part),
                Ok(Some(_)) => return Err(self.garbage(&format!("more than {} MiB", most >> 20))),
                Ok(None) => break,
                // The status is known: an error whose text broke off is still that error.
                Err(_) if !status.is_success() => break,
                Err(e) => return Err(self.transport(&e, limit)),
            }
        }
        if !status.is_success() {
            return Err(self.status(status, &headers, &body));
        }
        let server = headers.get(SERVER).and_then(|v| v.to_str().ok()).map(str::to_owned);
        Ok(Reply { server, body })
    }

    fn transport(&self, error: &reqwest::Error, limit: Duration) -> Fault {
        let (class, what) = if error.is_connect() {
            (Class::Unreachable, format!("cannot connect: {}", cause(error)))
        } else if error.is_timeout() {
            (Class::TimedOut, format!("no whole answer within {} s", limit.as_secs_f64()))
        } else {
            (Class::Interrupted, format!("the connection broke: {}", cause(error)))
        };
        Fault { class, message: self.say(&what), again: Again::Yes, filtered: false }
    }

    /// The fault that a status other than 2xx is, with the headers and the body that came with it.
    pub(super) fn status(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Fault {
        let error = ErrorBody::read(body);
        let quota = status == 429 && error.code.as_deref() == Some("insufficient_quota");
        let class = match status.as_u16() {
            429 if quota => Class::Quota,
            408 | 409 | 429 => Class::Busy,
            401 | 403 => Class::Denied,
            404 => Class::Missing,
            500.. => Class::Broken,
            _ => Class::Refused,
        };
        let moved = headers.get(LOCATION).and_then(|v| v.to_str().ok()).map(|to| format!("; it points to {to}"));
        let words = if error.message.is_empty() { String::new() } else { format!(": {}", error.message) };
        let message = self.say(&format!("{status}{words}{}", moved.unwrap_or_default()));
        let filtered = status == 400 && error.code.as_deref() == Some("content_filter");
        Fault { class, message, again: retry::again(status.as_u16(), quota, headers, SystemTime::now()), filtered }
    }

    /// A fault for an answer of status 200 that cannot be used.
    pub(super) fn garbage(&self, what: &str) -> Fault {
        Fault { class: Class::Garbage, message: self.say(&format!("unusable answer: {what}")), again: Again::Yes, filtered: false }
    }

    /// `what`, on one line, shortened, without secrets, with the server's name before it.
    pub(super) fn say(&self, what: &str) -> String {
        let clean = self.secrets.iter().fold(what.to_owned(), |text, secret| text.replace(secret, "***"));
        format!("{}: {}", self.base, quote(&clean))
    }
}

/// The causes of an error, without the URL (which may hold a password).
fn cause(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = if text.is_empty() { words } else { format!("{text}: {words}") };
        }
        next = cause.source();
    }
    if text.is_empty() { "no details".to_owned() } else { text }
}

/// Text on one line, at most [`MAX_QUOTE`] characters of it.
pub(super) fn quote(text: &str) -> String {
    let line = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_QUOTE) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// The error a server wrote, in any of the shapes servers use: `{"error": {"message", "code"}}`, `{"error": "…"}`, `{"detail": …}`,
/// `{"message": …}` at the top (SGLang), or plain text.
pub(super) struct ErrorBody {
    pub(super) message: String,
    code: Option<String>,
}

impl ErrorBody {
    pub(super) fn read(body: &[u8]) -> Self {
        let raw = || ErrorBody { message: String::from_utf8_lossy(body).into_owned(), code: None };
        let Ok(Value::Object(top)) = serde_json::from_slice::<Value>(body) else { return raw() };
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        let inner = match top.get("error") {
            Some(Value::Object(inner)) => inner,
            Some(Value::String(message)) => return ErrorBody { message: message.clone(), code: None },
            _ => &top,
        };
        let code = inner.get("code").and_then(Value::as_str).or_else(|| inner.get("type").and_then(Value::as_str)).map(str::to_owned);
        match inner.get("message").or_else(|| top.get("detail")).filter(|m| !m.is_null()) {
            Some(message) => ErrorBody { message: text(message), code },
            None => ErrorBody { code, ..raw() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_read_in_every_shape() {
        for (body, message, code) in [
            (r#"{"error":{"message":"too long","type":"BadRequestError","code":400}}"#, "too long", Some("BadRequestError")),
            (r#"{"error":{"message":"no money","type":"x","code":"insufficient_quota"}}"#, "no money", Some("insufficient_quota")),
            (r#"{"error":"Unauthorized"}"#, "Unauthorized", None),
            (r#"{"detail":"Not Found"}"#, "Not Found", None),
            (r#"{"detail":[{"loc":["body"]}]}"#, r#"[{"loc":["body"]}]"#, None),
            (r#"{"object":"error","message":"full","code":503}"#, "full", None),
            (r#"{"error":{"code":7}}"#, r#"{"error":{"code":7}}"#, None),
            ("Internal Server Error", "Internal Server Error", None),
            ("[1]", "[1]", None),
            ("", "", None),
        ] {
            let read = ErrorBody::read(body.as_bytes());
            assert_eq!((read.message.as_str(), read.code.as_deref()), (message, code), "{body}");
        }
    }

    #[test]
    fn quotes_are_short_and_on_one_line() {
        assert_eq!(quote(" a\n\tb\u{0}c "), "a b c");
        let long = quote(&"あ".repeat(1000));
        assert_eq!(long.chars().count(), MAX_QUOTE + 1);
        assert!(long.ends_with('…'));
    }

    #[test]
    fn a_key_echoed_by_the_server_is_not_repeated() {
        let base = BaseUrl::parse("http://me:hunter2@127.0.0.1:9/v1").unwrap();
        let server = Server::new(base, Some(&Secret::new("sk-very-secret"))).unwrap();
        let fault = server.status(
            StatusCode::UNAUTHORIZED,
            &HeaderMap::new(),
            br#"{"error":{"message":"bad key sk-very-secret or password hunter2"}}"#,
        );
        assert_eq!(fault.class, Class::Denied);
        assert_eq!(fault.message, "http://127.0.0.1:9/v1: 401 Unauthorized: bad key *** or password ***");
    }
}
