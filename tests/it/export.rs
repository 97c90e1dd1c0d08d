//! `export`: what other programs read from our runs, held against files that those programs wrote.

use crate::support::{desk::Desk, folder_of};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use swallow_eval::results::export::{lm_eval, swallow};

/// A demo run named `a`.
fn demo() -> Desk {
    let desk = Desk::new();
    desk.run("run --suite ja --demo --tasks jemhopqa,jmmlu -q");
    let runs = desk.folder.path().join("results/runs");
    let recorded = std::fs::read_dir(&runs).unwrap().next().unwrap().unwrap().path();
    std::fs::rename(recorded, runs.join("a")).unwrap();
    desk
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Files of a folder whose names begin so, in order.
fn named(folder: &Path, start: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(start));
    paths.sort();
    paths
}

#[test]
fn hashes_are_those_of_lm_eval() {
    let Some(golden) = folder_of("SWALLOW_EVAL_GOLDEN") else { return };
    let golden = golden.join("lm_eval_export");
    let results = json(&named(&golden, "results_")[0]);
    for task in ["demo_gen", "demo_mc"] {
        let lines = lines(&named(&golden, &format!("samples_{task}_"))[0]);
        assert!(!lines.is_empty());
        for line in &lines {
            assert_eq!(lm_eval::doc_hash(&line["doc"]), line["doc_hash"].as_str().unwrap(), "{line}");
        }
        assert_eq!(lm_eval::task_hash(&lines), results["task_hashes"][task].as_str().unwrap(), "{task}");
    }
}

