//! A real HTTP/1.1 server on loopback that can misbehave below HTTP: bodies that break off, lengths that lie.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What goes back.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// The `Content-Length`; without it the body ends with the connection.
    pub(crate) length: Option<usize>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        let body = body.into();
        Reply { status, headers: Vec::new(), length: Some(body.len()), body }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }

    /// A file as a good server sends it: honours `Range` and `If-Range`, has an ETag.
    pub(crate) fn file(asked: &Asked, content: &[u8], tag: &str) -> Reply {
        let tag = format!("\"{tag}\"");
        let start = asked.header("range").and_then(|r| r.strip_prefix("bytes=")?.split_once('-')?.0.parse::<usize>().ok());
        let same_copy = asked.header("if-range").is_none_or(|t| t == tag);
        match start {
            Some(start) if same_copy && start >= content.len() => {
                Reply::new(416, "").header("Content-Range", format!("bytes */{}", content.len()))
            }
            Some(start) if same_copy => {
                let end = asked.header("range").and_then(|r| r.split_once('-')?.1.parse::<usize>().ok());
                let end = end.map_or(content.len(), |e| (e + 1).min(content.len()));
                let range = format!("bytes {start}-{}/{}", end - 1, content.len());
                Reply::new(206, &content[start..end]).header("Content-Range", range).header("ETag", tag)
            }
            _ => Reply::new(200, content).header("ETag", tag),
        }
    }

    /// The same, but the connection breaks after `sent` bytes of the body.
    pub(crate) fn cut(mut self, sent: usize) -> Reply {
        self.body.truncate(sent);
        self
    }

    /// The same without a length: the body ends with the connection.
    pub(crate) fn unsized_body(mut self) -> Reply {
        self.length = None;
        self
    }
}

/// A running server; it ends when dropped.
pub(crate) struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers each request with what `answer` makes of it and of how many came before it.
    pub(crate) fn start(answer: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (answer, log, end) = (Arc::new(answer), Arc::clone(&asked), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                std::thread::spawn(move || serve(stream.unwrap(), &log, answer.as_ref()));
            }
        });
        Server { address, asked, ended, thread: Some(thread) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked, usize) -> Reply) {
    let Some(asked) = read(&stream) else { return };
    let before = {
        let mut log = log.lock().unwrap();
        log.push(asked.clone());
        log.len() - 1
    };
    let reply = answer(&asked, before);
    let mut head = format!("HTTP/1.1 {} Reply\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(length) = reply.length {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    // A client that has given up is no failure of the server.
    let mut out = &stream;
    let _ = out
        .write_all(format!("{head}\r\n").as_bytes())
        .and_then(|()| out.write_all(if asked.method == "HEAD" { b"" } else { &reply.body }));
    let _ = stream.shutdown(Shutdown::Write);
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let headers = lines.take_while(|line| !line.is_empty());
    let headers = headers.filter_map(|line| line.split_once(':').map(|(k, v)| (k.to_ascii_lowercase(), v.trim().to_owned()))).collect();
    Some(Asked { method, path, headers })
}
