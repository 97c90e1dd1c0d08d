//! The English tasks end to end over real data, in-process, and the defects of other harnesses that a whole run must not have (D3, D6 to D9;
//! D1, D2 and D5 are in `endpoint`, D4 in `endpoint_scores`).

use crate::support::{desk::Desk, folder_of, ids_server};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const TASKS: &str = "run --suite en --tasks xwinograd_en,mmlu --limit 3 --quiet";

/// A folder with the data at hand and two models of one tokenizer, `a` and `b`, that answer otherwise.
fn desk() -> Option<Desk> {
    let data = folder_of("SWALLOW_EVAL_DATA")?.canonicalize().unwrap();
    let desk = Desk::new().env("SWALLOW_EVAL_DATA", data);
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/micro-llama");
    for name in ["a", "b"] {
        let to = desk.folder.path().join(name);
        fs::create_dir(&to).unwrap();
        for file in ["generation_config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"] {
            fs::copy(from.join(file), to.join(file)).unwrap();
        }
        let config = fs::read_to_string(from.join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&config).unwrap();
        if name == "b" {
            config["rope_theta"] = 500.0.into();
        }
        fs::write(to.join("config.json"), config.to_string()).unwrap();
    }
    Some(desk)
}

fn run_of(desk: &Desk, output: &str) -> PathBuf {
    let runs = fs::read_dir(desk.folder.path().join(output).join("runs")).unwrap();
    runs.map(|run| run.unwrap().path()).max_by_key(|run| fs::metadata(run.join("run.json")).unwrap().modified().unwrap()).unwrap()
}

