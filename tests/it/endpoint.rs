//! The endpoint engine against servers that are good, limited or careless. Trouble is next door, in `endpoint_faults`.

use crate::support::faults::{self, Act, Asked, FaultServer};
use crate::support::openai::{EngineServer, Rules};
use crate::support::scripted::{Scripted, complete};
use crate::support::{generate, generated, request, serve, serve_all, texts};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use swallow_eval::engine::endpoint::{
    Backoff, Choices, Defaults, Effect, Endpoint, EndpointOptions, ModelName, Repeatable, Secret, ServerKind, SpecialTokens, StopText,
};
use swallow_eval::engine::{Bos, Engine, Finish, Generate, Note, Outcome, Request, RequestKind, Sampling};

/// The stop strings of HumanEval (bigcode-evaluation-harness `bigcode_eval/tasks/humaneval.py:56` at v202407).
const HUMAN_EVAL: [&str; 8] = ["\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>"];

pub(crate) fn options(urls: &[&str]) -> EndpointOptions {
    let backoff = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(4) };
    EndpointOptions { backoff, ..EndpointOptions::new(urls.iter().map(|u| (*u).to_owned()).collect(), "scripted") }
}

pub(crate) fn connect(url: &str) -> Endpoint {
    Endpoint::connect(options(&[url])).unwrap()
}

pub(crate) fn prompts(n: usize) -> Vec<Request> {
    (0..n).map(|i| request(generate(&format!("prompt {i}"), 12))).collect()
}

pub(crate) fn expected(requests: &[Request]) -> Vec<String> {
    let outcomes = serve_all(&mut Scripted::new(), requests);
    texts(&outcomes).into_iter().map(str::to_owned).collect()
}

pub(crate) fn failure(outcome: &Outcome) -> (&str, u32) {
    let failure = outcome.as_ref().expect_err("this request cannot be answered");
    (&failure.message, failure.attempts)
}

#[test]
fn the_probe_finds_what_the_server_does() {
    let rules = Rules { max_model_len: Some(4096), ..Rules::new("scripted") };
    let server = EngineServer::start(|| Box::new(Scripted::new()), rules);
    let endpoint = connect(&server.base_url);
    let found = endpoint.capabilities();
    assert_eq!(found.kind, ServerKind::Other);
    assert_eq!((found.model_name, found.max_model_len), (ModelName::Checked, Some(4096)));
    assert!(found.refused_fields.is_empty(), "{:?}", found.refused_fields);
    assert_eq!([found.top_p, found.top_k, found.repetition_penalty, found.seeds], [Effect::Seen; 4]);
    assert_eq!((found.max_stops, found.stop_text), (4, StopText::Trimmed));
    assert_eq!(found.choices, Choices::SeedPlusIndex);
    assert_eq!((found.greedy, found.sampling_defaults), (Repeatable::Yes, Defaults::NoneSeen));
    assert_eq!(found.special_tokens, SpecialTokens::Optional);
    assert_eq!(endpoint.identity().short(), "endpoint-other");
    assert!(server.take_bodies().len() <= 30, "a probe is cheap");
    let again = connect(&server.base_url);
    assert_eq!(endpoint.identity(), again.identity(), "nothing in the identity depends on the moment");
}

/// D1 of the field's defects: eight stop strings against a limit of four, and the other four never applied.
#[test]
fn d1_every_stop_string_is_applied() {
    let server = EngineServer::start(|| Box::new(Scripted::new()), Rules::new("scripted"));
    let mut endpoint = connect(&server.base_url);
    server.take_bodies();
    // Prompts whose text without stop strings holds one of the four that are not sent, before any other.
    let stop: Vec<String> = HUMAN_EVAL.iter().map(|s| (*s).to_owned()).chain(["東京".into(), "ab".into()]).collect();
    let ask = |i: usize| Generate { stop: stop.clone(), ..generate(&format!("def f{i}():"), 60) };
    let requests: Vec<Request> = (0..200).map(|i| request(ask(i))).collect();
    let outcomes = serve_all(&mut endpoint, &requests);
    assert_eq!(texts(&outcomes), expected(&requests));
    let late = |g: Generate| stop[4..].iter().any(|s| complete(&Generate { stop: vec![s.clone()], ..g.clone() }).text == complete(&g).text);
    let by_late = (0..200).filter(|i| complete(&ask(*i)).finish == Finish::Stop && late(ask(*i))).count();
    assert!(by_late > 10, "the case is not in the data: {by_late}");
    for body in server.take_bodies() {
        let sent = body["stop"].as_array().map_or(0, Vec::len);
        assert!((1..=4).contains(&sent), "{body}");
    }
}

