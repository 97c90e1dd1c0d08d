//! Whole runs of the built binary against servers that are busy, broken, silent or gone: one message with the URL, what came and what to
//! do; the documented exit code; the journal kept, and `--resume` ends where an untroubled run ends.

use crate::support::{
    desk::{Desk, Said},
    faults::{Act, Asked, FaultServer},
    folder_of,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

const KEY: &str = "sk-loopback-secret";
const DOCUMENTS: usize = 6;

/// What a bad server does, and what the message must say of it. Every body that can carries the key, as careless servers do.
fn wrongs() -> Vec<(Act, &'static str)> {
    let say = |status, headers, body: &str| Act::Say(status, headers, body.to_owned());
    let error = format!(r#"{{"error":{{"message":"not for {KEY}"}}}}"#);
    vec![
        (say(429, "", &error), "429 Too Many Requests: not for ***"),
        (say(429, "Retry-After: 0.01\r\n", &error), "429 Too Many Requests: not for ***"),
        (say(500, "", &error), "500 Internal Server Error: not for ***"),
        (say(200, "", &format!("<html>{KEY}</html>")), "unusable answer: expected value at line 1 column 1 in `<html>***</html>`"),
        (say(200, "", r#"{"answer": 42}"#), "unusable answer: no choices in `{\"answer\": 42}`"),
        (say(200, "", r#"{"choices": [{"text": 7}]}"#), "unusable answer: invalid type"),
        (Act::Bytes("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{\"choices\"".into()), "the connection broke"),
        (Act::Hang, "no whole answer within 1 s"),
        (Act::Close, "the connection broke"),
    ]
}

/// A desk with the real data and a key, or `None` after saying what is missing.
fn desk() -> Option<Desk> {
    let data = folder_of("SWALLOW_EVAL_DATA")?;
    Some(Desk::new().env("SWALLOW_EVAL_DATA", data.canonicalize().unwrap()).env("OPENAI_API_KEY", KEY))
}

/// A run of six documents that waits a second for an answer and asks once.
fn line(base_url: &str, output: &str) -> String {
    let tasks = format!("--suite ja --tasks jemhopqa --limit {DOCUMENTS} --quiet --output {output}");
    format!("run {tasks} --base-url {base_url} --model scripted --timeout 1 --max-retries 0 --max-connections 1")
}

/// Whether this asks for a document of the run: the probe's own prompts are in English.
fn document(asked: &Asked) -> bool {
    asked.body["prompt"].as_str().is_some_and(|prompt| !prompt.is_ascii())
}

fn runs(desk: &Desk, output: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(desk.folder.path().join(output).join("runs")).map(|d| d.flatten().collect::<Vec<_>>());
    entries.unwrap_or_default().into_iter().map(|e| e.path()).filter(|p| p.is_dir()).collect()
}

fn only_run(desk: &Desk, output: &str) -> PathBuf {
    let runs = runs(desk, output);
    assert_eq!(runs.len(), 1, "{runs:?}");
    runs.into_iter().next().unwrap()
}

fn answers(run: &Path) -> usize {
    fs::read_to_string(run.join("responses.jsonl")).unwrap().lines().filter(|l| l.contains("\"output\"")).count()
}

/// What the message must hold, and that nobody shows the key.
fn check(desk: &Desk, said: &Said, code: i32, parts: &[&str]) {
    assert_eq!(said.code, code, "{} {}", said.out, said.err);
    for part in parts {
        assert!(said.err.contains(part), "{part:?} is not in: {}", said.err);
    }
    assert!(!said.err.contains("panicked"), "{}", said.err);
    desk.never_shows(KEY, &[said]);
}

/// Goes on with a run whose server is well again, and compares with a run that never met trouble.
fn resumes(desk: &Desk, run: &Path, base_url: &str) {
    let said = desk.run(&format!("run --quiet --resume {}", run.display()));
    assert_eq!(said.code, 0, "{}", said.err);
    if runs(desk, "untroubled").is_empty() {
        assert_eq!(desk.run(&line(base_url, "untroubled")).code, 0);
    }
    let untroubled = only_run(desk, "untroubled");
    for name in ["samples.jsonl", "scores.json", "requests.jsonl"] {
        assert_eq!(fs::read(run.join(name)).unwrap(), fs::read(untroubled.join(name)).unwrap(), "{name}");
    }
    assert_eq!(answers(run), DOCUMENTS);
}

#[test]
fn a_server_bad_from_the_start_is_5_and_leaves_no_run_behind() {
    let Some(desk) = desk() else { return };
    for (act, part) in wrongs() {
        let server = FaultServer::start(move |_| act.clone());
        let said = desk.run(&line(&server.base_url, "bad"));
        check(&desk, &said, 5, &[&server.base_url, part, "hint: "]);
        assert_eq!((said.out.as_str(), runs(&desk, "bad").len()), ("", 0), "{part}");
    }
    let server = FaultServer::start(|_| Act::Say(401, "", format!(r#"{{"error":"unknown key {KEY}"}}"#)));
    check(&desk, &desk.run(&line(&server.base_url, "bad")), 5, &["401 Unauthorized: unknown key ***", "OPENAI_API_KEY"]);
    let server = FaultServer::start(|_| Act::Answer);
    server.end();
    let said = desk.run(&line(&server.base_url, "bad"));
    check(&desk, &said, 5, &[&server.base_url, "cannot connect", "refused", "hint: is the server running"]);
}

#[test]
fn documents_without_an_answer_are_3_and_are_asked_again() {
    let Some(desk) = desk() else { return };
    for (at, (act, part)) in wrongs().into_iter().enumerate() {
        let well = Arc::new(AtomicBool::new(false));
        let healed = Arc::clone(&well);
        let server =
            FaultServer::start(move |asked| if document(asked) && !healed.load(Ordering::SeqCst) { act.clone() } else { Act::Answer });
        let output = format!("bad{at}");
        let said = desk.run(&line(&server.base_url, &output));
        let told = format!("{DOCUMENTS} of {DOCUMENTS} documents have no answer");
        check(&desk, &said, 3, &[&told, &server.base_url, part, "hint: ask them again with: swallow-eval run --resume"]);
        assert!(said.out.contains("failed"), "{}", said.out);
        let run = only_run(&desk, &output);
        assert_eq!(answers(&run), 0, "{part}");
        let allowed = desk.run(&format!("{} --resume {} --max-failures 6", line(&server.base_url, &output), run.display()));
        check(&desk, &allowed, 0, &[&told]);
        well.store(true, Ordering::SeqCst);
        resumes(&desk, &run, &server.base_url);
    }
}

#[test]
fn a_server_that_dies_in_the_run_is_5_and_nothing_answered_is_lost() {
    let Some(desk) = desk() else { return };
    // A busy server is not dead: it is in the table of the test above.
    for (at, (act, part)) in wrongs().into_iter().enumerate().filter(|(_, (_, part))| !part.starts_with("429")) {
        let (well, count) = (Arc::new(AtomicBool::new(false)), AtomicUsize::new(0));
        let healed = Arc::clone(&well);
        let server = FaultServer::start(move |asked| {
            let asked_before = if document(asked) { count.fetch_add(1, Ordering::SeqCst) } else { count.load(Ordering::SeqCst) };
            if asked_before >= 3 && !healed.load(Ordering::SeqCst) { act.clone() } else { Act::Answer }
        });
        let output = format!("dead{at}");
        let said = desk.run(&line(&server.base_url, &output));
        check(&desk, &said, 5, &["no server answers any more", &server.base_url, part, "--resume"]);
        let run = only_run(&desk, &output);
        assert_eq!(answers(&run), 3, "{part}");
        well.store(true, Ordering::SeqCst);
        resumes(&desk, &run, &server.base_url);
    }
}
