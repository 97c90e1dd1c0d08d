//! The endpoint engine against a server that nobody here wrote: llama.cpp's own, on loopback, with a tiny model.
//! `scripts/real_server.sh` installs it and prints the variables that this test reads.

use crate::contract;
use crate::support::desk::Desk;
use crate::support::{folder_of, generate, generated, request, serve_all};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
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

/// What `scripts/real_server.sh` installed.
struct Installed {
    python: OsString,
    /// Starts the server; the script that makes GGUF files lies beside it.
    script: PathBuf,
    gguf: PathBuf,
}

impl Installed {
    /// Or says what is missing.
    fn find() -> Result<Self, String> {
        let variable = |name: &str| std::env::var_os(name).ok_or_else(|| format!("{name} is not set (scripts/real_server.sh)"));
        Ok(Installed {
            python: variable("SWALLOW_EVAL_LLAMA_SERVER_PYTHON")?,
            script: variable("SWALLOW_EVAL_LLAMA_SERVER_SCRIPT")?.into(),
            gguf: variable("SWALLOW_EVAL_LLAMA_SERVER_GGUF")?.into(),
        })
    }

    /// Makes a GGUF file of a model directory.
    fn convert(&self, model: &Path, gguf: &Path) {
        let script = self.script.with_file_name("make_gguf.py");
        #[expect(clippy::disallowed_methods, reason = "the converter belongs to the server that is tested against")]
        let made = Command::new(&self.python).arg(script).arg(model).arg(gguf).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
}

impl LlamaServer {
    /// Starts it with four slots of so many tokens.
    fn start(installed: &Installed, gguf: &Path, slot: u32) -> Self {
        // The port is free now; that it stays so until the server binds it is likely, not certain.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).unwrap().port();
        let arguments = [installed.script.as_os_str(), gguf.as_os_str()].map(OsString::from);
        let options = ["--slots", "4", "--alias", "tiny-llama31", "--api-key", KEY].map(OsString::from);
        let numbers = [port.to_string(), "--ctx".to_owned(), slot.to_string()].map(OsString::from);
        #[expect(clippy::disallowed_methods, reason = "the program that is tested against is a process")]
        let mut command = Command::new(&installed.python);
        let process = command.args(arguments).args(numbers).args(options).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut server = LlamaServer { process, port };
        server.wait_until_ready();
        server
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
    let installed = match Installed::find() {
        Ok(installed) => installed,
        Err(why) => return println!("skipped: {why}"),
    };
    let server = LlamaServer::start(&installed, &installed.gguf, 512);
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

/// The tiny model with room for real prompts: llama-server takes no prompt beyond the length that the model names. The angles of its
/// positions depend on `rope_scaling` alone, which stays as it is.
fn long_model(golden: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(golden.join("models/tiny-llama31")).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()) {
        fs::write(to.join(file.file_name().unwrap()), fs::read(&file).unwrap()).unwrap();
    }
    let config = to.join("config.json");
    let mut longer: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    longer["max_position_embeddings"] = json!(4096);
    fs::write(config, longer.to_string()).unwrap();
}

/// The only run below an output folder: its samples by task and document, and its journal by request.
fn recorded(desk: &Desk, output: &str) -> (BTreeMap<(String, String), Value>, BTreeMap<String, Value>) {
    let runs: Vec<_> = fs::read_dir(desk.folder.path().join(output).join("runs")).unwrap().map(|e| e.unwrap().path()).collect();
    let [run] = &runs[..] else { panic!("{runs:?}") };
    let rows = |name: &str| -> Vec<Value> {
        fs::read_to_string(run.join(name)).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let samples = rows("samples.jsonl").into_iter().map(|s| ((text(&s["task"]), text(&s["doc_id"])), s));
    let journal = rows("responses.jsonl").into_iter().map(|r| (text(&r["id"]), r));
    (samples.collect(), journal.collect())
}

/// Why the server may answer a document otherwise, as seen in what this process computed for it.
fn excuse(own: &Value) -> Option<&'static str> {
    // generation_config.json's list without the tokenizer's own end token, the only one at which the protocol ends.
    const FOREIGN_END: [u64; 2] = [901, 908];
    let ids = own["token_ids"].as_array().unwrap();
    if ids.iter().any(|id| FOREIGN_END.contains(&id.as_u64().unwrap())) {
        return Some("the server ends at another end token");
    }
    own["notes"].as_array().is_some_and(|notes| notes.contains(&json!("near_tie"))).then_some("two tokens are equally likely")
}

/// Whether two samples are the same answer with the same scores.
fn alike(a: &Value, b: &Value) -> bool {
    ["response", "answer", "reference", "scores", "failure"].iter().all(|field| a[*field] == b[*field])
}

/// Both runs over real data, compared.
struct Comparison<'t> {
    desk: Desk,
    installed: &'t Installed,
    gguf: PathBuf,
}

impl Comparison<'_> {
    fn run(&self, engine: &str, output: &str) {
        let said = self.desk.run(&format!("run --suite ja --quiet {engine} --output {output}"));
        assert_eq!(said.code, 0, "{}", said.err);
    }

