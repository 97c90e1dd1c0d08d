//! `--judge-batch` through the built binary, against a judge on loopback with files and batches: the same table as one by one, every fault of
//! a line, a batch and the wire, and a process that ends at every bad moment.

use crate::support::batches::{BatchJudge, Line, Script, Trouble};
use crate::support::desk::{Desk, Said};
use crate::support::faults::Act;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

const BENCH: &str = "run --suite mt-bench --demo --quiet --gen-kwargs max_gen_toks=6";
const KEY: &str = "sk-very-secret";
const PRICES: &str = "[judge-x]\ninput = 1000.0\noutput = 1000.0\nsource = \"a list\"\ndate = \"2026-01-01\"\n";

/// A run with answers and no judgement, made once.
static ANSWERED: LazyLock<Desk> = LazyLock::new(|| {
    let desk = Desk::new();
    let said = desk.run(&format!("{BENCH} --predict-only"));
    assert_eq!(said.code, 0, "{}", said.err);
    desk
});

fn only_run(folder: &Path) -> PathBuf {
    fs::read_dir(folder.join("results/runs")).unwrap().next().unwrap().unwrap().path()
}

/// A copy of that run on a desk of its own, under the name `run`.
fn answered() -> Desk {
    let desk = Desk::new().env("OPENAI_API_KEY", KEY).file("prices.toml", PRICES);
    let run = desk.folder.path().join("run");
    fs::create_dir(&run).unwrap();
    for entry in fs::read_dir(only_run(ANSWERED.folder.path())).unwrap().map(|e| e.unwrap()) {
        fs::copy(entry.path(), run.join(entry.file_name())).unwrap();
    }
    desk
}

fn line(judge: &BatchJudge, more: &str) -> String {
    format!("judge run --judge-url {} --judge-model judge-x --judge-batch {more}", judge.url).trim_end().to_owned()
}

fn judged(desk: &Desk, judge: &BatchJudge, more: &str) -> Said {
    desk.run(&line(judge, more))
}

