//! The endpoint engine against servers that are broken, hostile or dead: nothing lost, nothing doubled, no document blamed for a server.

use crate::endpoint::{connect, expected, failure, options, prompts, samples};
use crate::support::faults::{self, Act, Asked, FaultServer};
use crate::support::openai::Rules;
use crate::support::{generate, outcome_id, request, serve, serve_all, texts};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use swallow_eval::engine::endpoint::{Endpoint, EndpointOptions};
use swallow_eval::engine::{Engine, Outcome, Request, Sink};

/// What a server can do wrong with one request, with a part of the message it must lead to.
fn wrongs() -> Vec<(&'static str, Act)> {
    let say = |status, headers, body: &str| Act::Say(status, headers, body.to_owned());
    let choices = |choices: Value| Act::Say(200, "", json!({"choices": choices}).to_string());
    let whole = json!({"choices": [{"index": 0, "text": "half of this"}]}).to_string();
    vec![
        ("429", say(429, "", r#"{"error":{"message":"slow down"}}"#)),
        ("429", say(429, "retry-after-ms: 2\r\n", "")),
        ("429", say(429, "Retry-After: 0.002\r\n", "")),
        ("429", say(429, "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "")),
        ("500", say(500, "", "Internal Server Error")),
        ("503", say(503, "", r#"{"object":"error","message":"The request queue is full."}"#)),
        ("409", say(409, "", "")),
        ("connection", Act::Close),
        ("unusable answer", say(200, "", "<html>Bad gateway</html>")),
        ("an empty body", say(200, "", "")),
        ("unusable answer", say(200, "", r#"{"choices": [{"text": "#)),
        ("no choices", choices(json!([]))),
        ("no choices", say(200, "", r#"{"error":{"message":"out of memory"}}"#)),
        ("without text", choices(json!([{"index": 0, "text": null}]))),
        ("indices", choices(json!([{"index": 0, "text": "a"}, {"index": 0, "text": "a"}]))),
        ("`abort`", choices(json!([{"index": 0, "text": "a", "finish_reason": "abort"}]))),
        ("connection", Act::Bytes(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", whole.len(), &whole[..20]))),
        ("connection", Act::Bytes(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{whole}", whole.len() + 7))),
        ("unusable answer", Act::Bytes(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{whole}", whole.len() - 7))),
        ("connection", Act::Bytes(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{}\r\n", &whole[..5]))),
        ("connection", Act::Bytes("SSH-2.0-OpenSSH_9.2\r\n".into())),
    ]
}

#[test]
fn trouble_that_passes_changes_nothing() {
    for (name, act) in wrongs() {
        let mut tries = BTreeMap::new();
        let server = FaultServer::start(move |asked: &Asked| {
            let prompt = asked.body["prompt"].as_str().unwrap_or_default().to_owned();
            let tried = tries.entry(prompt.clone()).or_insert(0);
            *tried += 1;
            if prompt.starts_with("prompt") && *tried <= 3 { act.clone() } else { Act::Answer }
        });
        let requests = prompts(5);
        let outcomes = serve_all(&mut connect(&server.base_url), &requests);
        assert_eq!(texts(&outcomes), expected(&requests), "{name}");
        assert_eq!(server.bodies("prompt 2").len(), 4, "{name}");
    }
}

#[test]
fn trouble_that_stays_is_a_failure_of_that_request_alone() {
    for (name, act) in wrongs() {
        let server = FaultServer::start(move |asked| if asked.prompts("prompt 2") { act.clone() } else { Act::Answer });
        let requests = prompts(5);
        let outcomes = serve_all(&mut connect(&server.base_url), &requests);
        let (message, attempts) = failure(&outcomes[2]);
        assert!(message.contains(name) && message.starts_with(&server.base_url), "{name}: {message}");
        assert!(message.chars().count() < 300, "{message}");
        assert_eq!(attempts, 6, "{name}");
        assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 4, "{name}");
    }
}

/// Two thousand requests (log-likelihoods have their own in `endpoint_scores`): every fifth attempt meets trouble, of each kind in
/// turn, some hang, the choices of some come in another order, and one request never works. Everything else is as without faults.
#[test]
fn two_thousand_requests_with_every_fault_are_answered_as_without() {
    let mut requests = prompts(1600);
    requests.extend((0..40).flat_map(|i| samples(&format!("prompt of ten {i}"), 10)));
    let untroubled = FaultServer::start(|_| Act::Answer);
    let without = serve_all(&mut connect(&untroubled.base_url), &requests);
    assert_eq!(texts(&without), expected(&requests));

    let met = Arc::new(Mutex::new(BTreeMap::<&'static str, usize>::new()));
    let troubles = Arc::new(AtomicBool::new(false));
    let server = troubled(Arc::clone(&met), Arc::clone(&troubles));
    let mut endpoint = Endpoint::connect(EndpointOptions { timeout: Duration::from_secs(1), ..options(&[&server.base_url]) }).unwrap();
    troubles.store(true, Ordering::SeqCst);
    let outcomes = serve_all(&mut endpoint, &requests);
    for (i, (with, without)) in outcomes.iter().zip(&without).enumerate() {
        match with {
            // Attempts and connections are not part of an answer.
            Ok(with) => assert_eq!(with, without.as_ref().unwrap(), "{i}"),
            Err(failure) => {
                assert_eq!((i, failure.attempts), (POISONED, 6), "{failure:?}");
                assert!(failure.message.contains("EngineCore says no"), "{failure:?}");
            }
        }
    }
    assert!(outcomes[POISONED].is_err());
    let met = met.lock().unwrap();
    let (kinds, faults) = (met.len(), met.values().sum::<usize>());
    assert_eq!(kinds, 15, "{met:?}");
    // 1600 requests and 40 tens: a fifth of the attempts, those after a fault among them.
    assert!(faults > 1640 / 5, "{met:?}");
}

/// The request that always fails.
const POISONED: usize = 777;

/// A server that makes trouble of each kind in turn once it is told to, and counts what it made.
fn troubled(met: Arc<Mutex<BTreeMap<&'static str, usize>>>, troubles: Arc<AtomicBool>) -> FaultServer {
    let (rules, poison) = (Rules::new("scripted"), format!("prompt {POISONED}"));
    let (mut tries, mut turn) = (BTreeMap::<String, u32>::new(), 0usize);
    FaultServer::start(move |asked| {
        if !troubles.load(Ordering::SeqCst) {
            return Act::Answer;
        }
        if asked.prompts(&poison) {
            return Act::Say(500, "", r#"{"error":{"message":"EngineCore says no"}}"#.into());
        }
        turn += 1;
        let tried = tries.entry(asked.body.to_string()).or_default();
        *tried += 1;
        // A request that never works is another matter.
        if turn % 5 != 0 || *tried > 4 {
            return Act::Answer;
        }
        let (status, whole) = faults::answer(&asked.path, &asked.body, &rules);
        let (kind, act) = trouble(turn / 5, status, whole);
        *met.lock().unwrap().entry(kind).or_default() += 1;
        act
    })
}

/// The first choice takes the place of the last, or stands beside itself.
fn twice(choices: &mut Vec<Value>) {
    let first = choices[0].clone();
    if choices.len() > 1 {
        choices.pop();
    }
    choices.push(first);
}

/// Trouble number `turn`, made from what would have been the answer.
fn trouble(turn: usize, status: u16, whole: Value) -> (&'static str, Act) {
    let text = whole.to_string();
    let half: String = text.chars().take(text.chars().count() / 2).collect();
    let cut = |length: usize| Act::Bytes(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{half}"));
    let with_choices = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut body = whole.clone();
        body.get_mut("choices").and_then(Value::as_array_mut).into_iter().for_each(change);
        Act::Say(status, "", body.to_string())
    };
    let say = |status, headers, body: &str| Act::Say(status, headers, body.to_owned());
    match turn % 15 {
        0 => ("429", say(429, "", r#"{"error":{"message":"slow down"}}"#)),
        1 => ("429 with Retry-After", say(429, "Retry-After: 0.002\r\n", "")),
        2 => ("429 with retry-after-ms", say(429, "retry-after-ms: 1\r\n", "")),
        3 => ("500", say(500, "", "Internal Server Error")),
        4 => ("503 with Retry-After", say(503, "Retry-After: 0.001\r\n", r#"{"object":"error","message":"full"}"#)),
        5 => ("closed", Act::Close),
        6 => ("reset", Act::Reset),
        7 => ("half an answer", cut(text.len())),
        8 => ("half an answer with its own length", cut(half.len())),
        // Each of these holds a connection until the time is up: few of them.
        9 if turn % 60 == 9 => ("hangs", Act::Hang),
        9 => ("closed", Act::Close),
        10 => ("no JSON", say(200, "", "<html>Bad gateway</html>")),
        11 => ("another JSON", say(200, "", r#"{"object":"error","message":"out of memory"}"#)),
        12 => ("no choices", with_choices(&|choices| choices.clear())),
        13 => ("a choice twice", with_choices(&twice)),
        _ => ("another order", with_choices(&|choices| choices.reverse())),
    }
}

#[test]
fn a_hanging_request_times_out_and_the_others_are_answered() {
    let server = FaultServer::start(|asked| if asked.prompts("prompt 2") { Act::Hang } else { Act::Answer });
    let options = EndpointOptions { timeout: Duration::from_secs(2), max_retries: 1, ..options(&[&server.base_url]) };
    let outcomes = serve_all(&mut Endpoint::connect(options).unwrap(), &prompts(5));
    let (message, attempts) = failure(&outcomes[2]);
    assert!(message.contains("no whole answer within 2 s"), "{message}");
    assert_eq!(attempts, 2);
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 4);
}

#[test]
fn what_cannot_help_is_not_asked_again() {
    for (status, headers, body, part) in [
        (400, "", r#"{"error":{"message":"This model's maximum context length is 512 tokens."}}"#, "maximum context length is 512"),
        (422, "", r#"{"detail":"no"}"#, "no"),
        (500, "x-should-retry: false\r\n", r#"{"error":"never"}"#, "never"),
        (429, "", r#"{"error":{"message":"pay first","code":"insufficient_quota"}}"#, "pay first"),
        (307, "Location: http://elsewhere.example/\r\n", "", "elsewhere.example"),
    ] {
        let say = Act::Say(status, headers, body.to_owned());
        let server = FaultServer::start(move |asked| if asked.prompts("prompt 1") { say.clone() } else { Act::Answer });
        let outcomes = serve_all(&mut connect(&server.base_url), &prompts(3));
        let (message, attempts) = failure(&outcomes[1]);
        assert!(message.contains(part) && message.contains(&status.to_string()), "{message}");
        assert_eq!(attempts, 1);
        assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
    }
}

#[test]
fn a_server_that_dies_stops_the_run_and_keeps_what_was_answered() {
    for death in ["500", "closed", "quota"] {
        let answered = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&answered);
        let ended = Arc::new(AtomicBool::new(false));
        let dead = Arc::clone(&ended);
        let server = FaultServer::start(move |asked| {
            let theirs = asked.body["prompt"].as_str().is_some_and(|p| p.starts_with("prompt"));
            if theirs && counter.fetch_add(1, Ordering::SeqCst) >= 20 {
                dead.store(true, Ordering::SeqCst);
            }
            match (dead.load(Ordering::SeqCst), death) {
                (false, _) => Act::Answer,
                (true, "500") => Act::Say(500, "", r#"{"error":{"message":"EngineCore encountered an issue."}}"#.into()),
                (true, "quota") => Act::Say(429, "", r#"{"error":{"message":"used up","code":"insufficient_quota"}}"#.into()),
                (true, _) => Act::Close,
            }
        });
        let mut endpoint = Endpoint::connect(EndpointOptions { max_connections: 4, ..options(&[&server.base_url]) }).unwrap();
        let (outcomes, served) = serve(&mut endpoint, &prompts(500));
        let error = served.unwrap_err();
        assert!(error.message.contains("no server answers any more") && error.hint.is_some(), "{death}: {error:?}");
        assert!((15..=20).contains(&outcomes.iter().filter(|o| o.is_ok()).count()), "{death}");
        assert_eq!(outcomes.iter().filter(|o| o.is_err()).count(), 0, "{death}: no document is blamed for it");
    }
}

/// Where requests fail now and then, the question whether the server lives may fail too, and is asked again.
#[test]
fn a_request_that_fails_ends_no_run_because_of_one_more_failure() {
    let (mut poisoned, mut failures) = (0, 2);
    let server = FaultServer::start(move |asked| {
        if asked.prompts("prompt 2") {
            poisoned += 1;
            return Act::Say(500, "", String::new());
        }
        let theirs = asked.body["prompt"].as_str().is_some_and(|p| p.starts_with("prompt"));
        if poisoned < 6 || theirs || failures == 0 {
            return Act::Answer;
        }
        failures -= 1;
        Act::Close
    });
    let outcomes = serve_all(&mut connect(&server.base_url), &prompts(5));
    assert_eq!(failure(&outcomes[2]).1, 6);
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 4);
}

#[test]
fn the_other_server_takes_over_when_one_closes() {
    let second = FaultServer::start(|_| Act::Answer);
    let answered = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&answered);
    let first = Arc::new(FaultServer::start(move |asked| {
        let theirs = asked.body["prompt"].as_str().is_some_and(|p| p.starts_with("prompt"));
        if theirs && counter.fetch_add(1, Ordering::SeqCst) >= 10 { Act::Close } else { Act::Answer }
    }));
    let mut endpoint = Endpoint::connect(options(&[&first.base_url, &second.base_url])).unwrap();
    let requests = prompts(300);
    let outcomes = serve_all(&mut endpoint, &requests);
    assert_eq!(texts(&outcomes), expected(&requests));
    first.end();
    let requests: Vec<Request> = (0..100).map(|i| request(generate(&format!("prompt again {i}"), 12))).collect();
    let outcomes = serve_all(&mut endpoint, &requests);
    assert_eq!(texts(&outcomes), expected(&requests), "its port is closed now");
}

#[test]
fn cancelling_leaves_requests_that_hang() {
    let (cancel, hanging) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (flag, count) = (Arc::clone(&cancel), Arc::clone(&hanging));
    let server = FaultServer::start(move |asked| {
        if !asked.prompts("prompt 3") {
            return Act::Answer;
        }
        // Ctrl-C comes while this request hangs.
        count.fetch_add(1, Ordering::SeqCst);
        flag.store(true, Ordering::SeqCst);
        Act::Hang
    });
    let mut endpoint = connect(&server.base_url);
    let mut ids = Vec::new();
    let mut push = |outcome: Outcome| {
        ids.push(outcome_id(&outcome).to_owned());
        ControlFlow::Continue(())
    };
    let requests = prompts(8);
    endpoint.serve(&requests, &mut Sink::new(&mut push, &cancel)).unwrap();
    assert_eq!(hanging.load(Ordering::SeqCst), 1);
    assert!(!ids.contains(&requests[3].id.0));
}