#[test]
fn an_export_has_the_layout_of_lm_eval() {
    let desk = demo();
    let said = desk.run("export a --to lm-eval -o out");
    assert_eq!((said.code, said.err.as_str()), (0, "note: this is a demo: its numbers measure nothing\n"));
    let folder = desk.folder.path().join("out/demo");
    let [results_path] = &named(&folder, "results_")[..] else { panic!("one results file") };
    let results = json(results_path);
    let samples = named(&folder, "samples_");
    assert_eq!(said.out.lines().count(), 1 + samples.len());
    for (task, path) in ["jemhopqa", "jmmlu"].iter().zip(&samples) {
        let date = results_path.file_stem().unwrap().to_str().unwrap().trim_start_matches("results_");
        assert_eq!(path.file_name().unwrap().to_str().unwrap(), format!("samples_{task}_{date}.jsonl"));
        let lines = lines(path);
        assert_eq!(lm_eval::task_hash(&lines), results["task_hashes"][task].as_str().unwrap());
        let row = &results["results"][task];
        assert_eq!(row["sample_len"], lines.len());
        let metric = if *task == "jmmlu" { "exact_match" } else { "char_f1" };
        let scores: Vec<f64> = lines.iter().map(|line| line[metric].as_f64().unwrap()).collect();
        let n = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / n;
        assert!((row[format!("{metric},none")].as_f64().unwrap() - mean).abs() < 1e-12);
        let stderr = (scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt();
        assert!((row[format!("{metric}_stderr,none")].as_f64().unwrap() - stderr).abs() < 1e-12);
        for (number, line) in lines.iter().enumerate() {
            assert_eq!(line["doc_id"], number);
            assert_eq!(line["resps"][0][0].as_str().map(str::is_empty), Some(false), "{line}");
        }
    }
    if let Some(golden) = folder_of("SWALLOW_EVAL_GOLDEN") {
        let golden = golden.join("lm_eval_export");
        let theirs = json(&named(&golden, "results_")[0]);
        // A demo has no average, hence no group with a number; what is ours alone comes last.
        let expected: Vec<&str> = keys(&theirs).into_iter().filter(|key| *key != "groups").chain(["swallow_eval"]).collect();
        assert_eq!(keys(&results), expected);
        let theirs = lines(&named(&golden, "samples_demo_gen")[0]).remove(0);
        let metrics = |line: &Value| line["metrics"].as_array().unwrap().len();
        let ours = lines(&samples[1]).remove(0);
        let fixed = |line: &Value| keys(line)[..keys(line).len() - metrics(line)].iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
        assert_eq!(fixed(&ours), fixed(&theirs));
    }
}

/// The keys that the original team's aggregation reads, and what lm-eval prints under them: GSM8K's headline is strict-match's, BBH's
/// get-answer's, and SQuAD counts in percent. In a samples file all lines of the first filter come first.
#[test]
fn numbers_stand_under_their_filter_in_their_unit() {
    let desk = Desk::new();
    let said = desk.run("run --suite en --demo --tasks gsm8k,bbh_cot_fewshot,squadv2,openbookqa --limit 1 -q");
    assert_eq!(said.code, 0, "{}", said.err);
    let run = named(&desk.folder.path().join("results/runs"), "").remove(0);
    // The demo model is seldom right: let it have been, once.
    let mut scores = json(&run.join("scores.json"));
    let tasks = scores["tasks"].as_array_mut().unwrap();
    tasks.iter_mut().for_each(|task| task["value"] = 0.25.into());
    std::fs::write(run.join("scores.json"), scores.to_string()).unwrap();
    let samples = std::fs::read_to_string(run.join("samples.jsonl")).unwrap();
    let right = |line: &str| {
        let mut sample: Value = serde_json::from_str(line).unwrap();
        let scores = sample["scores"].as_object_mut().unwrap();
        scores.iter_mut().filter(|(name, _)| !name.contains(',')).for_each(|(_, score)| *score = 1.0.into());
        format!("{sample}\n")
    };
    std::fs::write(run.join("samples.jsonl"), samples.lines().map(right).collect::<String>()).unwrap();

    let said = desk.run(&format!("export {} --to lm-eval -o out", run.display()));
    assert_eq!(said.code, 0, "{}", said.err);
    let folder = desk.folder.path().join("out/demo");
    let results = json(&named(&folder, "results_")[0]);
    for (task, keys_in_order, value) in [
        ("gsm8k", &["exact_match,strict-match", "exact_match,flexible-extract"][..], 0.25),
        ("bbh_cot_fewshot", &["exact_match,get-answer"], 0.25),
        ("openbookqa", &["acc,none", "acc_norm,none"], 0.25),
        ("squadv2", &["exact,none", "HasAns_exact,none", "HasAns_f1,none"], 25.0),
    ] {
        let row = &results["results"][task];
        assert_eq!(row[keys_in_order[0]], value, "{row}");
        let numbers = keys(row).into_iter().filter(|key| key.contains(',') && !key.contains("_stderr,"));
        let (numbers, expected): (Vec<&str>, _) = (numbers.collect(), keys_in_order);
        assert_eq!(&numbers[..expected.len()], expected, "{task}");
        let metric = keys_in_order[0].split(',').next().unwrap();
        assert_eq!(results["higher_is_better"][task][metric], true);
        assert_eq!(keys(&results["higher_is_better"][task]).iter().filter(|name| name.contains(',')).count(), 0, "{task}");
        let lines = lines(&named(&folder, &format!("samples_{task}_"))[0]);
        let filters: Vec<&str> = lines.iter().map(|line| line["filter"].as_str().unwrap()).collect();
        let mut expected: Vec<&str> = keys_in_order.iter().map(|key| key.split(',').nth(1).unwrap()).collect();
        expected.dedup();
        assert_eq!(filters.chunk_by(|a, b| a == b).map(|same| same[0]).collect::<Vec<_>>(), expected, "{task}");
        assert_eq!(lines.len() % expected.len(), 0);
        assert_eq!(row["sample_len"], lines.len() / expected.len());
        for line in &lines {
            let right = if line["filter"] == expected[0] { value * 4.0 } else { 0.0 };
            assert_eq!(line[metric], right, "{line}");
            assert!(line["metrics"].as_array().unwrap().contains(&metric.into()), "{line}");
        }
    }
    // What the other reading found stands in its lines.
    let lines = lines(&named(&folder, "samples_gsm8k_")[0]);
    let (strict, flexible) = lines.split_at(lines.len() / 2);
    let found = |line: &Value| line["filtered_resps"][0].as_str().unwrap().to_owned();
    assert!(strict.iter().all(|line| found(line) == "[invalid]" || line["resps"][0][0].as_str().unwrap().contains("####")));
    let digits = |line: &&Value| line["resps"][0][0].as_str().unwrap().chars().any(|c| c.is_ascii_digit());
    assert!(flexible.iter().filter(digits).all(|line| found(line) != "[invalid]"));
    assert!(flexible.iter().zip(strict).any(|(f, s)| found(f) != found(s)), "the demo model writes some number");
}

#[test]
fn the_original_aggregation_is_reproduced() {
    let Some(golden) = folder_of("SWALLOW_EVAL_GOLDEN") else { return };
    let golden = golden.join("swallow_export");
    let folder = golden.join("results/org/some-model");
    let read = |path: &str| serde_json::from_slice(&std::fs::read(folder.join(path)).ok()?).ok();
    let aggregate = swallow::aggregated("org/some-model", read);
    assert_eq!(aggregate.path, "results/org/some-model/aggregated_result.json");
    assert_eq!(aggregate.text.trim_end(), std::fs::read_to_string(folder.join("aggregated_result.json")).unwrap().trim_end());
    // Where a column stands is the original's own table.
    let table = |text: &str| -> BTreeMap<String, [String; 3]> {
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let rows = reader.records().map(|row| row.unwrap());
        rows.map(|row| (row[0].to_owned(), [1, 2, 3].map(|i| row[i].to_owned()))).collect()
    };
    let ours = table(include_str!("../../src/results/export/swallow.csv"));
    let theirs = table(&std::fs::read_to_string(golden.join("column-path-key.csv")).unwrap());
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (column, place) in theirs.iter().filter(|(_, place)| place[1] != "x") {
        assert_eq!(&ours[column], place, "{column}");
    }
}

#[test]
fn the_tree_of_the_original_team() {
    let desk = demo();
    assert_eq!(desk.run("export a --to swallow -o out").code, 0);
    let folder = desk.folder.path().join("out/results/demo");
    let scores = json(&desk.folder.path().join("results/runs/a/scores.json"));
    let value = |title: &str| scores["tasks"].as_array().unwrap().iter().find(|t| t["title"] == title).unwrap()["value"].as_f64().unwrap();
    let general = json(&folder.join("ja/llmjp/4shot_-1cases/llm_jp_eval_general.json"));
    assert_eq!(general["scores"]["jemhopqa_char_f1"], format!("{:.4}", value("JEMHopQA")));
    assert_eq!(json(&folder.join("ja/llmjp/5shot_-1cases/llm_jp_eval_jmmlu_per_task.json"))["results"]["jmmlu"], value("JMMLU"));
    let aggregate = json(&folder.join("aggregated_result.json"));
    assert_eq!((&aggregate["result"]["jmmlu"], &aggregate["result"]["gsm8k"]), (&Value::from(value("JMMLU")), &Value::from(-1.0)));
    // An English run of the same model adds to the tree.
    let english = folder.join("en/harness_en/alltasks_4shot_allcases/general");
    std::fs::create_dir_all(&english).unwrap();
    std::fs::write(english.join("results.json"), r#"{"results":{"gsm8k":{"exact_match,strict-match":0.25}}}"#).unwrap();
    assert_eq!(desk.run("export a --to swallow -o out").code, 0);
    let aggregate = json(&folder.join("aggregated_result.json"));
    assert_eq!((&aggregate["result"]["jmmlu"], &aggregate["result"]["gsm8k"]), (&Value::from(value("JMMLU")), &Value::from(0.25)));
}

#[test]
fn hub_metadata_holds_whole_measurements_only() {
    let desk = demo();
    desk.run("export a --to model-index -o out").fails(2, &["the run a has nothing to export: a demo measures nothing"]);
    // The same run, taken for a measurement, with one partial task.
    let run = desk.folder.path().join("results/runs/a");
    for name in ["run.json", "scores.json"] {
        let path = run.join(name);
        let text = std::fs::read_to_string(&path).unwrap().replace("\"demo\": true", "\"demo\": false");
        let text = if name == "scores.json" { text.replace("\"documents_in_full\": 18", "\"documents_in_full\": 3541") } else { text };
        std::fs::write(path, text).unwrap();
    }
    let said = desk.run("export a --to model-index -o out");
    assert_eq!((said.code, said.out.as_str()), (0, "out/model-index.yaml\nout/.eval_results/swallow-202407-ja.yaml\n"), "{}", said.err);
    let text = std::fs::read_to_string(desk.folder.path().join("out/model-index.yaml")).unwrap();
    assert!(text.starts_with("model-index:\n- name: \"demo\"\n  results:\n  - task:\n      type: text-generation\n"), "{text}");
    assert!(text.contains("name: \"JEMHopQA\"") && !text.contains("JMMLU"), "{text}");
    let text = std::fs::read_to_string(desk.folder.path().join("out/.eval_results/swallow-202407-ja.yaml")).unwrap();
    assert_eq!(text.matches("- dataset:").count(), 1, "{text}");
}

#[test]
fn what_cannot_be_exported_says_so() {
    let desk = demo();
    desk.run("export nothing --to lm-eval").fails(2, &["nothing is not a run directory"]);
    desk.run("export a --to inspect").fails(2, &["invalid value 'inspect'", "lm-eval, swallow, model-index"]);
    let desk = desk.file("taken", "");
    let said = desk.run("export a --to swallow -o taken");
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("cannot create taken"), "{}", said.err);
}
