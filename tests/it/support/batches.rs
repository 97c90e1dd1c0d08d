//! A judge on loopback with files, batches and single calls, that errs as told.

use super::faults::{Act, Asked, FaultServer};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// What becomes of one request of a batch.
pub(crate) enum Line {
    /// What the judge says to it, as to a single call.
    Answer,
    /// A status and a body.
    Status(u16, Value),
    /// No response, an error of the batch.
    Error(&'static str, &'static str),
    /// No line.
    Missing,
    /// The answer, and another one after it.
    Twice,
    /// The answer, and a line of a request that nobody asked.
    Stranger,
}

/// Trouble with one HTTP request.
pub(crate) enum Trouble {
    None,
    /// This instead of the deed.
    Instead(Act),
    /// The deed, then this instead of its answer.
    Afterwards(Act),
}

/// How the server behaves. Batches, lines, looks and calls of a route are counted from 0.
pub(crate) struct Script {
    pub(crate) line: Box<dyn FnMut(usize, usize) -> Line + Send>,
    /// Status of a batch at its next look.
    pub(crate) status: Box<dyn FnMut(usize, usize) -> &'static str + Send>,
    /// Route as `POST /v1/files`, without the id of a batch or file.
    pub(crate) trouble: Box<dyn FnMut(&str, usize) -> Trouble + Send>,
}

impl Default for Script {
    fn default() -> Self {
        Script { line: Box::new(|_, _| Line::Answer), status: Box::new(|_, _| "completed"), trouble: Box::new(|_, _| Trouble::None) }
    }
}

/// What happened, and what the server holds.
#[derive(Default)]
pub(crate) struct Held {
    /// Routes as they were called.
    pub(crate) routes: Vec<String>,
    /// Uploaded files: id, name, lines.
    pub(crate) files: Vec<(String, String, Vec<Value>)>,
    /// Batch objects.
    pub(crate) batches: Vec<Value>,
    looks: BTreeMap<String, usize>,
    results: BTreeMap<String, String>,
}

impl Held {
    pub(crate) fn calls(&self, route: &str) -> usize {
        self.routes.iter().filter(|r| *r == route).count()
    }

    /// Other programs of the same account have uploaded files and made batches since.
    pub(crate) fn crowd(&mut self) {
        for n in 0..5 {
            self.batches.push(json!({"id": format!("batch_other_{n}"), "input_file_id": "file-x", "metadata": null}));
            self.files.push((format!("file-other-{n}"), "other.jsonl".to_owned(), vec![]));
        }
    }

    /// Uploads and batches of this program.
    pub(crate) fn ours(&self) -> (usize, usize) {
        let files = self.files.iter().filter(|(_, name, _)| name.starts_with("swallow-eval-"));
        (files.count(), self.batches.iter().filter(|b| !b["metadata"].is_null()).count())
    }

    /// Ids asked in the batches, in the order of their files.
    pub(crate) fn asked(&self) -> Vec<Vec<String>> {
        let ids = |lines: &[Value]| lines.iter().map(|l| l["custom_id"].as_str().unwrap().to_owned()).collect();
        self.files.iter().map(|(.., lines)| ids(lines)).collect()
    }
}

/// The running judge.
pub(crate) struct BatchJudge {
    pub(crate) url: String,
    held: Arc<Mutex<Held>>,
    script: Arc<Mutex<Script>>,
    _server: FaultServer,
}

impl BatchJudge {
    pub(crate) fn start(script: Script) -> Self {
        let (held, script) = (Arc::new(Mutex::new(Held::default())), Arc::new(Mutex::new(script)));
        let (shared, rules) = (Arc::clone(&held), Arc::clone(&script));
        let server = FaultServer::scripted(move |asked| {
            let (mut held, mut script) = (shared.lock().unwrap(), rules.lock().unwrap());
            let route = route(asked);
            let nth = held.calls(&route);
            held.routes.push(route.clone());
            match (script.trouble)(&route, nth) {
                Trouble::None => answer(&mut held, &mut script, &route, asked),
                Trouble::Instead(act) => act,
                Trouble::Afterwards(act) => {
                    answer(&mut held, &mut script, &route, asked);
                    act
                }
            }
        });
        BatchJudge { url: server.base_url.clone(), held, script, _server: server }
    }

