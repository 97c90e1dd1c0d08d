//! One suite for every engine: what a task may rely on, whoever answers.
//!
//! To add an engine: one test that builds it and calls [`cases`].

use crate::support::openai::{EngineServer, Rules};
use crate::support::scripted::Scripted;
use crate::support::{generate, generated, outcome_id, request, serve_all, texts};
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use swallow_eval::engine::endpoint::{Endpoint, EndpointOptions};
use swallow_eval::engine::replay::Replay;
use swallow_eval::engine::{Engine, Finish, Generate, LogLikelihood, Output, Request, RequestKind, Sampling, Sink};
use swallow_eval::text::stop::cut_at_stop;

const PROMPT: &str = "Question: Which country is Rome in?\nAnswer:";

/// Runs every case. The engine must continue [`PROMPT`] greedily with at least three tokens.
pub(crate) fn cases(engine: &mut dyn Engine) {
    ids_echo_once_each(engine);
    equal_greedy_requests_have_equal_texts(engine);
    the_token_limit_holds(engine);
    stop_strings_cut_at_the_earliest_match(engine);
    enough_never_changes_what_stands_before_it(engine);
    samples_follow_their_seeds(engine);
    an_empty_prompt_has_an_outcome(engine);
    log_likelihoods_are_sums_of_logarithms_or_refused(engine);
    break_stops(engine);
    a_cancelled_run_pushes_nothing(engine);
}

fn ids_echo_once_each(engine: &mut dyn Engine) {
    let requests: Vec<Request> = (0..40).map(|i| request(generate(&format!("{i}. {PROMPT}"), 4))).collect();
    // `serve_all` panics unless every id comes back exactly once.
    serve_all(engine, &requests);
    assert!(serve_all(engine, &[]).is_empty());
}

fn equal_greedy_requests_have_equal_texts(engine: &mut dyn Engine) {
    let alone = serve_all(engine, &[request(generate(PROMPT, 24))]);
    let company: Vec<Request> = (0..8).map(|i| request(Generate { sample: i, ..generate(PROMPT, 24) })).collect();
    for text in texts(&serve_all(engine, &company)) {
        assert_eq!(text, generated(&alone[0]).text);
    }
}

fn the_token_limit_holds(engine: &mut dyn Engine) {
    let full = whole(engine);
    for limit in [0, 1, 2, 3] {
        let outcomes = serve_all(engine, &[request(generate(PROMPT, limit))]);
        let short = generated(&outcomes[0]);
        assert!(full.starts_with(short.text.trim_end_matches('\u{fffd}')), "{full:?} does not begin with {:?}", short.text);
        assert_eq!(short.finish, Finish::Length, "limit {limit}");
        if let Some(n) = short.new_tokens {
            assert_eq!(n, limit);
        }
        assert_eq!(limit == 0, short.text.is_empty(), "limit {limit}: {:?}", short.text);
    }
}

/// Every pair of neighbouring characters of the greedy text is tried as a stop string, so some lie across token borders; lists of more
/// strings than servers take hold the one that matters at the end.
fn stop_strings_cut_at_the_earliest_match(engine: &mut dyn Engine) {
    let full = whole(engine);
    let chars: Vec<char> = full.chars().collect();
    let pairs: Vec<String> = chars.windows(2).take(16).map(|pair| pair.iter().collect()).collect();
    let mut lists: Vec<Vec<String>> = pairs.iter().map(|pair| vec![pair.clone()]).collect();
    let filler = |n: usize| (0..n).map(|i| format!("<never {i}>"));
    lists.extend([5, 8, 40].map(|n| filler(n).chain(pairs.last().cloned()).collect()));
    lists.push(pairs.iter().rev().cloned().collect());
    let requests: Vec<Request> = lists.iter().map(|stop| request(Generate { stop: stop.clone(), ..generate(PROMPT, 24) })).collect();
    for (stop, outcome) in lists.iter().zip(serve_all(engine, &requests)) {
        let (expected, _) = cut_at_stop(&full, stop);
        assert_eq!(generated(&outcome).text, expected, "{stop:?} in {full:?}");
        assert_eq!(generated(&outcome).finish, Finish::Stop, "{stop:?}");
    }
}

fn enough_never_changes_what_stands_before_it(engine: &mut dyn Engine) {
    let full = whole(engine);
    let enough = vec![full.chars().skip(2).take(2).collect::<String>()];
    let outcomes = serve_all(engine, &[request(Generate { enough: enough.clone(), ..generate(PROMPT, 24) })]);
    assert_eq!(cut_at_stop(&generated(&outcomes[0]).text, &enough).0, cut_at_stop(&full, &enough).0);
}

