//! What four real servers answered (`golden/endpoints`), through this room's parsers. Skipped where the recordings are not at hand.

use super::capabilities::{Scoring, ServerKind};
use super::http::ErrorBody;
use super::score;
use super::wire::{self, tests::capabilities};
use super::{Capabilities, probe};
use crate::engine::{Finish, Generate, Sampling};
use serde_json::Value;
use std::path::PathBuf;

const SERVERS: [(&str, ServerKind); 4] = [
    ("vllm", ServerKind::Vllm),
    ("llama-server", ServerKind::LlamaServer),
    ("llama-cpp-python", ServerKind::LlamaCppPython),
    ("transformers-serve", ServerKind::TransformersServe),
];

/// The recorded exchanges of one theme, or `None` where there are no recordings.
fn exchanges(server: &str, theme: &str) -> Option<Vec<Value>> {
    let Some(golden) = std::env::var_os("SWALLOW_EVAL_GOLDEN") else {
        skip();
        return None;
    };
    let file = PathBuf::from(golden).join("endpoints").join(server).join(format!("{theme}.json"));
    let text = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let recorded: Value = serde_json::from_slice(&text).unwrap();
    Some(recorded["exchanges"].as_array().unwrap().clone())
}

#[expect(clippy::print_stdout, reason = "a skipped test says why")]
fn skip() {
    println!("skipped: SWALLOW_EVAL_GOLDEN is not set");
}

fn body(exchange: &Value) -> Vec<u8> {
    let response = &exchange["response"];
    response.get("body").map_or_else(|| response["raw"].as_str().unwrap_or_default().to_owned(), Value::to_string).into_bytes()
}

/// The request as this crate would hold it.
fn asked(exchange: &Value) -> Generate {
    let sent = &exchange["request"]["body"];
    let list = |v: &Value| match v {
        Value::String(one) => vec![one.clone()],
        other => serde_json::from_value(other.clone()).unwrap_or_default(),
    };
    let temperature = sent["temperature"].as_f64().unwrap_or(1.0);
    Generate {
        stop: list(&sent["stop"]),
        max_new_tokens: sent["max_tokens"].as_u64().unwrap_or(16).try_into().unwrap(),
        sampling: Sampling { temperature, ..Sampling::GREEDY },
        ..wire::tests::request(&[], &[])
    }
}

fn generous(kind: ServerKind) -> Capabilities {
    Capabilities { max_stops: usize::MAX, ..capabilities(kind) }
}

#[test]
fn every_recorded_completion_is_read() {
    let mut read = 0;
    for (server, kind) in SERVERS {
        for theme in ["completions", "stops", "sampling"] {
            let Some(exchanges) = exchanges(server, theme) else { return };
            for exchange in exchanges.iter().filter(|e| e["response"]["status"] == 200) {
                let (case, recorded) = (&exchange["case"], &exchange["response"]["body"]);
                let answer = wire::parse(&body(exchange)).unwrap_or_else(|e| panic!("{server} {theme} {case}: {e}"));
                let choices = recorded["choices"].as_array().unwrap();
                assert_eq!(answer.choices.len(), choices.len(), "{server} {theme} {case}");
                assert_eq!(answer.usage.completion_tokens.map(u64::from), recorded["usage"]["completion_tokens"].as_u64());
                let request = asked(exchange);
                for (choice, recorded) in answer.choices.into_iter().zip(choices) {
                    let text = recorded["text"].as_str().unwrap();
                    let got = wire::generated(choice, &answer.usage, &request, &generous(kind));
                    assert!(text.starts_with(&got.text), "{server} {theme} {case}");
                    assert!(request.stop.iter().filter(|s| !s.is_empty()).all(|s| !got.text.contains(s)), "{server} {theme} {case}");
                    read += 1;
                }
            }
        }
    }
    assert!(read > 150, "only {read}");
}

