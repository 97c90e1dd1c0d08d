//! Downloads over HTTP: several at once, resumed where they broke, verified before they are visible.
//!
//! The functions are synchronous; the runtime is in here. What has arrived is reported through a callback on the caller's thread. Proxies are
//! reqwest's own (`HTTPS_PROXY`, `NO_PROXY`). Not here: which files are wanted ([`super::store`]), which files a model has ([`super::hub`]).

mod describe;
mod download;
pub(super) mod partial;

use super::{DatasetError, manifest::DataFile, read::Reader};
use backon::{BackoffBuilder, ExponentialBuilder};
pub(super) use describe::{Answer, Description, describe};
use download::Download;
use reqwest::{Client, ClientBuilder, StatusCode, Url, header::HeaderValue};
use std::{
    error::Error,
    fmt,
    fs::{File, OpenOptions, TryLockError},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    runtime::Runtime,
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

/// Files on their way at the same time.
const PARALLEL: usize = 4;
/// A server that does not accept a connection within this is unreachable.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// How long to insist.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Attempts after the first that bring no new byte.
    pub retries: usize,
    /// Before the second attempt; then doubling, with up to as much again as jitter.
    pub first_pause: Duration,
    /// Never longer than this (before jitter), unless the server asks for it.
    pub longest_pause: Duration,
    /// A connection over which nothing arrives for this long is given up.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            retries: 5,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(15),
            stall: Duration::from_secs(60),
        }
    }
}

impl Patience {
    pub(super) fn pauses(self) -> impl Iterator<Item = Duration> {
        let builder = ExponentialBuilder::new().with_min_delay(self.first_pause).with_max_delay(self.longest_pause);
        builder.with_max_times(self.retries).with_jitter().build()
    }
}

/// What happens during downloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another process downloads into the same cache.
    Waiting {
        /// The cache.
        cache: PathBuf,
    },
    /// A file is about to be asked for.
    Started {
        /// Path below the cache, or name within a model.
        file: String,
        /// Size in bytes, where known.
        bytes: Option<u64>,
        /// Bytes an earlier attempt has left here.
        have: u64,
    },
    /// Bytes have arrived.
    Received {
        /// Which file.
        file: String,
        /// How many are here now; fewer than before when the file had to be started anew.
        have: u64,
    },
    /// An attempt failed, another one follows.
    Retrying {
        /// Which file.
        file: String,
        /// Why.
        why: String,
        /// When.
        pause: Duration,
    },
    /// The hub cannot be reached; what it served earlier is used.
    Cached {
        /// Why it cannot.
        why: String,
    },
    /// A file is whole, verified and visible.
    Finished {
        /// Which file.
        file: String,
        /// Its size in bytes.
        bytes: u64,
    },
}

/// What went wrong with a download. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No connection: refused, no such host, TLS, proxy.
    #[error("cannot connect: {0}")]
    Unreachable(String),
    /// The connection ended before the file did.
    #[error("the connection broke after {got} bytes: {cause}")]
    Broken {
        /// Bytes that are here.
        got: u64,
        /// The transport's words.
        cause: String,
    },
    /// Nothing arrived for too long.
    #[error("nothing arrived for {} s, after {got} bytes", limit.as_secs_f64())]
    Stalled {
        /// How long.
        limit: Duration,
        /// Bytes that are here.
        got: u64,
    },
    /// The server said no.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// The server's file has another size.
    #[error("the server has {got} bytes, but {expected} bytes are expected")]
    Size {
        /// As the manifest says.
        expected: u64,
        /// As received or announced.
        got: u64,
    },
    /// The server answered a request for a part with another part.
    #[error("the server sent another part of the file than asked for")]
    WrongPart,
    /// The content is not what the manifest means.
    #[error("{0}")]
    Differs(String),
}

impl Fault {
    /// What the user can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Fault::Status(StatusCode::NOT_FOUND | StatusCode::GONE) => {
                "the file is no longer there: name a mirror with --data-url, or copy the file into SWALLOW_EVAL_DATA"
            }
            Fault::Status(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED) => {
                "check HTTPS_PROXY and the address after --data-url"
            }
            Fault::Size { .. } | Fault::Differs(_) => {
                "the address does not serve the pinned file (a proxy's own page, a changed mirror): check --data-url and HTTPS_PROXY"
            }
            Fault::Unreachable(_) => {
                "check the network, HTTPS_PROXY and NO_PROXY; SWALLOW_EVAL_DATA names a directory that needs no network"
            }
            _ => "run the same command again: it goes on where this one stopped",
        }
    }
}

/// A file that is wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// What it is a file of, for messages: `data set 'niilc'`, `model org/name`.
    pub(super) of: String,
    pub(super) file: DataFile,
    /// Counts the records of a file that has no hash.
    pub(super) reader: Option<Reader>,
    pub(super) target: PathBuf,
    pub(super) token: Option<Token>,
}

/// Sent as `Authorization: Bearer ...`, to the host that is named and to no other. `Debug` shows nothing of it.
#[derive(Clone)]
pub(super) struct Token(HeaderValue);

impl Token {
    /// `None` when it holds characters that a header cannot, such as a line break.
    pub(super) fn new(text: &str) -> Option<Token> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", text.trim())).ok()?;
        value.set_sensitive(true);
        Some(Token(value))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

/// Where from, and how long to insist.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// Replaces scheme and host of every address: a mirror that serves the same paths.
    pub base_url: Option<String>,
    /// How long to insist.
    pub patience: Patience,
}