fn samples_follow_their_seeds(engine: &mut dyn Engine) {
    let sample = |sample: u32, seed: u64| {
        request(Generate { sample, sampling: Sampling { temperature: 1.0, seed, ..Sampling::GREEDY }, ..generate(PROMPT, 24) })
    };
    let requests: Vec<Request> = (0..6).map(|i| sample(i, 100 + u64::from(i))).collect();
    let first = serve_all(engine, &requests);
    let first = texts(&first);
    let together = serve_all(engine, &requests);
    assert_eq!(first, texts(&together), "same seeds, same texts");
    for (request, text) in requests.iter().zip(&first) {
        assert_eq!(texts(&serve_all(engine, std::slice::from_ref(request))), [*text], "alone as among others");
    }
    assert!(first.iter().any(|text| *text != first[0]), "six seeds, one text: {first:?}");
}

fn an_empty_prompt_has_an_outcome(engine: &mut dyn Engine) {
    let requests = [request(generate("", 4)), request(generate(PROMPT, 4))];
    let outcomes = serve_all(engine, &requests);
    if let Err(failure) = &outcomes[0] {
        assert!(!failure.message.is_empty());
    }
    assert!(outcomes[1].is_ok(), "the others go on");
}

fn log_likelihoods_are_sums_of_logarithms_or_refused(engine: &mut dyn Engine) {
    let rules = generate(PROMPT, 1).rules;
    let kind =
        RequestKind::LogLikelihood(LogLikelihood { context: PROMPT.into(), continuations: vec![" Italy".into(), " 7".into()], rules });
    let asked = Request::new(kind);
    if let Some(error) = engine.refusal(&asked) {
        assert!(!error.message.is_empty());
        assert!(serve_all(engine, &[asked])[0].is_err(), "what is refused is not answered");
        return;
    }
    let outcomes = serve_all(engine, &[asked]);
    let Ok(Output::LogLikelihoods { continuations }) = outcomes[0].as_ref().map(|r| &r.output) else { panic!("{outcomes:?}") };
    assert_eq!(continuations.len(), 2);
    assert!(continuations.iter().all(|c| c.logprob <= 0.0 && c.tokens > 0));
    assert_ne!(continuations[0].logprob, continuations[1].logprob);
}

fn break_stops(engine: &mut dyn Engine) {
    let requests: Vec<Request> = (0..30).map(|i| request(generate(&format!("{PROMPT} {i}"), 4))).collect();
    let mut pushed = 0;
    let mut push = |_| {
        pushed += 1;
        ControlFlow::Break(())
    };
    engine.serve(&requests, &mut Sink::new(&mut push, &AtomicBool::new(false))).unwrap();
    assert_eq!(pushed, 1);
}

fn a_cancelled_run_pushes_nothing(engine: &mut dyn Engine) {
    let mut push = |outcome| panic!("pushed after cancel: {}", outcome_id(&outcome));
    engine.serve(&[request(generate(PROMPT, 4))], &mut Sink::new(&mut push, &AtomicBool::new(true))).unwrap();
}

/// The greedy text of 24 tokens.
fn whole(engine: &mut dyn Engine) -> String {
    let text = generated(&serve_all(engine, &[request(generate(PROMPT, 24))])[0]).text.clone();
    assert!(text.chars().count() > 3, "too short to test with: {text:?}");
    text
}

#[test]
fn scripted_engine() {
    cases(&mut Scripted::new());
}

#[test]
fn endpoint_over_loopback() {
    for max_stops in [0, 1, 4, 100] {
        let rules = Rules { max_stops, ..Rules::new("scripted") };
        let server = EngineServer::start(|| Box::new(Scripted::new()), rules);
        cases(&mut Endpoint::connect(EndpointOptions::new(vec![server.base_url.clone()], "scripted")).unwrap());
    }
}

/// Replay is not run through [`cases`]: it answers nothing that was not recorded. What was recorded comes back as it was.
#[test]
fn replay_gives_back_what_was_recorded() {
    let requests: Vec<Request> = (0..20).map(|i| request(generate(&format!("{PROMPT} {i}"), 8))).collect();
    let recorded = serve_all(&mut Scripted::new(), &requests);
    let responses = recorded.iter().map(|o| o.clone().unwrap()).collect();
    let mut replay = Replay::new(Scripted::new().identity().clone(), responses);
    assert_eq!(serve_all(&mut replay, &requests), recorded);
    break_stops(&mut replay);
}
