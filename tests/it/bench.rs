//! `bench` as a person meets it: what is computed, the line that is printed, and what is wrong with an input.

use crate::support::desk::{Desk, Said};
use serde_json::Value;
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
    let (Some(golden), Some(data)) = (std::env::var_os("SWALLOW_EVAL_GOLDEN"), std::env::var_os("SWALLOW_EVAL_DATA")) else {
        println!("skipped: SWALLOW_EVAL_GOLDEN and SWALLOW_EVAL_DATA are not both set");
        return;
    };
    let vectors = fs::read_to_string(std::path::Path::new(&golden).join("metrics/nagisa_words.jsonl")).unwrap();
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
