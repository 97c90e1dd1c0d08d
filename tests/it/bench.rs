//! `bench` as a person meets it: what is computed, the line that is printed, and what is wrong with an input.

use crate::support::desk::{Desk, Said};
use crate::support::folder_of;
use serde_json::{Value, json};
use std::fs;

/// Lines of a file in the desk's folder.
fn lines(desk: &Desk, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(desk.folder.path().join(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The measurements on standard output: the five keys, and nothing that cannot be.
fn measured(said: &Said) -> Vec<Value> {
    assert_eq!(said.code, 0, "{}", said.err);
    let measured: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &measured {
        let keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys[..5], ["name", "n", "seconds", "per_s", "peak_rss_mb"], "{line}");
        let rate = line["n"].as_f64().unwrap() / line["seconds"].as_f64().unwrap();
        assert!((line["per_s"].as_f64().unwrap() / rate - 1.0).abs() < 1e-9, "{line}");
    }
    measured
}

#[test]
fn segment_gives_the_words_of_the_goldens() {
    let (Some(golden), Some(data)) = (folder_of("SWALLOW_EVAL_GOLDEN"), folder_of("SWALLOW_EVAL_DATA")) else { return };
    let vectors = fs::read_to_string(golden.join("metrics/nagisa_words.jsonl")).unwrap();
    let some: Vec<&str> = vectors.lines().step_by(97).collect();
    let input = format!("{}\n\n\"東京です。\"\n", some.join("\n"));
    let desk = Desk::new().file("in.jsonl", &input).env("SWALLOW_EVAL_DATA", data);
    let said = desk.run("bench segment --input in.jsonl --output out.jsonl --threads 1 --offline");
    assert_eq!(measured(&said)[0]["n"], some.len() + 1);
    let got = lines(&desk, "out.jsonl");
    for (expected, got) in some.iter().zip(&got) {
        assert_eq!(serde_json::from_str::<Value>(expected).unwrap(), *got);
    }
    assert_eq!(got.last().unwrap()["words"], serde_json::json!(["東京", "です", "。"]));
}

#[test]
fn a_wrong_input_is_named_with_its_line() {
    let desk = Desk::new().file("empty", "\n").file("broken", "\"a\"\n{").file("number", "\"a\"\n\n3");
    for (line, parts) in [
        ("bench segment --input none", &["failed to read --input none"][..]),
        ("bench segment --input empty", &["--input empty has no line"]),
        ("bench segment --input broken", &["broken:2 is no JSON"]),
        ("bench segment --input number", &["number:3 must be a string"]),
    ] {
        desk.run(line).fails(2, parts);
    }
    let missing = Desk::new().file("in", "\"a\"");
    missing.run("bench segment --input in --offline").fails(4, &["nagisa", "hint: "]);
}

#[test]
fn a_model_is_timed_and_its_sharing_counted() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/micro-llama");
    let line = "bench --prompt 40 --batch 1,3 --new 4 --documents 5 --shared 33 --own 7 --threads 1 --offline --model";
    let said = Desk::new().run(&format!("{line} {model}"));
    let lines = measured(&said);
    let names: Vec<&str> = lines.iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["documents", "matmul", "copy", "prefill", "decode 1", "decode 3"]);
    assert_eq!((&lines[0]["computed_tokens"], &lines[0]["shared_tokens"]), (&(33 + 5 * 7).into(), &(4 * 33).into()));
    assert_eq!((&lines[3]["n"], &lines[4]["n"], &lines[5]["n"]), (&40.into(), &3.into(), &9.into()));
    assert!(lines[3]["share_of_matmul"].as_f64().unwrap() > 0.0 && lines[5]["share_of_copy"].as_f64().unwrap() > 0.0);
    let apart = Desk::new().run(&format!("{line} {model} --no-prefix-sharing"));
    assert_eq!(measured(&apart)[0]["computed_tokens"], 5 * 40);
}

#[test]
fn a_model_that_cannot_fit_is_refused_before_it_is_made() {
    let Some(memory) = swallow_eval::results::spec::Machine::current().memory_kib.filter(|kib| *kib < 280 << 20) else {
        eprintln!("skipped: this machine does not say how much memory it has, or has enough");
        return;
    };
    let said = Desk::new().run("bench --random-weights llama-3.1-70b");
    said.fails(5, &["llama-3.1-70b needs 262.8 GiB", &format!("has {:.1} GiB", memory as f64 / 1048576.0), "hint: "]);
    Desk::new().run("bench").fails(2, &["--model"]);
}