fn samples(run: &Path) -> Vec<Value> {
    fs::read_to_string(run.join("samples.jsonl")).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn answered(run: &Path) -> u64 {
    let spec: Value = serde_json::from_str(&fs::read_to_string(run.join("run.json")).unwrap()).unwrap();
    spec["timing"]["sessions"][0]["answered"].as_u64().unwrap()
}

#[test]
fn choices_are_scored_shown_and_scored_again_without_the_model() {
    let Some(desk) = desk() else { return };
    let said = desk.run(&format!("{TASKS} --model a --output own"));
    assert_eq!(said.code, 0, "{}", said.err);
    let run = run_of(&desk, "own");
    for sample in samples(&run) {
        let values: Vec<f64> = sample["log_likelihoods"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let choices = if sample["task"] == "mmlu" { 4 } else { 2 };
        assert!(values.len() == choices && values.iter().all(|v| *v < 0.0), "{sample}");
        let right = sample["answer"] == sample["reference"][0];
        assert_eq!(sample["scores"]["acc"], f64::from(u8::from(right)), "{sample}");
    }
    let scores: Value = serde_json::from_str(&fs::read_to_string(run.join("scores.json")).unwrap()).unwrap();
    let mmlu = scores["tasks"].as_array().unwrap().iter().find(|task| task["task"] == "mmlu").unwrap();
    let paths: Vec<&Value> = mmlu["groups"].as_array().unwrap().iter().map(|group| &group["path"]).collect();
    assert_eq!(paths, ["humanities", "humanities/international_law"]);
    assert_eq!(mmlu["stderr"], mmlu["groups"][1]["stderr"], "one part is the whole");

    fs::remove_dir_all(desk.folder.path().join("a")).unwrap();
    let before = (fs::read(run.join("scores.json")).unwrap(), fs::read(run.join("samples.jsonl")).unwrap());
    let again = desk.run(&format!("score {}", run.display()));
    assert_eq!(again.code, 0, "{}", again.err);
    assert_eq!((fs::read(run.join("scores.json")).unwrap(), fs::read(run.join("samples.jsonl")).unwrap()), before);
}

/// What is missing is named, all of it, and stops the run unless it may be left out.
#[test]
fn missing_data_is_named_and_may_be_left_out() {
    let Some(desk) = desk() else { return };
    let stopped = desk.run("run --suite en --offline --quiet --model a --limit 1");
    assert_eq!((stopped.code, stopped.out.as_str()), (4, ""), "{}", stopped.err);
    let missing = ["openbookqa", "triviaqa", "hellaswag", "squadv2"];
    assert!(
        stopped.err.contains("openbookqa/OpenBookQA-V1-Sep2018.zip is missing") && stopped.err.contains("--skip-missing"),
        "{}",
        stopped.err
    );
    let gone = desk.run("run --suite en --offline --quiet --dry-run --model a --limit 1 --skip-missing");
    assert_eq!(gone.code, 0, "{}", gone.err);
    for task in missing {
        assert!(gone.err.contains(&format!("task '{task}' is left out")), "{task}: {}", gone.err);
    }
    for task in ["xwinograd_en", "mmlu", "gsm8k", "bbh_cot_fewshot"] {
        assert!(!gone.err.contains(&format!("task '{task}'")) && gone.out.contains(task), "{task}: {} {}", gone.out, gone.err);
    }
}

/// The four tasks with data at hand, in-process and over a server with prompt log-probabilities around the same model: equal requests, equal
/// texts and scores, log-likelihoods within what another order of additions leaves.
#[test]
fn a_server_and_this_process_say_the_same() {
    let Some(desk) = desk() else { return };
    let model = desk.folder.path().join("a");
    // BBH wants 1,024 new tokens behind its examples. The documents are those with the shortest prompts.
    let mut config: Value = serde_json::from_str(&fs::read_to_string(model.join("config.json")).unwrap()).unwrap();
    config["max_position_embeddings"] = 8192.into();
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    let samples = r#"{"xwinograd_en":[0,155],"mmlu":[121],"gsm8k":[554],"bbh_cot_fewshot":[4583]}"#;
    let desk = desk.file("samples.json", samples);
    let line = "run --suite en --tasks xwinograd_en,mmlu,gsm8k,bbh_cot_fewshot --samples samples.json --offline --quiet";
    let said = desk.run(&format!("{line} --model a --output own"));
    assert_eq!(said.code, 0, "{}", said.err);
    let server = ids_server::start(&model, "a");
    let said = desk.run(&format!("{line} --base-url {} --model a --tokenizer a --output served", server.base_url));
    assert_eq!(said.code, 0, "{}", said.err);

    let (own, served) = (run_of(&desk, "own"), run_of(&desk, "served"));
    let (own, served) = (answers(&own), answers(&served));
    assert_eq!(own.keys().collect::<Vec<_>>(), served.keys().collect::<Vec<_>>(), "equal requests have equal ids");
    let kinds = own.iter().map(|(id, own)| same(own, &served[id])).collect::<Vec<_>>();
    assert_eq!(["log_likelihoods", "generated"].map(|kind| kinds.iter().filter(|k| *k == kind).count()), [5, 2]);
    let scores = |run: &str| {
        let file = run_of(&desk, run).join("scores.json");
        let scores: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let tasks = scores["tasks"].as_array().unwrap().clone();
        tasks.into_iter().map(|task| [&task["task"], &task["value"], &task["others"]].map(Value::clone)).collect::<Vec<_>>()
    };
    assert_eq!(scores("own"), scores("served"));
}

/// The journal, by request.
fn answers(run: &Path) -> BTreeMap<String, Value> {
    let lines = fs::read_to_string(run.join("responses.jsonl")).unwrap();
    let rows = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.map(|row| (row["id"].as_str().unwrap().to_owned(), row)).collect()
}

/// Holds two answers against each other and names their kind.
fn same(own: &Value, served: &Value) -> String {
    if own["output"] == "generated" {
        assert_eq!([&own["text"], &own["new_tokens"]], [&served["text"], &served["new_tokens"]], "{own} {served}");
    } else {
        let all = |row: &Value| row["continuations"].as_array().unwrap().clone();
        let (own, served) = (all(own), all(served));
        assert_eq!(own.len(), served.len());
        for (own, served) in own.iter().zip(&served) {
            let apart = own["logprob"].as_f64().unwrap() - served["logprob"].as_f64().unwrap();
            assert!(apart.abs() < 1e-4, "{own} {served}");
            assert_eq!([&own["is_greedy"], &own["tokens"]], [&served["is_greedy"], &served["tokens"]]);
        }
    }
    own["output"].as_str().unwrap().to_owned()
}

/// D3: a cache of answers without the model in its key reports one model's answers as another's.
#[test]
fn d3_answers_of_one_model_are_never_those_of_another() {
    let Some(desk) = desk() else { return };
    let run = |model: &str| {
        let said = desk.run(&format!("{TASKS} --use_cache cache --model {model} --output {model}-runs"));
        assert_eq!(said.code, 0, "{}", said.err);
        run_of(&desk, &format!("{model}-runs"))
    };
    let (a, b) = (run("a"), run("b"));
    assert_eq!((answered(&a), answered(&b)), (9, 9), "every request of the second model is asked");
    let values = |run: &Path| samples(run).iter().map(|sample| sample["log_likelihoods"].clone()).collect::<Vec<_>>();
    assert_ne!(values(&a), values(&b));
    let mixed = desk.run(&format!("{TASKS} --model b --resume {}", a.display()));
    assert!(mixed.code != 0 && mixed.err.contains("model"), "{} {}", mixed.code, mixed.err);
}

/// D6: results that cannot be written are a warning, and the exit code is 0.
#[test]
fn d6_an_output_that_cannot_be_written_is_no_success() {
    let desk = Desk::new().file("taken", "a file");
    for line in [
        "run --demo --tasks jemhopqa --limit 1 --quiet --output taken",
        "run --demo --tasks jemhopqa --limit 1 --quiet --output taken/below",
    ] {
        let said = desk.run(line);
        assert!(said.code == 2 && said.err.contains("taken"), "{} {}", said.code, said.err);
    }
}

/// D7: a mistake in an answer's pattern is found after all inference.
#[test]
fn d7_a_mistaken_pattern_is_found_before_the_first_request() {
    let desk = Desk::new();
    let own = desk.run("tasks show gsm8k").out.replace("aliases  = [\"gsm8k\"]", "aliases  = []");
    fs::create_dir(desk.folder.path().join("mine")).unwrap();
    for (pattern, part) in [("#### (\\\\-?[0-9", "is not valid"), ("#### [0-9]+", "has no group to find")] {
        let mistaken = own.replace("'#### (\\-?[0-9\\.\\,]+)'", &format!("\"{pattern}\""));
        assert_ne!(mistaken, own);
        fs::write(desk.folder.path().join("mine/mistaken.toml"), mistaken).unwrap();
        desk.run("run --demo --suite en --tasks mistaken --include-path mine --output runs").fails(2, &["mistaken.toml", part]);
    }
    assert!(!desk.folder.path().join("runs").exists());
}

/// D8: a mock model wants the network for a tokenizer, fails, and the exit code is 0.
#[test]
fn d8_the_demo_needs_no_network_and_a_failure_is_no_success() {
    let desk = Desk::new().env("HTTPS_PROXY", "http://127.0.0.1:9").env("HTTP_PROXY", "http://127.0.0.1:9");
    let said = desk.run("run --demo --offline --tasks jemhopqa --limit 1 --quiet --output runs");
    assert_eq!(said.code, 0, "{}", said.err);
    desk.run("run --suite ja --tasks mgsm --offline --base-url http://127.0.0.1:9/v1 --model m").fails(4, &["mgsm_ja.tsv is missing"]);
}

/// D9: half a minute to list tasks, because everything is loaded first. No time is asserted here: what is not done takes none.
#[test]
fn d9_listing_tasks_needs_no_home_no_data_and_no_network() {
    let desk = Desk::new().env("HOME", "/nonexistent").env("HTTPS_PROXY", "http://127.0.0.1:9");
    let said = desk.run("tasks list");
    assert_eq!(said.code, 0, "{}", said.err);
    for task in ["openbookqa", "triviaqa", "hellaswag", "squadv2", "xwinograd_en", "mmlu", "gsm8k", "bbh_cot_fewshot"] {
        assert!(said.out.contains(task), "{task} is not in {}", said.out);
    }
    assert_eq!(fs::read_dir(desk.folder.path()).unwrap().count(), 0, "nothing is written");
}
