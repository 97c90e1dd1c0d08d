//! HumanEval end to end: ten samples a problem, in this process and over a server, executed once.

use crate::support::{
    desk::Desk,
    folder_of,
    openai::{EngineServer, Rules},
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};
use swallow_eval::engine::{
    Decode, EndTokens, Engine, TokenRules,
    llama::{Llama, LoadOptions},
};

fn rows(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn only_run(desk: &Desk, output: &str) -> PathBuf {
    fs::read_dir(desk.folder.path().join(output).join("runs")).unwrap().next().unwrap().unwrap().path()
}

/// What each sample said, and the scores of its problem.
fn told(run: &Path) -> Vec<(Value, Value, Value)> {
    rows(&run.join("samples.jsonl")).iter().map(|s| (s["doc_id"].clone(), s["outcomes"].clone(), s["scores"].clone())).collect()
}

/// A server that allows one choice a request gives the ten samples all the same; they are those of this process, since each has its seed.
#[test]
fn ten_samples_a_problem_come_from_a_server_and_from_this_process_alike() {
    let Some(data) = folder_of("SWALLOW_EVAL_DATA") else { return };
    let desk = Desk::new().env("SWALLOW_EVAL_DATA", data.canonicalize().unwrap());
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine/demo");
    let line = "run --suite en --tasks humaneval --limit 1 --quiet --defects clean";
    let own = desk.run(&format!("{line} --model {} --output own", model.display()));
    own.works(&["HumanEval"]);
    let load = {
        let model = model.clone();
        move || -> Box<dyn Engine> {
            Box::new(Llama::load(&model, &LoadOptions { model: "tiny".into(), ..LoadOptions::default() }).unwrap())
        }
    };
    let rules = TokenRules { end: EndTokens::GenerationConfig, decode: Decode::Alone, ..TokenRules::default() };
    let server = EngineServer::start(load, Rules { token_rules: rules, ..Rules::new("tiny") });
    let line = format!("{line} --base-url {} --model tiny", server.base_url);
    let served = desk.run(&format!("{line} --tokenizer {} --output served", model.display()));
    served.works(&["HumanEval"]);
    let asked = server.take_bodies();
    let samples = asked.iter().filter(|body| body["temperature"] == 0.2);
    assert!(samples.clone().count() >= 10 && samples.clone().all(|body| body.get("n").is_none_or(|n| n == 1)), "{asked:?}");
    let (here, there) = (told(&only_run(&desk, "own")), told(&only_run(&desk, "served")));
    assert_eq!(here.len(), 1);
    assert_eq!(here, there);
    // Room for the answer is what the prompt leaves of 1,024 tokens: not to be had without the tokenizer.
    desk.run(&format!("{line} --output none")).fails(5, &["own tokens", "--tokenizer"]);
}
