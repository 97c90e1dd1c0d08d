//! `compare`, `baseline` and `merge` of the built binary, over runs that were recorded here.

use crate::support::{
    desk::Desk,
    recorded::{Answered, record},
};
use serde_json::Value;
use std::fs;
use swallow_eval::results::{run_dir::RunDir, spec::Shard};

const TASK: &str = "jcommonsenseqa";

fn answered<'a>(documents: usize, right: &'a dyn Fn(usize) -> bool) -> [Answered<'a>; 1] {
    [Answered { task: TASK, documents, right }]
}

#[test]
fn two_runs_a_baseline_and_a_published_row() {
    let desk = Desk::new();
    record(&desk, "base", "org/base", &answered(500, &|i| i % 5 != 0), None);
    record(&desk, "cand", "org/cand", &answered(500, &|i| i % 5 != 0 && i % 20 != 1), None);
    let direct = desk.run("compare base cand --format json");
    direct.works(&["\"task\": \"JCom.\"", "\"worse\": 25", "\"better\": 0", "McNemar, exact"]);

    desk.run("baseline base --name main").works(&["results/baselines/main.json: 1 tasks, 500 documents"]);
    for base in ["main", "results/baselines/main.json"] {
        let said = desk.run(&format!("compare {base} cand --format json"));
        assert_eq!((said.code, &said.out), (0, &direct.out), "{base}");
    }
    let baseline = fs::read_to_string(desk.folder.path().join("results/baselines/main.json")).unwrap();
    assert!(!baseline.contains("質問") && baseline.len() < 16 * 1024, "{} bytes", baseline.len());

    desk.run("compare base cand --show-flips 2").works(&["documents whose score changed", "00001", "JCom.: 2 of 25 are shown"]);
    let published = desk.run("compare Qwen2-72B-Instruct cand");
    published.works(&["unpaired: the base is a published row", "0.9634", "unpaired"]);
    desk.run("compare base cand --format csv -o table.csv").works(&[]);
    assert!(fs::read_to_string(desk.folder.path().join("table.csv")).unwrap().starts_with("task,base,candidate,difference,"));
}

#[test]
fn what_cannot_be_compared_is_refused_with_the_field() {
    let desk = Desk::new();
    record(&desk, "base", "m", &answered(50, &|_| true), None);
    let other = record(&desk, "other", "m", &answered(50, &|i| i > 3), None);
    let spec = fs::read_to_string(other.join("run.json")).unwrap().replace("\"shots\": 4", "\"shots\": 2");
    fs::write(other.join("run.json"), spec).unwrap();
    desk.run("compare base other").fails(2, &["jcommonsenseqa shots: 4 in the base, 2 in the candidate", "--force"]);
    desk.run("compare base other --force").works(&["compared by force: jcommonsenseqa shots"]);
    desk.run("compare base nowhere").fails(2, &["nowhere is not a run directory"]);
    desk.run("compare nowhere base").fails(2, &["\"nowhere\" is no run, no baseline and no published row", "Qwen2-72B-Instruct"]);
    fs::write(desk.folder.path().join("broken.json"), "{\"version\":1}").unwrap();
    desk.run("compare broken.json base").fails(2, &["broken.json: not a baseline: missing field"]);
    fs::remove_file(other.join("samples.jsonl")).unwrap();
    desk.run("compare base other").fails(2, &["samples.jsonl"]);
    fs::remove_file(other.join("scores.json")).unwrap();
    desk.run("compare base other").fails(2, &["has no scores yet"]);
}

#[test]
fn shards_become_the_run_that_they_are_parts_of() {
    let desk = Desk::new();
    let right = |i: usize| i % 3 != 1;
    let tasks = || [Answered { task: TASK, documents: 23, right: &right }, Answered { task: "jemhopqa", documents: 8, right: &right }];
    let whole = record(&desk, "whole", "m", &tasks(), None);
    for index in 1..=3 {
        record(&desk, &format!("s{index}"), "m", &tasks(), Some(Shard { index, count: 3 }));
    }
    desk.run("merge s1 s3").fails(2, &["not all shards are given: 2/3 are missing"]);
    desk.run("merge s1 s2 s2").fails(2, &["s2 and s2 are both shard 2/3"]);
    desk.run("merge s1 whole").fails(2, &["whole is no shard"]);
    record(&desk, "of-two", "m", &tasks(), Some(Shard { index: 2, count: 2 }));
    desk.run("merge s1 of-two").fails(2, &["shards of 3 and of 2"]);
    record(&desk, "of-other", "n", &tasks(), Some(Shard { index: 2, count: 3 }));
    desk.run("merge s1 of-other").fails(2, &["engine.model: \"n\" now, \"m\" recorded"]);
    assert_eq!(fs::read_dir(desk.folder.path().join("results/runs")).unwrap().count(), 6, "a refused merge leaves nothing");

    // In any order.
    let said = desk.run("merge s3 s1 s2 --output merged");
    assert_eq!(said.code, 0, "{}", said.err);
    let merged = fs::read_dir(desk.folder.path().join("merged/runs")).unwrap().next().unwrap().unwrap().path();
    for name in ["requests.jsonl", "samples.jsonl", "scores.json"] {
        assert_eq!(fs::read_to_string(merged.join(name)).unwrap(), fs::read_to_string(whole.join(name)).unwrap(), "{name}");
    }
    let spec = RunDir::open(&merged).unwrap().spec().unwrap();
    assert_eq!((spec.shard, spec.tasks[0].documents), (None, 23));
    assert_eq!(spec.command.arguments(), ["run", "--suite", "ja"]);
}

#[test]
fn a_real_run_in_shards_is_the_run() {
    let desk = Desk::new();
    let line = "run --suite ja --demo --quiet --tasks jemhopqa,jmmlu";
    let only =
        |output: &str| fs::read_dir(desk.folder.path().join(output).join("runs")).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    assert_eq!(desk.run(&format!("{line} --output whole")).code, 0);
    assert_eq!(desk.run(&format!("score {}", only("whole")[0].display())).code, 0);
    for shard in ["1/2", "2/2"] {
        assert_eq!(desk.run(&format!("{line} --shard {shard}")).code, 0);
    }
    let parts: Vec<String> = only("results").iter().map(|p| p.display().to_string()).collect();
    let said = desk.run(&format!("merge {} --output merged", parts.join(" ")));
    assert_eq!(said.code, 0, "{}", said.err);
    for name in ["requests.jsonl", "samples.jsonl", "scores.json"] {
        assert_eq!(
            fs::read_to_string(only("merged")[0].join(name)).unwrap(),
            fs::read_to_string(only("whole")[0].join(name)).unwrap(),
            "{name}"
        );
    }
    let scores: Value = serde_json::from_str(&fs::read_to_string(only("merged")[0].join("scores.json")).unwrap()).unwrap();
    assert_eq!(scores["demo"], true);
}
