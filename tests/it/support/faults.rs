//! A server that misbehaves as told. Plain sockets, because a proper HTTP library does not send half an answer.

use super::openai::{self, Rules};
use super::scripted::Scripted;
use super::serve_all;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What to do with one request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Answer as the scripted model does.
    Answer,
    /// Status, extra header lines, body.
    Say(u16, &'static str, String),
    /// These bytes, then the end of the connection.
    Bytes(String),
    /// Close without a word.
    Close,
    /// Reset the connection.
    Reset,
    /// Say nothing until the client goes away.
    Hang,
}

/// A request as it arrived.
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    /// The body as it came.
    pub(crate) bytes: Vec<u8>,
    /// Null where there was none.
    pub(crate) body: Value,
    /// Header lines.
    pub(crate) head: String,
}

impl Asked {
    /// Whether this is a completion of that prompt.
    pub(crate) fn prompts(&self, prompt: &str) -> bool {
        self.body.get("prompt").and_then(Value::as_str) == Some(prompt)
    }
}

/// Which requests the script is asked about.
#[derive(Clone, Copy, PartialEq)]
enum Asks {
    Completions,
    Everything,
}

type Script = dyn FnMut(&Asked) -> Act + Send;

/// A running server; dropping it closes the port.
pub(crate) struct FaultServer {
    pub(crate) base_url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    ended: Arc<AtomicBool>,
}

impl FaultServer {
    /// Starts a server that does what `script` says to each completion request, and lists the model `scripted`.
    pub(crate) fn start(script: impl FnMut(&Asked) -> Act + Send + 'static) -> Self {
        Self::with_rules(Rules::new("scripted"), script)
    }

    /// Starts a server that does what `script` says to every request.
    pub(crate) fn scripted(script: impl FnMut(&Asked) -> Act + Send + 'static) -> Self {
        Self::begin(Rules::new("scripted"), Asks::Everything, script)
    }

    /// The same with other limits.
    pub(crate) fn with_rules(rules: Rules, script: impl FnMut(&Asked) -> Act + Send + 'static) -> Self {
        Self::begin(rules, Asks::Completions, script)
    }

    fn begin(rules: Rules, asks: Asks, script: impl FnMut(&Asked) -> Act + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (asked, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(script));
        let server = FaultServer { base_url, asked: Arc::clone(&asked), ended: Arc::clone(&ended) };
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                let (script, asked, rules, ended) = (Arc::clone(&script), Arc::clone(&asked), rules.clone(), Arc::clone(&ended));
                // An error here is the client's going away.
                std::thread::spawn(move || drop(connection(stream, &script, asks, &asked, &rules, &ended)));
            }
        });
        server
    }

    /// Ends the server: no further connection, no further answer on those that are open.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then drops the listener.
        drop(TcpStream::connect(self.base_url.trim_start_matches("http://").trim_end_matches("/v1")));
    }

    /// Completion bodies of that prompt seen so far.
    pub(crate) fn bodies(&self, prompt: &str) -> Vec<Value> {
        self.asked.lock().unwrap().iter().filter(|a| a.prompts(prompt)).map(|a| a.body.clone()).collect()
    }

    /// Header lines of every request so far.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|a| a.head.clone()).collect()
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.end();
    }
}

fn connection(
    mut stream: TcpStream,
    script: &Mutex<Script>,
    asks: Asks,
    log: &Mutex<Vec<Asked>>,
    rules: &Rules,
    ended: &AtomicBool,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(asked) = read_request(&mut reader)? {
        if ended.load(Ordering::SeqCst) {
            return Ok(());
        }
        let route = asked.path.split('?').next().unwrap_or_default();
        let theirs = asks == Asks::Everything || route.ends_with("/completions") || route.ends_with("/generate");
        let act = if theirs { (script.lock().unwrap())(&asked) } else { Act::Answer };
        let (path, body) = (asked.path.clone(), asked.body.clone());
        log.lock().unwrap().push(asked);
        match act {
            Act::Answer => {
                let (status, answer) = answer(&path, &body, rules);
                say(&mut stream, status, "", &answer.to_string())?;
            }
            Act::Say(status, headers, body) => say(&mut stream, status, headers, &body)?,
            Act::Bytes(bytes) => return stream.write_all(bytes.as_bytes()),
            Act::Close => return Ok(()),
            Act::Reset => return reset(stream),
            Act::Hang => {
                let _ = reader.read(&mut [0])?;
                return Ok(());
            }
        }
    }
    Ok(())
}

/// With nothing left to send for the kernel to wait for, the end of the last handle is a reset.
fn reset(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async { tokio::net::TcpStream::from_std(stream)?.set_zero_linger() })
}

fn say(stream: &mut TcpStream, status: u16, headers: &str, body: &str) -> std::io::Result<()> {
    let length = body.len();
    let text = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
    stream.write_all(text.as_bytes())
}

fn read_request(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Asked>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut head = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head += &line;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    Ok(Some(Asked { method, path, body: serde_json::from_slice(&body).unwrap_or_default(), bytes: body, head }))
}

/// What the well-behaved server would say.
pub(crate) fn answer(path: &str, body: &Value, rules: &Rules) -> (u16, Value) {
    match path {
        "/v1/models" => (200, openai::models_body(rules)),
        "/v1/completions" => match openai::requests_of(body, rules) {
            Ok(requests) => openai::answer_of(&serve_all(&mut Scripted::new(), &requests), rules),
            Err(refused) => refused,
        },
        _ => (404, serde_json::json!({"detail": "Not Found"})),
    }
}