fn read(desk: &Desk, name: &str) -> String {
    fs::read_to_string(desk.folder.path().join("run").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The judge's journal without its order.
fn journal(text: &str) -> BTreeSet<String> {
    text.lines().map(str::to_owned).collect()
}

fn answers_in(desk: &Desk) -> usize {
    read(desk, "judgements-judge-x.jsonl").lines().filter(|l| l.contains("\"output\"")).count()
}

#[test]
fn batches_give_what_single_calls_give() {
    let judge =
        BatchJudge::start(Script { status: Box::new(|_, look| ["validating", "in_progress", "completed"][look]), ..Script::default() });
    let desks = [("", Desk::new()), (" --judge-batch", Desk::new())].map(|(flag, desk)| (flag, desk.env("OPENAI_API_KEY", KEY)));
    for (flag, desk) in &desks {
        let said = desk.run(&format!("{BENCH} --judge-url {} --judge-model judge-x{flag}", judge.url));
        assert_eq!(said.code, 0, "{}", said.err);
        assert!(said.out.contains("judge:judge-x"), "{}", said.out);
        desk.never_shows(KEY, &[&said]);
    }
    let of = |at: usize, name: &str| fs::read_to_string(only_run(desks[at].1.folder.path()).join(name)).unwrap();
    assert_eq!(of(0, "scores.json"), of(1, "scores.json"));
    assert_eq!(of(0, "samples.jsonl"), of(1, "samples.jsonl"));
    let (alone, batched) = (of(0, "judgements-judge-x.jsonl"), of(1, "judgements-judge-x.jsonl"));
    assert_eq!((journal(&alone).len(), journal(&alone)), (80, journal(&batched)));
    let held = judge.held();
    assert_eq!((held.calls("POST /v1/chat/completions"), held.files.len(), held.batches.len()), (80, 1, 1));
    let first = &held.files[0].2[0];
    assert_eq!(first["body"]["model"], "judge-x");
    assert_eq!(first["body"].as_object().unwrap().keys().collect::<Vec<_>>(), ["model", "messages", "n", "temperature", "max_tokens"]);
}

#[test]
fn every_fault_of_a_line_is_handled_as_a_single_call_s() {
    let filtered = json!({"error": {"message": "The response was filtered", "code": "content_filter"}});
    let refusal = json!({"choices": [{"message": {"content": null, "refusal": "no"}, "finish_reason": "stop"}]});
    let judge = BatchJudge::start(Script {
        line: Box::new(move |batch, nth| match (batch, nth) {
            (0, 0) => Line::Status(400, filtered.clone()),
            (0, 1) => Line::Status(200, refusal.clone()),
            (0, 2) => Line::Status(400, json!({"error": {"message": "too long"}})),
            (0, 3) => Line::Status(429, json!({"error": {"message": "slow down"}})),
            (0, 4) => Line::Status(500, json!({"error": {"message": "broken"}})),
            (0, 5) => Line::Status(200, json!({"choices": []})),
            (0, 6) => Line::Error("server_error", "could not be executed"),
            (0, 7) => Line::Missing,
            (0, 8) => Line::Twice,
            (0, 9) => Line::Stranger,
            _ => Line::Answer,
        }),
        ..Script::default()
    });
    let desk = answered();
    let said = judged(&desk, &judge, "--quiet");
    assert_eq!(said.code, 3, "one call failed for good: {}", said.err);
    let asked = judge.held().asked();
    assert_eq!(asked[1], asked[0][3..8], "what may pass is asked again, and nothing else");
    assert_eq!((asked.len(), answers_in(&desk)), (2, 79));
    let journal = read(&desk, "judgements-judge-x.jsonl");
    assert!(journal.lines().any(|l| l.contains(&asked[0][2]) && l.contains("too long") && l.contains("\"attempts\":1")), "{journal}");
    assert_eq!(journal.matches("content_filter").count(), 1);
    for part in
        ["lines of requests that it was not given: 1", "further lines of requests that it had answered, of which the first counts: 1"]
    {
        assert!(said.err.contains(part), "{part:?} is not in {}", said.err);
    }
    // The doubled answer's first line counts, as in a run where nothing went wrong.
    let plain = answered();
    assert_eq!(judged(&plain, &BatchJudge::start(Script::default()), "--quiet").code, 0);
    let (ours, plain) = (read(&desk, "judgements-judge-x.jsonl"), read(&plain, "judgements-judge-x.jsonl"));
    let differ = plain.lines().filter(|l| !ours.contains(l)).count();
    assert_eq!(differ, 3, "the filtered, the refused and the failed one");
    // What failed is asked again by the next judging, and only that.
    assert_eq!(judged(&desk, &judge, "--quiet").code, 0);
    assert_eq!(judge.held().asked()[2], [asked[0][2].clone()]);
}

#[test]
fn what_never_passes_is_given_up_within_the_limit_of_retries() {
    let judge = BatchJudge::start(Script {
        line: Box::new(|batch, nth| if batch > 0 || nth == 5 { Line::Missing } else { Line::Answer }),
        ..Script::default()
    });
    let desk = answered();
    let said = judged(&desk, &judge, "--quiet --judge-retries 2");
    assert_eq!(said.code, 3, "{}", said.err);
    assert_eq!(judge.held().asked().iter().map(Vec::len).collect::<Vec<_>>(), [80, 1, 1]);
    let journal = read(&desk, "judgements-judge-x.jsonl");
    assert!(journal.contains("batch_2 says nothing of this request\",\"attempts\":3"), "{journal}");
}

#[test]
fn a_batch_without_an_answer_and_a_key_that_opens_nothing_end_the_judging() {
    let silent = BatchJudge::start(Script { line: Box::new(|_, _| Line::Missing), ..Script::default() });
    judged(&answered(), &silent, "").fails(5, &["batch_0 answered none of its 80 requests", "--judge-batch"]);
    let denied = || Line::Status(401, json!({"error": {"message": format!("bad key {KEY}")}}));
    let closed =
        BatchJudge::start(Script { line: Box::new(move |_, nth| if nth == 3 { denied() } else { Line::Answer }), ..Script::default() });
    let desk = answered();
    let said = judged(&desk, &closed, "");
    said.fails(5, &["401", "check the API key"]);
    assert_eq!(answers_in(&desk), 79, "what was answered is kept");
    desk.never_shows(KEY, &[&said]);
}

#[test]
fn a_batch_that_expires_half_way_keeps_what_it_answered() {
    let judge = BatchJudge::start(Script {
        status: Box::new(|batch, _| if batch == 0 { "expired" } else { "completed" }),
        line: Box::new(|batch, nth| match (batch, nth) {
            (0, 0..40) => Line::Answer,
            (0, 79) => Line::Missing,
            (0, _) => Line::Error("batch_expired", "This request could not be executed before the completion window expired."),
            _ => Line::Answer,
        }),
        ..Script::default()
    });
    let desk = answered();
    let said = judged(&desk, &judge, "--quiet");
    assert_eq!(said.code, 3, "{}", said.err);
    for part in ["batch_0 ended early (expired): 40 of 80 calls are answered", "the average is withheld"] {
        assert!(said.err.contains(part), "{part:?} is not in {}", said.err);
    }
    assert_eq!((answers_in(&desk), judge.held().batches.len()), (40, 1));
    assert!(read(&desk, "judgements-judge-x.jsonl").contains("before the completion window expired"));
    let said = judged(&desk, &judge, "--quiet");
    assert_eq!(said.code, 0, "{}", said.err);
    let asked = judge.held().asked();
    assert_eq!((asked[1].as_slice(), answers_in(&desk)), (&asked[0][40..], 80));
}

#[test]
fn a_batch_that_fails_validation_is_told_with_its_reasons() {
    let judge = BatchJudge::start(Script { status: Box::new(|_, _| "failed"), ..Script::default() });
    let desk = answered();
    judged(&desk, &judge, "").fails(5, &["batch_0 was not begun (failed)", "invalid_json_line: This line is not parseable. (line 7)"]);
    assert_eq!(read(&desk, "judgements-judge-x.jsonl"), "");
    judge.behave(Script::default());
    assert_eq!(judged(&desk, &judge, "").code, 0);
    assert_eq!((judge.held().batches.len(), answers_in(&desk)), (2, 80));
}

#[test]
fn trouble_of_the_wire_makes_no_second_batch() {
    let busy = || Act::Say(429, "retry-after-ms: 1\r\n", "{}".into());
    let broken = || Act::Say(500, "retry-after-ms: 1\r\n", r#"{"error":{"message":"broken"}}"#.into());
    let judge = BatchJudge::start(Script {
        trouble: Box::new(move |route, nth| match (route, nth) {
            ("POST /v1/files" | "GET /v1/batches/*" | "GET /v1/files/*/content", 0) => Trouble::Instead(busy()),
            ("POST /v1/files", 1) => Trouble::Instead(broken()),
            // These were done: a blind second try would do them twice.
            ("POST /v1/files", 2) => Trouble::Afterwards(broken()),
            ("POST /v1/batches", 0) => Trouble::Afterwards(Act::Close),
            // The list itself stumbles too.
            ("GET /v1/files" | "GET /v1/batches", 0) | ("GET /v1/batches/*", 1) => Trouble::Instead(broken()),
            _ => Trouble::None,
        }),
        ..Script::default()
    });
    let desk = answered();
    let said = judged(&desk, &judge, "");
    assert_eq!(said.code, 0, "{}", said.err);
    let held = judge.held();
    assert_eq!((held.calls("POST /v1/files"), held.files.len()), (3, 1));
    assert_eq!((held.calls("POST /v1/batches"), held.batches.len(), answers_in(&desk)), (1, 1, 80));
    desk.never_shows(KEY, &[&said]);
}

#[test]
fn a_server_without_batches_is_told_and_single_calls_still_work() {
    let judge = BatchJudge::start(Script {
        trouble: Box::new(|route, _| match route {
            "POST /v1/files" => Trouble::Instead(Act::Say(404, "", json!({"detail": "Not Found"}).to_string())),
            _ => Trouble::None,
        }),
        ..Script::default()
    });
    let desk = answered();
    judged(&desk, &judge, "").fails(5, &["404", "Not Found", "the server has no batch API", "without --judge-batch"]);
    assert!(!desk.folder.path().join("run/batches-judge-x.json").exists(), "nothing is open");
    let alone = desk.run(&format!("judge run --judge-url {} --judge-model judge-x", judge.url));
    assert_eq!(alone.code, 0, "{}", alone.err);
    assert!(!alone.err.contains("once more"), "{}", alone.err);
    // Files, but no batches.
    judge.behave(Script {
        trouble: Box::new(|route, _| match route {
            "POST /v1/batches" => Trouble::Instead(Act::Say(400, "", json!({"error": {"message": "no such model here"}}).to_string())),
            _ => Trouble::None,
        }),
        ..Script::default()
    });
    judged(&answered(), &judge, "").fails(5, &["400", "no such model here", "does not take this batch", "without --judge-batch"]);
}

#[test]
fn where_no_batch_can_be_asked_the_flag_is_refused() {
    let desk = Desk::new().env("AZURE_OPENAI_ENDPOINT", "https://resource.invalid").env("AZURE_OPENAI_KEY", KEY);
    desk.run(&format!("{BENCH} --judge-model judge-x --judge-batch")).fails(2, &["--judge-batch: Azure", "one by one"]);
    Desk::new().run(&format!("{BENCH} --judge-batch")).fails(2, &["--judge-batch: the demo judge"]);
}

/// Starts the judging, and waits until `ready`.
fn started(desk: &Desk, judge: &BatchJudge, line: &str, ready: impl Fn(&BatchJudge) -> bool) -> Child {
    let mut child = desk.command().args(line.split(' ')).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while !ready(judge) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before its time");
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

#[test]
fn killed_at_any_moment_nothing_is_uploaded_or_made_twice() {
    type Case = (&'static str, fn(&str, usize) -> Trouble, usize, usize);
    let cases: [Case; 6] = [
        // Route at which it is killed; what the server does there; uploads and batches that it was asked for in the end.
        ("GET /v1/batches/*", |_, _| Trouble::None, 1, 1),
        ("GET /v1/files/*/content", |route, nth| hang(route, nth, "GET /v1/files/*/content", Trouble::Instead), 1, 1),
        ("POST /v1/files", |route, nth| hang(route, nth, "POST /v1/files", Trouble::Instead), 2, 1),
        ("POST /v1/files", |route, nth| hang(route, nth, "POST /v1/files", Trouble::Afterwards), 1, 1),
        ("POST /v1/batches", |route, nth| hang(route, nth, "POST /v1/batches", Trouble::Instead), 1, 2),
        ("POST /v1/batches", |route, nth| hang(route, nth, "POST /v1/batches", Trouble::Afterwards), 1, 1),
    ];
    for (at, trouble, uploads, creations) in cases {
        let status = if at == "GET /v1/batches/*" { "in_progress" } else { "completed" };
        let judge = BatchJudge::start(Script { status: Box::new(move |_, _| status), trouble: Box::new(trouble), ..Script::default() });
        let desk = answered();
        let mut child = started(&desk, &judge, &line(&judge, ""), |judge| judge.held().calls(at) == 1);
        child.kill().unwrap();
        child.wait().unwrap();
        judge.behave(Script::default());
        judge.held().crowd();
        let said = judged(&desk, &judge, "");
        assert_eq!(said.code, 0, "{at}: {}", said.err);
        let held = judge.held();
        assert_eq!((held.calls("POST /v1/files"), held.calls("POST /v1/batches"), held.ours()), (uploads, creations, (1, 1)), "{at}");
        assert_eq!(answers_in(&desk), 80);
        drop(held);
        desk.never_shows(KEY, &[&said]);
    }
}

#[test]
fn a_run_killed_while_its_judge_works_is_resumed() {
    let judge = BatchJudge::start(Script { status: Box::new(|_, _| "in_progress"), ..Script::default() });
    let desk = Desk::new().env("OPENAI_API_KEY", KEY);
    let line = format!("{BENCH} --judge-url {} --judge-model judge-x --judge-batch", judge.url);
    let mut child = started(&desk, &judge, &line, |judge| judge.held().calls("GET /v1/batches/*") == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    judge.behave(Script::default());
    let said = desk.run(&format!("run --quiet --resume {}", only_run(desk.folder.path()).display()));
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.contains("judge:judge-x"), "{}", said.out);
    assert_eq!(judge.held().ours(), (1, 1));
}

/// The first call of that route hangs, before or after the deed.
fn hang(route: &str, nth: usize, at: &str, when: fn(Act) -> Trouble) -> Trouble {
    if route == at && nth == 0 { when(Act::Hang) } else { Trouble::None }
}

#[test]
fn ctrl_c_leaves_the_batch_and_says_how_to_come_back() {
    let judge = BatchJudge::start(Script { status: Box::new(|_, _| "in_progress"), ..Script::default() });
    let desk = answered();
    let child = started(&desk, &judge, &line(&judge, ""), |judge| judge.held().calls("GET /v1/batches/*") == 2);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{err}");
    let again = format!("go on with: swallow-eval judge run --judge-model judge-x --judge-url {} --judge-batch", judge.url);
    for part in ["judge: batch batch_0: in_progress, 0/80", "the batch batch_0 goes on at its server", &again] {
        assert!(err.contains(part), "{part:?} is not in {err}");
    }
    // Asked one by one meanwhile, a warning; another server, a refusal.
    let other = BatchJudge::start(Script::default());
    judged(&desk, &other, "").fails(2, &[&judge.url, &other.url, "batches-judge-x.json"]);
    let alone = desk.run(&format!("judge run --judge-url {} --judge-model judge-x --quiet", judge.url));
    assert_eq!(alone.code, 0, "{}", alone.err);
    assert!(alone.err.contains("batch_0 may hold answers to these calls"), "{}", alone.err);
    // The run that was interrupted gets what it lacks.
    assert!(alone.out.contains("files: run") && read(&desk, "report.md").contains("MT-Bench (ALL)"), "{}", alone.out);
    // Nobody waits for answers that are there.
    assert_eq!(judged(&desk, &judge, "--quiet").code, 0);
    assert_eq!((judge.held().batches.len(), answers_in(&desk)), (1, 80));
}

#[test]
fn a_batch_that_the_server_no_longer_knows_is_not_silently_paid_for_again() {
    let judge = BatchJudge::start(Script { status: Box::new(|_, _| "in_progress"), ..Script::default() });
    let desk = answered();
    let mut child = started(&desk, &judge, &line(&judge, ""), |judge| judge.held().calls("GET /v1/batches/*") == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    judge.held().batches.clear();
    judged(&desk, &judge, "").fails(5, &["No batch found with id 'batch_0'", "run/batches-judge-x.json", "anew"]);
    assert_eq!(judge.held().calls("POST /v1/batches"), 1);
}

#[test]
fn the_price_of_batches_is_taken_where_it_is_known() {
    let judge = BatchJudge::start(Script::default());
    let desk = answered();
    let said = judged(&desk, &judge, "--prices prices.toml --max-cost 10000");
    assert_eq!(said.code, 0, "{}", said.err);
    for part in ["judge: 80 calls in batches", "the full price as an upper bound", "8.8000 USD"] {
        assert!(said.err.contains(part), "{part:?} is not in {}", said.err);
    }
    let desk = answered().file("prices.toml", &PRICES.replace("source", "batch_input = 500.0\nbatch_output = 500.0\nsource"));
    let said = judged(&desk, &judge, "--prices prices.toml --max-cost 10000");
    for part in ["500 USD in and 500 USD out", "the price of batches", "4.4000 USD"] {
        assert!(said.err.contains(part), "{part:?} is not in {}", said.err);
    }
    // What batches answered keeps their price when the rest is asked one by one.
    let alone = desk.run(&format!("judge run --judge-url {} --judge-model judge-x --prices prices.toml --max-cost 10000", judge.url));
    assert!(alone.err.contains("4.4000 USD"), "{}", alone.err);
}

#[test]
fn a_budget_makes_batches_of_what_it_surely_covers() {
    let judge = BatchJudge::start(Script::default());
    let desk = answered();
    // A call is taken at more than 2 dollars before it is asked, and costs 0.11.
    let said = judged(&desk, &judge, "--prices prices.toml --max-cost 6 --quiet");
    assert_eq!(said.code, 3, "{}", said.err);
    assert!(said.err.contains("--max-cost is reached"), "{}", said.err);
    let sizes: Vec<usize> = judge.held().asked().iter().map(Vec::len).collect();
    assert!(sizes.len() > 1 && sizes[0] < 3 && sizes.iter().sum::<usize>() == answers_in(&desk), "{sizes:?}");
    assert!(answers_in(&desk) < 80);
    assert_eq!(judged(&desk, &judge, "--quiet").code, 0);
    assert_eq!(answers_in(&desk), 80);
}
