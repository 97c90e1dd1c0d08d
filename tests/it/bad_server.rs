//! Servers that misbehave, through the built binary: one message that names the server and what came, the documented code, the journal kept,
//! and a run that goes on once the server is well.

use crate::support::{
    desk::Desk,
    faults::{Act, FaultServer},
    folder_of,
};
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

const KEY: &str = "sk-never-to-be-seen";

fn desk() -> Option<Desk> {
    let data = folder_of("SWALLOW_EVAL_DATA")?.canonicalize().unwrap();
    Some(Desk::new().env("SWALLOW_EVAL_DATA", data).env("OPENAI_API_KEY", KEY))
}

fn line(base_url: &str) -> String {
    format!("run --suite ja --tasks jemhopqa --limit 3 --quiet --model scripted --max-retries 0 --timeout 2 --base-url {base_url}")
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn assert_no_key(desk: &Desk, said: &str) {
    assert!(!said.contains(KEY), "{said}");
    for path in files(desk.folder.path()) {
        let content = fs::read(&path).unwrap();
        assert!(!content.windows(KEY.len()).any(|w| w == KEY.as_bytes()), "{} holds the key", path.display());
    }
}

#[test]
fn faults_in_the_middle_of_a_run_are_3_and_resumable() {
    let busy = r#"{"error": {"message": "rate limit reached"}}"#;
    let cases: [(&str, Act, &[&str]); 8] = [
        ("429", Act::Say(429, "", busy.into()), &["429", "rate limit reached"]),
        ("429 with Retry-After", Act::Say(429, "Retry-After: 0\r\n", busy.into()), &["429", "rate limit reached"]),
        ("500", Act::Say(500, "", "out of memory".into()), &["500", "out of memory"]),
        ("no JSON", Act::Say(200, "", "<html>hello</html>".into()), &["<html>"]),
        ("other JSON", Act::Say(200, "", r#"{"choices": []}"#.into()), &["no choices"]),
        ("half an answer", Act::Bytes("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{\"choices\"".into()), &[]),
        ("reset", Act::Close, &[]),
        ("hanging", Act::Hang, &["2"]),
    ];
    for (name, act, parts) in cases {
        let Some(desk) = desk() else { return };
        let well = Arc::new(AtomicBool::new(false));
        let now_well = Arc::clone(&well);
        // Probes are short; a prompt of the task holds its instruction.
        let server = FaultServer::start(move |asked| {
            let of_task = asked.body["prompt"].as_str().is_some_and(|p| p.contains("### 指示"));
            if of_task && !now_well.load(Ordering::SeqCst) { act.clone() } else { Act::Answer }
        });
        let said = desk.run(&line(&server.base_url));
        assert_eq!(said.code, 3, "{name}: {}", said.err);
        let told = format!("{}{}", said.out, said.err);
        for part in ["3 of 3 documents have no answer", "--resume", &server.base_url["http://".len()..]].iter().chain(parts) {
            assert!(told.contains(part), "{name}: {part:?} is not in {told}");
        }
        assert_no_key(&desk, &told);
        let run = fs::read_dir(desk.folder.path().join("results/runs")).unwrap().next().unwrap().unwrap().path();
        assert_eq!(fs::read_to_string(run.join("responses.jsonl")).unwrap().lines().count(), 3, "{name}: failures are recorded");
        well.store(true, Ordering::SeqCst);
        let resumed = desk.run(&format!("run --quiet --resume {}", run.display()));
        assert_eq!(resumed.code, 0, "{name}: {}", resumed.err);
        assert_no_key(&desk, &resumed.out);
    }
}

#[test]
fn servers_that_cannot_be_used_are_5_before_anything_is_asked() {
    let Some(desk) = desk() else { return };
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = desk.run(&line(&format!("http://{closed}/v1")));
    refused.fails(5, &[&closed.to_string(), "hint: is the server running"]);
    for (act, parts) in [
        (Act::Say(500, "", "broken".into()), &["500", "hint: "][..]),
        (Act::Say(401, "", r#"{"error": "bad key"}"#.into()), &["401", "OPENAI_API_KEY"]),
        (Act::Say(200, "", "<html>".into()), &["<html>", "hint: "]),
        (Act::Hang, &["2", "hint: "]),
    ] {
        let server = FaultServer::start(move |_| act.clone());
        let said = desk.run(&line(&server.base_url));
        said.fails(5, parts);
        assert_no_key(&desk, &said.err);
    }
    let runs = desk.folder.path().join("results/runs");
    assert!(!runs.exists() || fs::read_dir(runs).unwrap().count() == 0, "no run is left behind");
}