/// Recorded requests in the form of the goldens, and what came of them, one at a time and all at once.
#[test]
fn requests_give_the_same_alone_and_together() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/micro-llama");
    let generation = |prompt: &str, stop: &str| {
        let request = json!({"kind": "generate", "prompt": prompt, "stop": [stop], "max_new_tokens": 6, "temperature": 0.0});
        json!({"doc_id": prompt, "request": request})
    };
    let rows = [
        generation("質問：海", "\n"),
        generation("質問：空は", "。"),
        json!({"doc_id": 7, "request": {"kind": "loglikelihood", "prompt": "質問：海", "continuations": ["A", "青い"]},
               "extra_requests": [{"kind": "loglikelihood", "prompt": "答え", "continuations": ["A"]}]}),
        json!({"doc_id": "own", "request": {"kind": "loglikelihood", "prompt": null, "prompts": ["海", "空"], "continuations": ["A", "A"]}}),
    ];
    let ask = |rows: &[Value], flags: &str| {
        let input: String = rows.iter().map(|row| format!("{row}\n")).collect();
        let desk = Desk::new().file("in", &input);
        let said = desk.run(&format!("bench requests --input in --output out --offline --model {model}{flags}"));
        assert_eq!(measured(&said)[0]["n"], rows.len());
        lines(&desk, "out")
    };
    let together = ask(&rows, "");
    let alone: Vec<Value> = rows.iter().flat_map(|row| ask(std::slice::from_ref(row), " --threads 1")).collect();
    assert_eq!(together, alone);
    assert_eq!(together, ask(&rows, " --no-prefix-sharing"));
    let [first, _, scored, own] = together.as_slice() else { panic!("{together:?}") };
    assert_eq!((&first["id"], first["texts"].as_array().unwrap().len()), (&json!("質問：海"), 1));
    assert!((1..=6).contains(&first["token_ids"][0].as_array().unwrap().len()));
    assert_eq!((scored["loglikelihoods"].as_array().unwrap().len(), scored["is_greedy"].as_array().unwrap().len()), (2, 2));
    assert_eq!(scored["extra"][0]["loglikelihoods"].as_array().unwrap().len(), 1);
    assert!(own["loglikelihoods"].as_array().unwrap().iter().all(|value| value.as_f64().unwrap() < 0.0));
}

#[test]
fn score_gives_the_value_of_each_pair() {
    let pairs = "{\"prediction\": \"東京\", \"reference\": \"東京都\"}\n{\"prediction\": \"a\", \"references\": [\"b\", \"a\"]}\n";
    let desk = Desk::new().file("in", pairs).file("wrong", "{\"prediction\": 1}");
    let said = desk.run("bench score --metric char_f1 --input in --output out");
    assert_eq!((measured(&said)[0]["name"].as_str(), measured(&said)[0]["n"].as_u64()), (Some("char_f1"), Some(2)));
    let values = lines(&desk, "out");
    assert!((values[0]["value"].as_f64().unwrap() - 0.8).abs() < 1e-9, "{values:?}");
    assert!(said.err.contains("note: char_f1 of 2 pairs: "), "{}", said.err);
    desk.run("bench score --metric char_f1 --input wrong").fails(2, &["wrong:1 must be an object"]);
    desk.run("bench score --metric rouge2 --input in").fails(2, &["rouge2 is scored on the evaluated model's tokens", "--tokenizer"]);
    desk.run("bench score --metric none --input in").fails(2, &["char_f1"]);
}

/// Verdicts are those of the programs, in their order; a line that is none is named.
#[test]
fn programs_are_executed_and_their_verdicts_kept() {
    let programs = ["assert 1 + 1 == 2", "assert 1 + 1 == 3"];
    let lines = format!("{}\n{}\n", json!(programs[0]), json!({ "program": programs[1] }));
    let desk = Desk::new().file("in", &lines).env("PATH", "/usr/local/bin:/usr/bin:/bin").file("wrong", "\"pass\"\n7\n");
    desk.run("bench execute --input wrong").fails(2, &["wrong:2 must be a string", "\"program\""]);
    let said = desk.run("bench execute --input in --output out");
    if said.code == 5 {
        return eprintln!("skipped: {}", said.err);
    }
    assert_eq!(said.code, 0, "{}", said.err);
    let line: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&line["name"], &line["n"]), (&"execute".into(), &2.into()));
    let out = fs::read_to_string(desk.folder.path().join("out")).unwrap();
    let verdicts: Vec<Value> = out.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["verdict"].clone()).collect();
    assert_eq!(verdicts, ["passed", "failed"]);
}