/// Only one process downloads into a cache at a time: the second finds the files of the first. Dropping it frees the cache.
#[derive(Debug)]
pub(super) struct CacheLock {
    _file: File,
}

impl CacheLock {
    /// Waits until the cache is free.
    ///
    /// # Errors
    /// [`DatasetError::Cache`].
    pub(super) fn take(cache: &Path, progress: &dyn Fn(Progress)) -> Result<CacheLock, DatasetError> {
        let path = cache.join(".lock");
        partial::make_parent(&path)?;
        let file = OpenOptions::new().append(true).create(true).open(&path).map_err(DatasetError::cache("open", &path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                progress(Progress::Waiting { cache: cache.to_owned() });
                file.lock().map_err(DatasetError::cache("lock", &path))?;
            }
            // A file system without locks: two downloads at once would be wasteful, and found out by the checksum.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        Ok(CacheLock { _file: file })
    }
}

/// Downloads all, or stops at the first that cannot be had; what has arrived of the others is kept for the next time.
///
/// # Errors
/// [`DatasetError::Download`], [`DatasetError::Cache`], [`DatasetError::Address`].
pub(super) fn all(wanted: Vec<Wanted>, source: &Source, _lock: &CacheLock, progress: &dyn Fn(Progress)) -> Result<(), DatasetError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let addressed = wanted.into_iter().map(|w| Ok((address(w.file.url.as_deref().unwrap_or_default(), source.base_url.as_deref())?, w)));
    let addressed = addressed.collect::<Result<Vec<(Url, Wanted)>, DatasetError>>()?;
    let client = build(client(addressed.iter().all(|(url, _)| is_loopback(url)), source.patience))?;
    runtime()?.block_on(async {
        let free = Arc::new(Semaphore::new(PARALLEL));
        let (events, mut received) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        for (url, wanted) in addressed {
            let download = Download { client: client.clone(), url, wanted, patience: source.patience, events: events.clone() };
            let free = Arc::clone(&free);
            tasks.spawn(async move {
                let _permit = free.acquire_owned().await.expect("the semaphore is never closed");
                download.run().await
            });
        }
        drop(events);
        let mut outcome = Ok(());
        loop {
            tokio::select! {
                biased;
                Some(event) = received.recv() => progress(event),
                Some(ended) = tasks.join_next() => {
                    // A task that was aborted after the first error has nothing to add.
                    let Ok(Err(error)) = ended else { continue };
                    if outcome.is_ok() {
                        outcome = Err(error);
                        tasks.abort_all();
                    }
                }
                else => return outcome,
            }
        }
    })
}

/// The address to ask: the pinned one, or its path at `base`.
fn address(pinned: &str, base: Option<&str>) -> Result<Url, DatasetError> {
    let parse = |text: &str| {
        let invalid = |cause: String| DatasetError::Address { address: without_user_info(text), cause };
        let url = Url::parse(text).map_err(|e| invalid(e.to_string()))?;
        match url.scheme() {
            "http" | "https" if url.has_host() => Ok(url),
            other => Err(invalid(format!("'{other}' is neither http nor https"))),
        }
    };
    let pinned = parse(pinned)?;
    let Some(base) = base else { return Ok(pinned) };
    let mut url = parse(base)?;
    let path = format!("{}{}", url.path().trim_end_matches('/'), pinned.path());
    url.set_path(&path);
    Ok(url)
}

/// Text without what stands before an `@`, whether or not it is a URL.
pub(super) fn without_user_info(text: &str) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        (None, Some((_, rest))) => rest.to_owned(),
        (_, None) => text.to_owned(),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn runtime() -> Result<Runtime, DatasetError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("fetch").enable_all().build();
    runtime.map_err(DatasetError::io("start threads for", Path::new("downloads")))
}

fn client(loopback: bool, patience: Patience) -> ClientBuilder {
    // An error means that another room of this process has installed it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder().connect_timeout(CONNECT_LIMIT).read_timeout(patience.stall);
    let builder = builder.user_agent(concat!("swallow-eval/", env!("CARGO_PKG_VERSION")));
    if loopback { builder.no_proxy() } else { builder }
}

fn build(builder: ClientBuilder) -> Result<Client, DatasetError> {
    builder.build().map_err(|e| DatasetError::Client { cause: cause(&e) })
}

/// The causes of an error, without the URL (which may hold a password).
fn cause(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(error.source(), |&e| e.source()).map(ToString::to_string);
    // Layers like to repeat the words of the layer below.
    let text = causes.fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        _ if text.contains(&cause) => text,
        _ => format!("{text}: {cause}"),
    });
    if text.is_empty() { "no details".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_replaces_scheme_and_host() {
        let pinned = "https://raw.example.com/a/v1/b.json";
        for (base, expected) in [
            (None, "https://raw.example.com/a/v1/b.json"),
            (Some("http://127.0.0.1:80/"), "http://127.0.0.1/a/v1/b.json"),
            (Some("https://mirror.example.com:8443/data/"), "https://mirror.example.com:8443/data/a/v1/b.json"),
            (Some("https://me:pw@mirror.example.com"), "https://me:pw@mirror.example.com/a/v1/b.json"),
        ] {
            assert_eq!(address(pinned, base).expect("valid").as_str(), expected);
        }
        for base in ["mirror", "ftp://me:hunter2@host/", "http://me:hunter2@", "me:hunter2@host", "file:///tmp"] {
            let error = address(pinned, Some(base)).expect_err(base);
            assert!(error.to_string().contains("is not a web address") && !error.to_string().contains("hunter2"), "{error}");
        }
    }
}
