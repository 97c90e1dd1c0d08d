//! The endpoint engine against a server that nobody here wrote: llama.cpp's own, on loopback, with a tiny model.
//! `scripts/real_server.sh` installs it and prints the variables that this test reads.

use crate::contract;
use crate::support::{generate, generated, request, serve_all};
use serde_json::Value;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use swallow_eval::engine::Engine;
use swallow_eval::engine::endpoint::{Choices, Effect, Endpoint, EndpointOptions, ModelName, Repeatable, Secret, ServerKind, StopText};

const KEY: &str = "sk-loopback";

/// A running llama-server; dropping it kills it.
struct LlamaServer {
    process: Child,
    port: u16,
}

impl LlamaServer {
    /// Starts it with four slots of 512 tokens, or says why it cannot.
    fn start() -> Result<Self, String> {
        let variable = |name: &str| std::env::var_os(name).ok_or_else(|| format!("{name} is not set (scripts/real_server.sh)"));
        let python = variable("SWALLOW_EVAL_LLAMA_SERVER_PYTHON")?;
        let script = variable("SWALLOW_EVAL_LLAMA_SERVER_SCRIPT")?;
        let gguf = variable("SWALLOW_EVAL_LLAMA_SERVER_GGUF")?;
        // The port is free now; that it stays so until the server binds it is likely, not certain.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).unwrap().port();
        let arguments = [&script, &gguf].map(OsString::from).into_iter().chain([port.to_string().into()]);
        let options = ["--slots", "4", "--ctx", "512", "--alias", "tiny-llama31", "--api-key", KEY];
        #[expect(clippy::disallowed_methods, reason = "the program that is tested against is a process")]
        let process = Command::new(python).args(arguments).args(options).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut server = LlamaServer { process, port };
        server.wait_until_ready();
        Ok(server)
    }

    fn wait_until_ready(&mut self) {
        let start = Instant::now();
        while !self.healthy() {
            assert!(self.process.try_wait().unwrap().is_none(), "llama-server ended before it was ready");
            assert!(start.elapsed() < Duration::from_secs(120), "llama-server is not ready after two minutes");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn healthy(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }
}

impl Drop for LlamaServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn connect(server: &LlamaServer) -> Endpoint {
    let options = EndpointOptions { api_key: Some(Secret::new(KEY)), ..EndpointOptions::new(vec![server.base_url()], "tiny-llama31") };
    Endpoint::connect(options).unwrap()
}

#[test]
#[expect(clippy::print_stdout, reason = "a skipped test says why")]
fn llama_server_is_an_engine_like_any_other() {
    let server = match LlamaServer::start() {
        Ok(server) => server,
        Err(why) => return println!("skipped: {why}"),
    };
    let without_key = Endpoint::connect(EndpointOptions::new(vec![server.base_url()], "tiny-llama31")).unwrap_err();
    assert!(without_key.message.contains("401"), "{}", without_key.message);

    let mut endpoint = connect(&server);
    let found = endpoint.capabilities();
    assert_eq!((found.kind, found.model_name, found.max_model_len), (ServerKind::LlamaServer, ModelName::Listed, Some(512)));
    assert_eq!((found.max_stops, found.stop_text), (33, StopText::Trimmed));
    assert_eq!((found.choices, found.max_choices, found.seeds), (Choices::SeedPlusIndex, 4, Effect::Seen));
    assert_eq!([found.top_p, found.top_k, found.repetition_penalty], [Effect::Seen; 3]);
    assert_eq!(found.greedy, Repeatable::Yes);
    println!("{}", serde_json::to_string(found).unwrap());

    contract::cases(&mut endpoint);
    match std::env::var_os("SWALLOW_EVAL_GOLDEN") {
        Some(golden) => greedy_goldens(&mut endpoint, &Path::new(&golden).join("models/tiny-llama31/golden/generate.jsonl")),
        None => println!("skipped: SWALLOW_EVAL_GOLDEN is not set, no golden texts"),
    }
}

/// The 20 texts that transformers generated greedily up to an end token.
#[expect(clippy::print_stdout, reason = "the count belongs into the log of the run")]
fn greedy_goldens(endpoint: &mut dyn Engine, file: &Path) {
    let rows = std::fs::read_to_string(file).unwrap();
    let rows: Vec<Value> = rows.lines().map(|l| serde_json::from_str(l).unwrap()).filter(|r: &Value| r["ignore_eos"] == false).collect();
    let ask = |row: &Value| generate(row["prompt"].as_str().unwrap(), row["max_new_tokens"].as_u64().unwrap().try_into().unwrap());
    let requests: Vec<_> = rows.iter().map(|row| request(ask(row))).collect();
    let outcomes = serve_all(endpoint, &requests);
    for (row, outcome) in rows.iter().zip(&outcomes) {
        assert_eq!(generated(outcome).text, row["text"].as_str().unwrap(), "{}", row["id"]);
    }
    assert_eq!(rows.len(), 20);
    println!("llama-server: {} of {} golden texts", outcomes.len(), rows.len());
}
