//! Japanese MT-Bench through the built binary: the whole bench with the demo model and a judge on loopback that misbehaves, a kill in the middle
//! of judging, both wire forms, and what is said when a judge cannot judge.

use crate::support::{
    desk::{Desk, Said},
    faults::{Act, Asked, FaultServer},
    openai::{EngineServer, Rules},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use swallow_eval::engine::endpoint::chat_server::{ChatOptions, ChatServer, Service};
use swallow_eval::engine::endpoint::{Backoff, Secret};
use swallow_eval::engine::llama::{Llama, LoadOptions};
use swallow_eval::engine::{Engine, Request};
use swallow_eval::judge::prompts::{Judged, request};
use swallow_eval::task::load;

/// Small answers: the demo model knows nothing, and longer ones say no more.
const BENCH: &str = "run --suite mt-bench --demo --quiet --gen-kwargs max_gen_toks=6";

const KEY: &str = "sk-very-secret";

fn chat(text: &str) -> Act {
    let choice = json!({"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"});
    Act::Say(200, "", json!({"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 10}}).to_string())
}

/// The words of a judge for one call: a rating from 1 to 9 by a rule over the conversation, so that every judging of it is equal.
fn ruled(asked: &Asked) -> Act {
    let text = asked.body["messages"][1]["content"].as_str().unwrap_or_default();
    chat(&format!("説明です。\n\nRating: [[{}]]", text.bytes().map(u32::from).sum::<u32>() % 9 + 1))
}

fn bodies(asked: &Arc<Mutex<Vec<Value>>>) -> Vec<Value> {
    asked.lock().unwrap().clone()
}

/// A judge that does what `act` says, and what it was asked.
fn judge(mut act: impl FnMut(usize, &Asked) -> Act + Send + 'static) -> (FaultServer, Arc<Mutex<Vec<Value>>>) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&log);
    let server = FaultServer::start(move |asked| {
        let mut seen = seen.lock().unwrap();
        seen.push(asked.body.clone());
        act(seen.len() - 1, asked)
    });
    (server, log)
}

fn judged(desk: &Desk, server: &FaultServer, more: &str) -> Said {
    desk.run(format!("{BENCH} --judge-url {} --judge-model judge-x {more}", server.base_url).trim_end())
}

fn only_run(desk: &Desk) -> PathBuf {
    let mut runs = fs::read_dir(desk.folder.path().join("results/runs")).unwrap().map(|e| e.unwrap().path());
    runs.next().expect("one run")
}

fn read(run: &std::path::Path, name: &str) -> String {
    fs::read_to_string(run.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn the_whole_bench_with_a_judge_that_stumbles() {
    let mut tries = BTreeMap::new();
    // Every fifth conversation meets trouble twice; each is answered in the end.
    let (server, log) = judge(move |_, asked| {
        let tried = tries.entry(asked.body.to_string()).or_insert(0u32);
        *tried += 1;
        let odd = asked.body.to_string().len() % 5 == 0;
        match (odd, *tried) {
            (true, 1) => Act::Say(429, "retry-after-ms: 1\r\n", "{}".into()),
            (true, 2) => Act::Close,
            _ => ruled(asked),
        }
    });
    let desk = Desk::new().env("OPENAI_API_KEY", KEY);
    let said = judged(&desk, &server, "");
    assert_eq!(said.code, 0, "{}", said.err);
    for part in ["coding", "writing", "MT-Bench (ALL)", "chat:llama-3", "judge:judge-x"] {
        assert!(said.out.contains(part), "{part:?} is not in {}", said.out);
    }
    let run = only_run(&desk);
    assert!(read(&run, "radar.svg").contains("coding"));
    assert_eq!(read(&run, "judgements-judge-x.jsonl").lines().count(), 80);
    let samples: Vec<Value> = read(&run, "samples.jsonl").lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(samples.len(), 40, "eight questions, five conversations");
    assert!(samples.iter().all(|s| s["turns"].as_array().unwrap().len() == 2 && s["failure"].is_null()));
    let scores: Value = serde_json::from_str(&read(&run, "scores.json")).unwrap();
    for task in scores["tasks"].as_array().unwrap() {
        let of_task: Vec<&Value> = samples.iter().filter(|s| task["title"] == "MT-Bench (ALL)" || s["group"] == task["title"]).collect();
        let ratings: Vec<f64> =
            of_task.iter().flat_map(|s| s["turns"].as_array().unwrap()).map(|t| t["rating"].as_f64().unwrap()).collect();
        let mean = ratings.iter().sum::<f64>() / ratings.len() as f64 / 10.0;
        assert!((task["value"].as_f64().unwrap() - mean).abs() < 1e-12, "{task}");
    }
    assert!(bodies(&log).len() > 80);
    // Scored again, and judged again by the same judge: no call.
    let before = bodies(&log).len();
    let old = read(&run, "scores.json");
    assert_eq!(desk.run(&format!("score {} --quiet", run.display())).code, 0);
    let again = desk.run(&format!("judge {} --judge-url {} --judge-model judge-x --quiet", run.display(), server.base_url));
    assert_eq!(again.code, 0, "{}", again.err);
    assert_eq!((bodies(&log).len(), read(&run, "scores.json")), (before, old));
    desk.never_shows(KEY, &[&said, &again]);
}

#[test]
fn a_second_judge_costs_its_own_calls_and_is_compared() {
    let (first, _) = judge(|_, asked| ruled(asked));
    let (second, log) = judge(|_, _| chat("Rating: [[5]]"));
    let desk = Desk::new();
    assert_eq!(judged(&desk, &first, "").code, 0);
    let run = only_run(&desk);
    let before = read(&run, "scores.json");
    let said = desk.run(&format!("judge {} --judge-url {} --judge-model judge-y", run.display(), second.base_url));
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(bodies(&log).len(), 80);
    assert!(said.out.contains("judge-y against judge-x on 80 answers: equal ") && said.out.contains("0.5000"), "{}", said.out);
    assert_eq!(read(&run, "scores.json"), before, "the run's own judge stays");
}

#[test]
fn killed_while_judging_no_call_is_made_twice() {
    // The 31st call hangs until the process is gone.
    let (server, log) = judge(|at, asked| if at == 30 { Act::Hang } else { ruled(asked) });
    let desk = Desk::new();
    let line = format!("{BENCH} --judge-url {} --judge-model judge-x --judge-connections 1", server.base_url);
    let mut child = desk.command().args(line.split(' ')).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while bodies(&log).len() < 31 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let run = only_run(&desk);
    assert_eq!(read(&run, "judgements-judge-x.jsonl").lines().count(), 30);
    let said = desk.run(&format!("run --quiet --resume {}", run.display()));
    assert_eq!(said.code, 0, "{}", said.err);
    // 80 calls and the one that was in flight.
    assert_eq!(bodies(&log).len(), 81);
    assert_eq!(read(&run, "judgements-judge-x.jsonl").lines().count(), 80);
}

#[test]
fn what_a_judge_does_not_rate_is_told_and_left_out() {
    let filtered = json!({"error": {"message": "The response was filtered", "param": "prompt", "code": "content_filter", "status": 400}});
    let refusal = json!({"choices": [{"message": {"content": null, "refusal": "no"}, "finish_reason": "stop"}]});
    let (server, log) = judge(move |at, asked| match at {
        0 => Act::Say(400, "", filtered.to_string()),
        1 => Act::Say(200, "", refusal.to_string()),
        2 => chat(""),
        3 => chat("よい答えです。"),
        4 => chat("[[８]]"),
        _ => ruled(asked),
    });
    let desk = Desk::new();
    let said = judged(&desk, &server, "--judge-connections 1");
    assert_eq!(said.code, 0, "a judgement without a rating is an answer: {}", said.err);
    assert_eq!(bodies(&log).len(), 80, "none is asked again");
    let report = read(&only_run(&desk), "report.md");
    for part in [
        "1 of 80 answers were not judged: a content filter",
        "2 of 80 answers got an empty judgement",
        "1 of 80 answers got a judgement without a rating",
        "digits are no number",
    ] {
        assert!(report.contains(part), "{part:?} is not in {report}");
    }
}

#[test]
fn a_judge_that_cannot_be_asked_ends_the_run_at_once() {
    for (status, body, code, parts) in [
        (401, json!({"error": {"message": format!("bad key {KEY}")}}), 5, &["401", "check the API key", "what was answered is kept"][..]),
        (
            404,
            json!({"error": {"message": "The model `judge-x` does not exist", "code": "model_not_found"}}),
            5,
            &["404", "does not exist", "model name"],
        ),
        (429, json!({"error": {"message": "no money", "code": "insufficient_quota"}}), 5, &["429", "used up"]),
    ] {
        let (server, log) = judge(move |_, _| Act::Say(status, "", body.to_string()));
        let desk = Desk::new().env("OPENAI_API_KEY", KEY);
        let said = judged(&desk, &server, "--judge-connections 1");
        said.fails(code, parts);
        assert_eq!(bodies(&log).len(), 1, "{status}");
        desk.never_shows(KEY, &[&said]);
    }
}

#[test]
fn sixteen_failures_in_a_row_end_the_judging_and_single_ones_are_counted() {
    let (server, log) = judge(|_, _| Act::Say(500, "", r#"{"error":{"message":"broken"}}"#.into()));
    let desk = Desk::new();
    judged(&desk, &server, "--judge-connections 1 --judge-retries 0").fails(5, &["16 requests in a row failed", "500", "broken"]);
    assert_eq!(bodies(&log).len(), 16);
    let (server, _) = judge(|at, asked| if at == 7 { Act::Say(500, "", "{}".into()) } else { ruled(asked) });
    let desk = Desk::new();
    let said = judged(&desk, &server, "--judge-connections 1 --judge-retries 0");
    assert_eq!(said.code, 3, "{}", said.err);
    assert!(said.err.contains("1 of 40 documents have no answer") && said.err.contains("the judge: "), "{}", said.err);
}

#[test]
fn a_hosted_judge_without_a_key_is_refused_before_anything_is_asked() {
    let desk = Desk::new();
    let line = format!("{BENCH} --judge-model judge-x");
    desk.run(&line).fails(2, &["needs a key", "OPENAI_API_KEY"]);
    desk.run(&format!("{line} --offline")).fails(2, &["--offline forbids"]);
    let desk = Desk::new().env("AZURE_OPENAI_ENDPOINT", "https://resource.invalid");
    desk.run(&line).fails(2, &["Azure OpenAI needs a key", "AZURE_OPENAI_KEY"]);
}

#[test]
fn the_budget_stops_judging_and_a_larger_one_goes_on() {
    let (server, log) = judge(|_, asked| ruled(asked));
    let prices = "[judge-x]\ninput = 1000.0\noutput = 1000.0\nsource = \"a list\"\ndate = \"2026-01-01\"\n";
    let desk = Desk::new().file("prices.toml", prices);
    judged(&desk, &server, "--max-cost 1").fails(2, &["--prices"]);
    // A call takes 110 tokens, 0.11 dollars; a portion of 64 is taken at its most before it is asked.
    let said = judged(&desk, &server, "--max-cost 1 --prices prices.toml");
    assert_eq!(said.code, 3, "{}", said.err);
    assert!(said.err.contains("--max-cost is reached"), "{}", said.err);
    let asked = bodies(&log).len();
    assert_eq!(asked, 0);
    let run = only_run(&desk);
    let line =
        format!("judge {} --judge-url {} --judge-model judge-x --prices prices.toml --max-cost 5000", run.display(), server.base_url);
    let said = desk.run(&line);
    assert_eq!((said.code, bodies(&log).len()), (0, 80), "{}", said.err);
    assert!(said.err.contains("8.8000 USD"), "{}", said.err);
}

/// Calls of the task's own questions, for the wire.
fn calls() -> Vec<Request> {
    let tasks = load::embedded().unwrap();
    let rule = load::find(&tasks, "japanese_mt_bench").unwrap().file.judge.clone().unwrap();
    let judged =
        |category| Judged {
            category, questions: &["問一", "問二"], answers: &["答{answer}", ""], references: &["範", "範二"], choice: 0
        };
    ["math", "stem"].into_iter().flat_map(|c| [request(&rule, judged(c), 0), request(&rule, judged(c), 1)]).collect()
}

/// What arrived: path, header lines, body.
type Wire = Arc<Mutex<Vec<(String, String, Value)>>>;

fn asked_over(service: impl FnOnce(&str) -> Service, requests: &[Request]) -> Vec<(String, String, Value)> {
    let log: Wire = Arc::default();
    let seen = Arc::clone(&log);
    let server = FaultServer::start(move |asked| {
        seen.lock().unwrap().push((asked.path.clone(), asked.head.clone(), asked.body.clone()));
        chat("[[5]]")
    });
    let mut options = ChatOptions::new(service(&server.base_url), "gpt-4");
    options.api_key = Some(Secret::new(KEY));
    options.max_connections = 1;
    options.backoff = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(2) };
    let outcomes = crate::support::serve_all(&mut ChatServer::new(options).unwrap() as &mut dyn Engine, requests);
    assert!(outcomes.iter().all(Result::is_ok));
    std::mem::take(&mut *log.lock().unwrap())
}

#[test]
fn openai_and_azure_get_upstreams_wire_form() {
    let requests = calls();
    let openai = asked_over(|url| Service::OpenAi { base_url: url.to_owned() }, &requests);
    let azure = asked_over(
        |url| Service::Azure {
            endpoint: url.trim_end_matches("/v1").to_owned(),
            deployment: "gpt-4".into(),
            api_version: "2023-07-01-preview".into(),
        },
        &requests,
    );
    for ((path, head, body), (azure_path, azure_head, azure_body)) in openai.iter().zip(&azure) {
        assert_eq!(path, "/v1/chat/completions");
        assert_eq!(azure_path, "/openai/deployments/gpt-4/chat/completions?api-version=2023-07-01-preview");
        assert!(head.contains(&format!("Bearer {KEY}")) && !head.to_lowercase().contains("api-key:"));
        assert!(azure_head.to_lowercase().contains(&format!("api-key: {KEY}")) && !azure_head.to_lowercase().contains("authorization"));
        let keys: Vec<&String> = azure_body.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["messages", "n", "temperature", "max_tokens"]);
        assert_eq!(body["model"], "gpt-4");
        assert_eq!(body["messages"], azure_body["messages"]);
        assert_eq!(
            (&azure_body["n"], &azure_body["max_tokens"], azure_body["temperature"].to_string().as_str()),
            (&json!(1), &json!(2048), "0")
        );
    }
    assert_eq!((openai.len(), azure.len()), (4, 4));
}

#[test]
fn the_recorded_conversations_of_the_judge_arrive_as_recorded() {
    let Some(golden) = std::env::var_os("SWALLOW_EVAL_GOLDEN") else {
        eprintln!("skipped: SWALLOW_EVAL_GOLDEN is not set");
        return;
    };
    let tasks = load::embedded().unwrap();
    let rule = load::find(&tasks, "japanese_mt_bench").unwrap().file.judge.clone().unwrap();
    let rows = fs::read_to_string(PathBuf::from(golden).join("jmt-bench/judge/requests.jsonl")).unwrap();
    let rows: Vec<Value> = rows.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let texts = |v: &Value| -> Vec<String> { v.as_array().into_iter().flatten().map(|t| t.as_str().unwrap().to_owned()).collect() };
    let made = |(at, row): (usize, &Value)| {
        let (questions, answers, references) =
            (texts(&row["doc"]["question"]["turns"]), texts(&row["doc"]["answer_turns"]), texts(&row["doc"]["ref_turns"]));
        fn strs(list: &[String]) -> Vec<&str> {
            list.iter().map(String::as_str).collect()
        }
        let turn = usize::from(row["doc_id"].as_str().unwrap().contains("/turn2/"));
        let category = row["doc"]["question"]["category"].as_str().unwrap();
        let choice = u32::try_from(at).unwrap();
        request(
            &rule,
            Judged { category, questions: &strs(&questions), answers: &strs(&answers), references: &strs(&references), choice },
            turn,
        )
    };
    let requests: Vec<Request> = rows.iter().enumerate().map(made).collect();
    let arrived = asked_over(|url| Service::OpenAi { base_url: url.to_owned() }, &requests);
    for (row, (_, _, body)) in rows.iter().zip(arrived) {
        assert_eq!(body["messages"], row["request"]["messages"], "{}", row["doc_id"]);
        assert_eq!(body["max_tokens"], row["request"]["max_new_tokens"]);
    }
}

/// Every answer of a run, greedy conversations only: sampling has no promise across engines.
fn greedy_answers(folder: &std::path::Path) -> Vec<(String, Vec<String>)> {
    let run = fs::read_dir(folder.join("runs")).unwrap().next().unwrap().unwrap().path();
    let samples = read(&run, "samples.jsonl");
    let samples = samples.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    let greedy = samples.filter(|s| ["coding", "math", "reasoning", "extraction"].contains(&s["group"].as_str().unwrap()));
    let answers = |s: &Value| s["turns"].as_array().unwrap().iter().map(|t| t["answer"].as_str().unwrap().to_owned()).collect();
    greedy.map(|s| (s["doc_id"].as_str().unwrap().to_owned(), answers(&s))).collect()
}

#[test]
fn a_server_and_this_process_hold_the_same_conversations() {
    let data = tempfile::tempdir().unwrap();
    let Some(mirror) = std::env::var_os("SWALLOW_EVAL_DATA") else {
        eprintln!("skipped: SWALLOW_EVAL_DATA is not set");
        return;
    };
    let model = data.path().join("llama-3-demo");
    fs::create_dir(&model).unwrap();
    for (name, bytes) in swallow_eval::engine::demo::FILES {
        fs::write(model.join(name), bytes).unwrap();
    }
    let desk = Desk::new().env("SWALLOW_EVAL_DATA", mirror);
    let line = "run --suite mt-bench --limit 4 --judge-demo --offline --gen-kwargs max_gen_toks=5 --max-failures 0";
    let own = desk.run(&format!("{line} --model {} --output own", model.display()));
    assert_eq!(own.code, 0, "{}", own.err);
    assert!(own.err.contains("written in the template llama-3") && own.out.contains("partial"), "{}\n{}", own.err, own.out);
    let load = move || -> Box<dyn Engine> {
        Box::new(Llama::load(&model, &LoadOptions { model: "llama-3-demo".into(), ..LoadOptions::default() }).unwrap())
    };
    let server = EngineServer::start(load, Rules::new("llama-3-demo"));
    let served = desk.run(&format!("{line} --base-url {} --model llama-3-demo --output served", server.base_url));
    assert_eq!(served.code, 0, "{}", served.err);
    let (own, served) = (greedy_answers(&desk.folder.path().join("own")), greedy_answers(&desk.folder.path().join("served")));
    assert_eq!((own.len(), &own), (20, &served));
}