    /// Runs over a server that has just been started: its log-probabilities move by up to 6e-3 with what it computed before and with what
    /// it computes beside (prompt cache, width of a batch), so that a second server is a second opinion.
    fn serve(&self, what: &str, output: &str) {
        let server = LlamaServer::start(self.installed, &self.gguf, 4096);
        self.run(&format!("{what} --base-url {} --model tiny-llama31", server.base_url()), output);
    }

    /// Those of `documents` whose answer alone, on a fresh server, is still not this process's.
    fn unlike_alone(&self, own: &BTreeMap<(String, String), Value>, documents: Vec<(String, String)>) -> Vec<String> {
        let mut samples: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        documents.iter().for_each(|(task, id)| samples.entry(task).or_default().push(id.parse().unwrap()));
        let tasks = samples.keys().copied().collect::<Vec<_>>().join(",");
        self.serve(&format!("--tasks {tasks} --samples {} --max-connections 1", json!(samples)), "alone");
        let (alone, _) = recorded(&self.desk, "alone");
        let unlike = documents.into_iter().filter(|document| !alike(&own[document], &alone[document]));
        unlike.map(|d| format!("{d:?}: {} here, {} there", own[&d]["response"], alone[&d]["response"])).collect()
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "what is skipped and what is excused belongs into the log of the run")]
fn real_data_has_the_same_answers_in_process_and_over_llama_server() {
    let installed = match Installed::find() {
        Ok(installed) => installed,
        Err(why) => return println!("skipped: {why}"),
    };
    let (Some(golden), Some(data)) = (folder_of("SWALLOW_EVAL_GOLDEN"), folder_of("SWALLOW_EVAL_DATA")) else { return };
    let desk = Desk::new().env("SWALLOW_EVAL_DATA", data.canonicalize().unwrap()).env("OPENAI_API_KEY", KEY);
    let (model, gguf) = (desk.folder.path().join("model"), desk.folder.path().join("model.gguf"));
    long_model(&golden, &model);
    installed.convert(&model, &gguf);
    let both = Comparison { desk, installed: &installed, gguf };
    let what = "--tasks jcommonsenseqa,jemhopqa,niilc,jmmlu --limit 24";
    both.run(&format!("{what} --model model"), "own");
    both.serve(what, "served");

    let ((own, journal), (served, _)) = (recorded(&both.desk, "own"), recorded(&both.desk, "served"));
    assert_eq!((own.len(), own.keys().collect::<Vec<_>>()), (96, served.keys().collect::<Vec<_>>()));
    let mut excused: BTreeMap<&str, usize> = BTreeMap::new();
    let mut open = Vec::new();
    for (document, sample) in own.iter().filter(|(document, sample)| !alike(sample, &served[*document])) {
        match excuse(&journal[sample["request"].as_str().unwrap()]) {
            Some(why) => *excused.entry(why).or_default() += 1,
            None => open.push(document.clone()),
        }
    }
    if !open.is_empty() {
        excused.insert("the server contradicts itself: alone it gives the same answer", open.len());
        let unlike = both.unlike_alone(&own, open);
        assert!(unlike.is_empty(), "{unlike:#?}");
    }
    println!("llama-server: {} of 96 answers over real data are equal; excused: {excused:?}", 96 - excused.values().sum::<usize>());
}
