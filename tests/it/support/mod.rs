//! Real parts for tests: a small engine, an OpenAI-compatible server around any engine, a server that misbehaves as told.

pub(crate) mod batches;
pub(crate) mod browser;
pub(crate) mod desk;
pub(crate) mod faults;
pub(crate) mod hash_model;
pub(crate) mod ids_server;
pub(crate) mod openai;
pub(crate) mod random_model;
pub(crate) mod recorded;
pub(crate) mod scripted;
pub(crate) mod server;
pub(crate) mod toy;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use swallow_eval::engine::{
    Engine, EngineError, Generate, Generated, Outcome, Output, Request, RequestKind, Sampling, Sink, Stats, TokenRules,
};

/// The folder an environment variable names, or `None` after saying that the test is skipped because of it.
pub(crate) fn folder_of(variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: {variable} is not set");
    }
    folder
}

/// A greedy request without stop strings.
pub(crate) fn generate(prompt: &str, max_new_tokens: u32) -> Generate {
    Generate {
        prompt: prompt.to_owned(),
        sample: 0,
        max_new_tokens,
        stop: vec![],
        enough: vec![],
        sampling: Sampling::GREEDY,
        rules: TokenRules::default(),
    }
}

/// The request that asks for `generate`.
pub(crate) fn request(generate: Generate) -> Request {
    Request::new(RequestKind::Generate(generate))
}

/// Serves everything and gives back the outcomes in the order of `requests`; panics unless there is exactly one for each.
pub(crate) fn serve_all(engine: &mut dyn Engine, requests: &[Request]) -> Vec<Outcome> {
    let (outcomes, served) = serve(engine, requests);
    served.expect("the engine serves to the end");
    let mut outcomes: Vec<Option<Outcome>> = outcomes.into_iter().map(Some).collect();
    assert_eq!(outcomes.len(), requests.len(), "one outcome for each request");
    requests
        .iter()
        .map(|r| {
            let found = outcomes.iter_mut().find(|o| o.as_ref().is_some_and(|o| outcome_id(o) == r.id.0));
            found.unwrap_or_else(|| panic!("no outcome for {}", r.id)).take().expect("found as present")
        })
        .collect()
}

/// Serves and collects what was pushed, in that order.
pub(crate) fn serve(engine: &mut dyn Engine, requests: &[Request]) -> (Vec<Outcome>, Result<Stats, EngineError>) {
    let mut outcomes = Vec::new();
    let mut push = |outcome| {
        outcomes.push(outcome);
        ControlFlow::Continue(())
    };
    let cancel = AtomicBool::new(false);
    let served = engine.serve(requests, &mut Sink::new(&mut push, &cancel));
    (outcomes, served)
}

/// The id that an outcome is about.
pub(crate) fn outcome_id(outcome: &Outcome) -> &str {
    match outcome {
        Ok(response) => &response.id.0,
        Err(failure) => &failure.id.0,
    }
}

/// The generated answer in an outcome.
pub(crate) fn generated(outcome: &Outcome) -> &Generated {
    match outcome {
        Ok(response) => match &response.output {
            Output::Generated(generated) => generated,
            other => panic!("a generation was asked for: {other:?}"),
        },
        Err(failure) => panic!("failed: {failure:?}"),
    }
}

/// Texts of outcomes that must all be answers.
pub(crate) fn texts(outcomes: &[Outcome]) -> Vec<&str> {
    outcomes.iter().map(|o| generated(o).text.as_str()).collect()
}