/// D2: more requests in flight must not change what is asked.
#[test]
fn d2_concurrency_does_not_change_the_request() {
    let server = EngineServer::start(|| Box::new(Scripted::new()), Rules::new("scripted"));
    let stop: Vec<String> = HUMAN_EVAL.iter().map(|s| (*s).to_owned()).collect();
    let requests: Vec<Request> = (0..50).map(|i| request(Generate { stop: stop.clone(), ..generate(&format!("p{i}"), 8) })).collect();
    let mut seen = Vec::new();
    for max_connections in [1, 4, 32] {
        let mut endpoint = Endpoint::connect(EndpointOptions { max_connections, ..options(&[&server.base_url]) }).unwrap();
        server.take_bodies();
        let answers = serve_all(&mut endpoint, &requests);
        let bodies: BTreeSet<String> = server.take_bodies().iter().map(Value::to_string).collect();
        assert_eq!(bodies.len(), requests.len());
        seen.push((bodies, answers));
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
}

/// D5: one request of 200 that always fails costs that one request.
#[test]
fn d5_a_poisoned_request_is_one_failure() {
    let server = FaultServer::start(|asked| {
        if asked.prompts("prompt 77") { Act::Say(500, "", r#"{"error":{"message":"EngineCore says no"}}"#.into()) } else { Act::Answer }
    });
    let requests = prompts(200);
    let outcomes = serve_all(&mut connect(&server.base_url), &requests);
    let expected = expected(&requests);
    for (i, outcome) in outcomes.iter().enumerate() {
        match i {
            77 => {
                let (message, attempts) = failure(outcome);
                assert!(message.contains("500") && message.contains("EngineCore says no"), "{message}");
                assert_eq!(attempts, 6);
            }
            _ => assert_eq!(generated(outcome).text, expected[i]),
        }
    }
    assert_eq!(server.bodies("prompt 77").len(), 6, "one attempt and five retries");
}

#[test]
fn several_servers_share_the_work() {
    let servers: Vec<EngineServer> = (0..3).map(|_| EngineServer::start(|| Box::new(Scripted::new()), Rules::new("scripted"))).collect();
    let urls: Vec<&str> = servers.iter().map(|s| s.base_url.as_str()).collect();
    let mut endpoint = Endpoint::connect(EndpointOptions { max_connections: 9, ..options(&urls) }).unwrap();
    servers.iter().for_each(|s| drop(s.take_bodies()));
    let requests = prompts(90);
    assert_eq!(texts(&serve_all(&mut endpoint, &requests)), expected(&requests));
    let counts: Vec<usize> = servers.iter().map(|s| s.take_bodies().len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 90);
    assert!(counts.iter().all(|n| *n > 0), "{counts:?}");
}

#[test]
fn servers_of_different_kinds_are_not_one_endpoint() {
    let one = FaultServer::start(|_| Act::Answer);
    let other = FaultServer::with_rules(Rules { owned_by: "vllm".into(), ..Rules::new("scripted") }, |_| Act::Answer);
    let error = Endpoint::connect(options(&[&one.base_url, &other.base_url])).unwrap_err();
    assert!(error.message.contains("differ in kind") && error.message.contains(&other.base_url), "{}", error.message);
}

pub(crate) fn samples(prompt: &str, n: u32) -> Vec<Request> {
    let sampling = |i| Sampling { temperature: 0.8, seed: 40 + u64::from(i), ..Sampling::GREEDY };
    (0..n).map(|i| request(Generate { sample: i, sampling: sampling(i), ..generate(prompt, 12) })).collect()
}

#[test]
fn samples_are_asked_together_where_n_and_seeds_allow_it() {
    let server = EngineServer::start(|| Box::new(Scripted::new()), Rules::new("scripted"));
    let mut endpoint = connect(&server.base_url);
    server.take_bodies();
    let requests = samples("prompt", 10);
    let outcomes = serve_all(&mut endpoint, &requests);
    assert_eq!(texts(&outcomes), expected(&requests));
    let bodies = server.take_bodies();
    assert_eq!(bodies.len(), 1);
    assert_eq!((&bodies[0]["n"], &bodies[0]["seed"]), (&json!(10), &json!(40)));
}

#[test]
fn a_server_that_ignores_n_is_asked_one_by_one() {
    // From the first: the probe counts the choices. Later: the missing ones are asked alone, each with its own seed.
    for honest_while_probed in [false, true] {
        let rules = Rules::new("scripted");
        let server = FaultServer::start(move |asked| {
            let probing = !asked.body["prompt"].as_str().is_some_and(|p| p.starts_with("prompt"));
            let (status, mut answer) = faults::answer(&asked.path, &asked.body, &rules);
            if !(probing && honest_while_probed) {
                answer.get_mut("choices").and_then(Value::as_array_mut).into_iter().for_each(|c| c.truncate(1));
            }
            Act::Say(status, "", answer.to_string())
        });
        let mut endpoint = connect(&server.base_url);
        assert_eq!(endpoint.capabilities().choices == Choices::SeedPlusIndex, honest_while_probed);
        let requests = samples("prompt", 5);
        assert_eq!(texts(&serve_all(&mut endpoint, &requests)), expected(&requests));
        assert_eq!(server.bodies("prompt").len(), 5);
    }
}

#[test]
fn choices_out_of_order_are_put_in_order() {
    let rules = Rules::new("scripted");
    let server = FaultServer::start(move |asked| {
        let (status, mut answer) = faults::answer(&asked.path, &asked.body, &rules);
        answer.get_mut("choices").and_then(Value::as_array_mut).into_iter().for_each(|c| c.reverse());
        Act::Say(status, "", answer.to_string())
    });
    let requests = samples("prompt", 6);
    assert_eq!(texts(&serve_all(&mut connect(&server.base_url), &requests)), expected(&requests));
    assert_eq!(server.bodies("prompt").len(), 1);
}

#[test]
fn a_server_that_takes_n_of_two_only_is_asked_one_by_one() {
    let rules = Rules::new("scripted");
    let server = FaultServer::start(move |asked| match asked.body["n"].as_u64() {
        Some(3..) => Act::Say(400, "", r#"{"error":{"message":"Field 'n': Value must be between 1 <= value <= 2"}}"#.into()),
        _ => {
            let (status, answer) = faults::answer(&asked.path, &asked.body, &rules);
            Act::Say(status, "", answer.to_string())
        }
    });
    let requests = samples("prompt", 6);
    assert_eq!(texts(&serve_all(&mut connect(&server.base_url), &requests)), expected(&requests));
}

/// A server that knows only these fields, as transformers serve (422, names them) and TensorRT-LLM (400) do.
fn strict(known: &'static [&'static str], named: bool) -> FaultServer {
    let rules = Rules::new("scripted");
    FaultServer::start(move |asked| {
        let unknown: Vec<&str> = asked.body.as_object().unwrap().keys().map(String::as_str).filter(|k| !known.contains(k)).collect();
        if !unknown.is_empty() {
            let names = if named { format!("{unknown:?}") } else { "extra fields not permitted".into() };
            return Act::Say(422, "", json!({"detail": format!("Unexpected fields in the request: {names}")}).to_string());
        }
        let (status, answer) = faults::answer(&asked.path, &asked.body, &rules);
        Act::Say(status, "", answer.to_string())
    })
}

#[test]
fn fields_that_a_server_refuses_are_left_out_and_what_needs_them_is_refused() {
    const KNOWN: [&str; 7] = ["model", "prompt", "max_tokens", "temperature", "top_p", "seed", "stop"];
    for named in [true, false] {
        let server = strict(&KNOWN, named);
        let mut endpoint = connect(&server.base_url);
        let found = endpoint.capabilities().clone();
        assert_eq!(found.refused_fields, ["frequency_penalty", "min_p", "presence_penalty", "repetition_penalty", "top_k"]);
        assert_eq!((found.top_p, found.top_k, found.repetition_penalty), (Effect::Seen, Effect::Absent, Effect::Absent));
        assert_eq!((found.choices, found.special_tokens), (Choices::One, SpecialTokens::AsTokenizer));
        let requests = prompts(3);
        assert_eq!(texts(&serve_all(&mut endpoint, &requests)), expected(&requests));
        let hot = Sampling { temperature: 0.5, ..Sampling::GREEDY };
        let plain = generate("prompt", 4);
        let never = swallow_eval::engine::TokenRules { bos: Bos::Never, ..plain.rules.clone() };
        for (asked, part) in [
            (Generate { sampling: Sampling { top_k: 9, ..hot.clone() }, ..plain.clone() }, "top_k 9"),
            (Generate { sampling: Sampling { repetition_penalty: 1.05, ..Sampling::GREEDY }, ..plain.clone() }, "repetition_penalty 1.05"),
            (Generate { rules: never, ..plain.clone() }, "special tokens"),
        ] {
            let asked = request(asked);
            assert!(endpoint.refusal(&asked).unwrap().message.contains(part));
            assert!(failure(&serve_all(&mut endpoint, &[asked])[0]).0.contains(part));
        }
        assert!(endpoint.refusal(&request(Generate { sampling: Sampling { top_p: 0.9, ..hot }, ..plain })).is_none());
    }
}

/// A field that is accepted and ignored is not believed.
#[test]
fn an_ignored_field_is_not_believed() {
    let rules = Rules::new("scripted");
    let server = FaultServer::start(move |asked| {
        let mut body = asked.body.clone();
        ["top_k", "repetition_penalty", "seed"].iter().for_each(|f| drop(body.as_object_mut().unwrap().remove(*f)));
        let (status, answer) = faults::answer(&asked.path, &body, &rules);
        Act::Say(status, "", answer.to_string())
    });
    let found = connect(&server.base_url).capabilities().clone();
    assert_eq!((found.top_k, found.repetition_penalty, found.seeds), (Effect::Unseen, Effect::Unseen, Effect::Unseen));
    assert_eq!((found.top_p, found.choices), (Effect::Seen, Choices::Unseeded));
}

#[test]
fn an_answer_cut_by_the_server_is_noted() {
    let rules = Rules { max_model_len: Some(20), ..Rules::new("scripted") };
    let server = FaultServer::with_rules(rules.clone(), move |asked| {
        let mut body = asked.body.clone();
        let room = 20 - 1 - body["prompt"].as_str().unwrap().len().min(18);
        if asked.prompts("0123456789") {
            body["max_tokens"] = json!(room);
        }
        let (status, answer) = faults::answer(&asked.path, &body, &rules);
        Act::Say(status, "", answer.to_string())
    });
    let requests = [request(generate("0123456789", 15)), request(generate("0123456789", 9)), request(generate("0123456789", 1000))];
    let outcomes = serve_all(&mut connect(&server.base_url), &requests);
    let notes: Vec<&[Note]> = outcomes.iter().map(|o| &generated(o).notes[..]).collect();
    assert_eq!(notes, [&[Note::CutByServer][..], &[], &[Note::CutByServer]]);
    let asked: Vec<Value> = server.bodies("0123456789").iter().map(|b| b["max_tokens"].clone()).collect();
    assert!(asked.contains(&json!(20)) && !asked.contains(&json!(1000)), "never more than the model's length: {asked:?}");
}

#[test]
fn no_tokens_are_not_asked_for() {
    let server = FaultServer::start(|_| Act::Answer);
    let mut endpoint = connect(&server.base_url);
    let outcomes = serve_all(&mut endpoint, &[request(generate("nothing", 0))]);
    assert_eq!((generated(&outcomes[0]).text.as_str(), generated(&outcomes[0]).finish), ("", Finish::Length));
    assert!(server.bodies("nothing").is_empty());
}

#[test]
fn what_is_no_such_endpoint_is_one_clear_error() {
    let closed = {
        let server = FaultServer::start(|_| Act::Answer);
        server.base_url.clone()
    };
    let denies = FaultServer::start(|_| Act::Say(401, "", r#"{"error":"Unauthorized"}"#.into()));
    let html = FaultServer::start(|_| Act::Say(200, "", "<html>hello</html>".into()));
    let picky = FaultServer::with_rules(Rules::new("other-model"), |_| Act::Answer);
    let rules = Rules::new("other-model");
    let careless = FaultServer::with_rules(rules.clone(), move |asked| {
        let mut body = asked.body.clone();
        body["model"] = json!("other-model");
        let (status, answer) = faults::answer(&asked.path, &body, &rules);
        Act::Say(status, "", answer.to_string())
    });
    for (url, message, hint) in [
        (closed.as_str(), "cannot connect", "running"),
        (&denies.base_url, "401 Unauthorized", "API key"),
        (&html.base_url, "unusable answer", "OpenAI-compatible"),
        (&picky.base_url, "model `scripted` is not served", "other-model"),
        (&careless.base_url, "answers to any model name", "other-model"),
        ("http://", "base URL", "http://host:8000/v1"),
        ("localhost:8000", "does not begin with http://", "http://host:8000/v1"),
    ] {
        let error = Endpoint::connect(options(&[url])).unwrap_err();
        assert!(error.message.contains(message), "{}", error.message);
        assert!(error.hint.as_ref().is_some_and(|h| h.contains(hint)), "{error:?}");
    }
    assert!(Endpoint::connect(options(&[])).unwrap_err().message.contains("no base URL"));
}

#[test]
fn the_key_is_sent_and_never_told() {
    let echo = |asked: &Asked| Act::Say(403, "", json!({"error": {"message": asked.head}}).to_string());
    let server = FaultServer::start(move |asked| if asked.prompts("prompt 1") { echo(asked) } else { Act::Answer });
    let with_user = server.base_url.replace("http://", "http://user:hunter2@");
    let options = EndpointOptions { api_key: Some(Secret::new("sk-secret-7\n")), ..options(&[&with_user]) };
    let mut endpoint = Endpoint::connect(options).unwrap();
    let (outcomes, served) = serve(&mut endpoint, &prompts(3));
    assert!(served.is_ok(), "one denied request is not a dead server");
    let shown = format!("{endpoint:?} {outcomes:?} {:?}", endpoint.identity());
    assert!(shown.contains("403"), "{shown}");
    for secret in ["sk-secret", "hunter2"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(server.heads().iter().all(|h| h.to_ascii_lowercase().contains("authorization: bearer sk-secret-7\r\n")));
    let bad = EndpointOptions { api_key: Some(Secret::new("sk-\u{7}secret")), ..self::options(&[&with_user]) };
    assert!(!Endpoint::connect(bad).unwrap_err().message.contains("secret"));
}

#[test]
fn costs_are_counted() {
    let server = EngineServer::start(|| Box::new(Scripted::new()), Rules::new("scripted"));
    let mut endpoint = connect(&server.base_url);
    let requests = prompts(10);
    let (outcomes, served) = serve(&mut endpoint, &requests);
    let stats = served.unwrap();
    let sum =
        |f: fn(&swallow_eval::engine::Generated) -> Option<u32>| outcomes.iter().map(|o| u64::from(f(generated(o)).unwrap())).sum::<u64>();
    assert_eq!((stats.http_requests, stats.shared_tokens), (10, 0));
    assert_eq!((stats.prefill_tokens, stats.decode_tokens), (sum(|g| g.prompt_tokens), sum(|g| g.new_tokens)));
    assert!(requests.iter().all(|r| matches!(r.kind, RequestKind::Generate(_))));
}