    pub(crate) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap()
    }

    /// Another behaviour from now on.
    pub(crate) fn behave(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }
}

/// `GET /v1/files/*/content`
fn route(asked: &Asked) -> String {
    let path = asked.path.split('?').next().unwrap();
    let parts: Vec<&str> = path.split('/').map(|p| if p.starts_with("file-") || p.starts_with("batch_") { "*" } else { p }).collect();
    format!("{} {}", asked.method, parts.join("/"))
}

fn say(body: &Value) -> Act {
    Act::Say(200, "", body.to_string())
}

/// The words of the judge for one body: a rating from 1 to 9 by a rule over the conversation.
fn words(body: &Value) -> Value {
    let text = body["messages"][1]["content"].as_str().unwrap_or_default();
    let rating = text.bytes().map(u32::from).sum::<u32>() % 9 + 1;
    let message = json!({"role": "assistant", "content": format!("説明です。\n\nRating: [[{rating}]]")});
    let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
    json!({"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 10}})
}

fn answer(held: &mut Held, script: &mut Script, route: &str, asked: &Asked) -> Act {
    let named = asked.path.split(['/', '?']).find(|p| p.starts_with("file-") || p.starts_with("batch_")).unwrap_or_default();
    match route {
        "POST /v1/chat/completions" => say(&words(&asked.body)),
        "POST /v1/files" => upload(held, asked),
        "POST /v1/batches" => create(held, &asked.body),
        "GET /v1/files" => {
            let files: Vec<Value> =
                held.files.iter().map(|(id, name, _)| json!({"id": id, "filename": name, "purpose": "batch"})).collect();
            say(&page(&files, &asked.path))
        }
        "GET /v1/batches" => say(&page(&held.batches, &asked.path)),
        "GET /v1/batches/*" => match held.batches.iter().position(|b| b["id"] == named) {
            Some(at) => say(&look(held, script, at)),
            None => Act::Say(404, "", json!({"error": {"message": format!("No batch found with id '{named}'.")}}).to_string()),
        },
        "GET /v1/files/*/content" => Act::Say(200, "", held.results[named].clone()),
        _ => Act::Say(404, "", json!({"error": {"message": "no such route"}}).to_string()),
    }
}

/// Two at a time, the newest first.
fn page(all: &[Value], path: &str) -> Value {
    let newest: Vec<&Value> = all.iter().rev().collect();
    let after = path.split(['?', '&']).find_map(|p| p.strip_prefix("after="));
    let start = after.map_or(0, |id| newest.iter().position(|i| i["id"] == id).unwrap() + 1);
    let data: Vec<&Value> = newest.iter().skip(start).take(2).copied().collect();
    json!({"object": "list", "data": data, "has_more": start + 2 < newest.len()})
}

/// The parts of a form: what their headers say, and their content.
fn form(asked: &Asked) -> Vec<(String, String)> {
    let head = asked.head.to_ascii_lowercase();
    let at = head.find("boundary=").expect("a form") + "boundary=".len();
    let boundary = format!("--{}", asked.head[at..].lines().next().unwrap().trim());
    let body = std::str::from_utf8(&asked.bytes).unwrap();
    let parts = body.split(boundary.as_str()).filter_map(|part| part.trim_start_matches("\r\n").split_once("\r\n\r\n"));
    parts.map(|(head, content)| (head.to_owned(), content.strip_suffix("\r\n").unwrap().to_owned())).collect()
}

fn upload(held: &mut Held, asked: &Asked) -> Act {
    let form = form(asked);
    let part = |name: &str| form.iter().find(|(head, _)| head.contains(&format!("name=\"{name}\""))).unwrap();
    assert_eq!(part("purpose").1, "batch");
    let (head, content) = part("file");
    let name = head.split("filename=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let id = format!("file-{}", held.files.len());
    held.files.push((id.clone(), name.clone(), content.lines().map(|l| serde_json::from_str(l).unwrap()).collect()));
    say(&json!({"id": id, "object": "file", "filename": name, "purpose": "batch", "status": "processed"}))
}

fn create(held: &mut Held, body: &Value) -> Act {
    assert_eq!((&body["endpoint"], &body["completion_window"]), (&json!("/v1/chat/completions"), &json!("24h")));
    let batch = json!({
        "id": format!("batch_{}", held.batches.len()), "object": "batch", "endpoint": body["endpoint"],
        "input_file_id": body["input_file_id"], "status": "validating", "metadata": body["metadata"],
        "output_file_id": null, "error_file_id": null, "request_counts": {"total": 0, "completed": 0, "failed": 0}
    });
    held.batches.push(batch.clone());
    say(&batch)
}

fn look(held: &mut Held, script: &mut Script, at: usize) -> Value {
    let looks = held.looks.entry(held.batches[at]["id"].to_string()).or_default();
    let status = (script.status)(at, *looks);
    *looks += 1;
    held.batches[at]["status"] = json!(status);
    if status == "failed" {
        let error = json!({"code": "invalid_json_line", "message": "This line is not parseable.", "line": 7});
        held.batches[at]["errors"] = json!({"object": "list", "data": [error]});
    }
    let ended = ["completed", "expired", "cancelled"].contains(&status);
    if ended && held.batches[at]["output_file_id"].is_null() {
        let (answers, errors) = results(held, script, at);
        for (field, lines) in [("output", answers), ("error", errors)] {
            if !lines.is_empty() {
                let id = format!("file-{field}-{at}");
                held.batches[at][format!("{field}_file_id")] = json!(id);
                held.results.insert(id, lines.concat());
            }
        }
    }
    held.batches[at].clone()
}

/// Lines of both files, in no order of the requests.
fn results(held: &Held, script: &mut Script, at: usize) -> (Vec<String>, Vec<String>) {
    let input = &held.batches[at]["input_file_id"];
    let (.., requests) = held.files.iter().find(|(id, ..)| input == id).unwrap();
    let (mut answers, mut errors) = (Vec::new(), Vec::new());
    for (nth, request) in requests.iter().enumerate() {
        assert_eq!((&request["method"], &request["url"]), (&json!("POST"), &json!("/v1/chat/completions")));
        let line = |id: &Value, status: u16, body: Value| {
            let response = json!({"status_code": status, "request_id": "r", "body": body});
            format!("{}\n", json!({"id": "batch_req", "custom_id": id, "response": response, "error": null}))
        };
        let id = &request["custom_id"];
        let said = line(id, 200, words(&request["body"]));
        match (script.line)(at, nth) {
            Line::Answer => answers.push(said),
            Line::Status(200, body) => answers.push(line(id, 200, body)),
            Line::Status(status, body) => errors.push(line(id, status, body)),
            Line::Error(code, message) => {
                let error = json!({"code": code, "message": message});
                errors.push(format!("{}\n", json!({"id": "batch_req", "custom_id": id, "response": null, "error": error})));
            }
            Line::Missing => {}
            Line::Twice => {
                let message = json!({"role": "assistant", "content": "Rating: [[10]]"});
                answers.extend([said, line(id, 200, json!({"choices": [{"index": 0, "message": message}]}))]);
            }
            Line::Stranger => answers.extend([line(&json!("0123456789abcdef"), 200, words(&Value::Null)), said]),
        }
    }
    // A doubled line must stay behind its first.
    let third = answers.len() / 3;
    answers.rotate_left(third);
    errors.reverse();
    (answers, errors)
}