/// transformers serve leaves the stop string and the rest of its token in the text; the others cut. All four come out alike.
#[test]
fn a_stop_inside_a_token_is_cut_alike_for_all_servers() {
    for (server, kind) in SERVERS {
        let Some(exchanges) = exchanges(server, "stops") else { return };
        let exchange = exchanges.iter().find(|e| e["case"] == "stop_in_the_middle_of_a_token").unwrap();
        let mut answer = wire::parse(&body(exchange)).unwrap();
        let got = wire::generated(answer.choices.remove(0), &answer.usage, &asked(exchange), &generous(kind));
        assert_eq!(got.finish, Finish::Stop, "{server}");
        assert!(got.text.ends_with('解'), "{server}: {:?}", got.text);
    }
}

#[test]
fn every_recorded_error_has_words() {
    let mut read = 0;
    for (server, _) in SERVERS {
        for theme in ["errors", "stops", "sampling", "completions", "service", "context-length"] {
            let Some(exchanges) = exchanges(server, theme) else { return };
            for exchange in exchanges.iter().filter(|e| e["response"]["status"].as_u64() >= Some(400)) {
                let error = ErrorBody::read(&body(exchange));
                // llama-cpp-python does write an empty message, for a list of prompts.
                let empty = exchange["response"]["body"]["error"]["message"] == "";
                assert_eq!(error.message.is_empty(), empty, "{server} {theme} {}", exchange["case"]);
                assert!(!error.message.starts_with('{'), "{server} {theme} {}: {}", exchange["case"], error.message);
                read += 1;
            }
        }
    }
    assert!(read > 100, "only {read}");
}

#[test]
fn recorded_model_lists_tell_the_kind() {
    for (server, kind) in SERVERS {
        let Some(exchanges) = exchanges(server, "service") else { return };
        let models = exchanges.iter().find(|e| e["case"] == "models").unwrap();
        let header = models["response"]["headers"]["server"].as_str();
        let about = probe::read_models(&models["response"]["body"], "tiny-llama31", header);
        match kind {
            ServerKind::TransformersServe => assert!(about.kind.is_none() && about.listed.is_empty()),
            _ => assert_eq!((about.kind, &about.listed[..]), (Some(kind), &["tiny-llama31".to_owned()][..]), "{server}"),
        }
        let length = matches!(kind, ServerKind::Vllm | ServerKind::LlamaServer).then_some(512);
        assert_eq!(about.max_model_len, length, "{server}");
    }
}

/// What four servers answered to the same twelve tokens, a BOS and eleven more: vLLM tells what it was asked, the others are caught.
#[test]
fn recorded_log_probabilities_are_read_or_caught() {
    const IDS: [u32; 12] = [900, 505, 25, 499, 504, 302, 795, 331, 332, 491, 25, 794];
    for (server, _) in SERVERS {
        let Some(exchanges) = exchanges(server, "prompt-logprobs") else { return };
        let named = |case: &str| exchanges.iter().find(|e| e["case"] == case).unwrap();
        let read = |scoring, case: &str| score::read(scoring, &body(named(case)), &IDS, 1);
        let told = [
            read(Scoring::PromptLogprobs, "prompt_logprobs_0"),
            read(Scoring::PromptLogprobs, "prompt_logprobs_1_ids"),
            read(Scoring::Echo, "echo_logprobs_1"),
            read(Scoring::Echo, "echo_logprobs_1_return_tokens_as_token_ids"),
        ];
        if server == "vllm" {
            let sums: Vec<f64> = told.iter().map(|t| score::sum(t.as_ref().unwrap()).logprob).collect();
            assert!(sums.iter().all(|s| (s - sums[0]).abs() < 1e-6), "{sums:?}");
            let first = told[0].as_ref().unwrap();
            assert_eq!((first.len(), first[0].greedy, first[1].greedy), (11, false, true));
            assert!((sums[0] - -5.5675).abs() < 1e-3, "{sums:?}");
        } else {
            // llama-cpp-python leaves the BOS out of its lists, the others ignore the request.
            assert!(told.iter().all(Result::is_err), "{server}: {told:?}");
        }
    }
}
