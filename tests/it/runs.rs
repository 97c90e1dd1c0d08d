//! Whole runs of the built binary: files, kill and resume, Ctrl-C, no network, the same answers over an endpoint, bad input.

use crate::support::{
    desk::Desk,
    folder_of,
    openai::{EngineServer, Rules},
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};
use swallow_eval::engine::llama::{Llama, LoadOptions};
use swallow_eval::prompt::pyrandom::PyRandom;

const DEMO: &str = "run --suite ja --demo --quiet";

/// The one run below an output directory.
fn only_run(desk: &Desk, output: &str) -> PathBuf {
    let runs: Vec<PathBuf> =
        fs::read_dir(desk.folder.path().join(output).join("runs")).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    assert_eq!(runs.len(), 1, "{runs:?}");
    runs.into_iter().next().unwrap()
}

fn read(run: &Path, name: &str) -> String {
    fs::read_to_string(run.join(name)).unwrap_or_else(|e| panic!("{}: {e}", run.join(name).display()))
}

fn lines(run: &Path, name: &str) -> BTreeSet<String> {
    read(run, name).lines().map(str::to_owned).collect()
}

/// What must not depend on how often a run was killed.
fn assert_same_results(a: &Path, b: &Path) {
    for name in ["samples.jsonl", "scores.json", "requests.jsonl"] {
        assert_eq!(read(a, name), read(b, name), "{name}");
    }
    assert_eq!(lines(a, "responses.jsonl"), lines(b, "responses.jsonl"));
}

/// `run.json` without what may differ between two runs of the same thing.
fn spec(run: &Path) -> Value {
    let mut spec: Value = serde_json::from_str(&read(run, "run.json")).unwrap();
    for field in ["id", "timing", "command"] {
        assert!(spec.as_object_mut().unwrap().remove(field).is_some(), "run.json has {field}");
    }
    spec
}

#[test]
fn a_demo_writes_every_file_says_what_it_is_and_can_be_scored_again() {
    let desk = Desk::new();
    let said = desk.run(DEMO);
    assert_eq!(said.code, 0, "{}", said.err);
    for part in ["*** DEMO", "JCom.", "JMMLU", "JHumanEval", "Ja Avg is withheld", "files: "] {
        assert!(said.out.contains(part), "{part:?} is not in {}", said.out);
    }
    let run = only_run(&desk, "results");
    let samples: Vec<Value> = read(&run, "samples.jsonl").lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(samples.len(), 77);
    assert!(samples.iter().any(|s| s["scores"].as_object().unwrap().values().any(|v| *v == 1.0)), "some answers are right");
    assert!(read(&run, "report.md").contains("DEMO"));

    let (before, report) = (read(&run, "scores.json"), said.out);
    fs::remove_file(run.join("scores.json")).unwrap();
    let again = desk.run(&format!("score {}", run.display()));
    assert_eq!((again.code, read(&run, "scores.json")), (0, before));
    assert_eq!(again.out, report);
    let id = run.file_name().unwrap().to_str().unwrap().to_owned();
    for (format, part) in [("csv", "JCom."), ("markdown", "| "), ("json", "\"demo\": true"), ("terminal", "DEMO")] {
        desk.run(&format!("report {id} --format {format}")).works(&[part]);
    }
}

#[test]
fn thread_counts_and_batches_change_no_answer() {
    let desk = Desk::new();
    assert_eq!(desk.run(&format!("{DEMO} --output a --threads 1")).code, 0);
    assert_eq!(desk.run(&format!("{DEMO} --output b --threads 2")).code, 0);
    // One document at a time shares nothing with the others.
    assert_eq!(desk.run(&format!("{DEMO} --output c --tasks jemhopqa --samples {{\"jemhopqa\":[3]}}")).code, 0);
    assert_same_results(&only_run(&desk, "a"), &only_run(&desk, "b"));
    let alone = read(&only_run(&desk, "c"), "samples.jsonl");
    assert!(read(&only_run(&desk, "a"), "samples.jsonl").contains(alone.trim_end()), "{alone}");
}

/// Waits, without asking for time to pass: until the child ends or the moment has come.
fn wait(child: &mut Child, moment: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < moment {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

fn spawn(desk: &Desk, line: &str) -> Child {
    desk.command().args(line.split(' ')).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Kills a run ten times at random moments and lets it end the eleventh time.
fn kill_ten_times(desk: &Desk, line: &str) {
    let started = Instant::now();
    assert_eq!(desk.run(&format!("{line} --output whole")).code, 0);
    let whole = started.elapsed();
    let mut random = PyRandom::seeded(7);
    // The first start is killed late enough to have made its directory.
    let mut child = spawn(desk, &format!("{line} --output killed"));
    let runs = desk.folder.path().join("killed/runs");
    while child.try_wait().unwrap().is_none() && !fs::read_dir(&runs).is_ok_and(|d| d.flatten().any(|e| e.path().join("run.json").exists()))
    {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let run = only_run(desk, "killed");
    for _ in 0..9 {
        let mut child = spawn(desk, &format!("run --quiet --resume {}", run.display()));
        wait(&mut child, whole.mul_f64(random.random() * 0.6));
        // It may have ended by itself; killing it then is no error.
        let _ = child.kill();
        child.wait().unwrap();
    }
    let said = desk.run(&format!("run --quiet --resume {}", run.display()));
    assert_eq!(said.code, 0, "{}", said.err);
    let whole = only_run(desk, "whole");
    assert_same_results(&whole, &run);
    assert_eq!(spec(&whole), spec(&run), "clocks and rates stand only under timing");
}

#[test]
fn kill_at_any_moment_and_resume() {
    kill_ten_times(&Desk::new(), DEMO);
}

/// A line that runs a golden model over real data, or `None` after saying what is missing.
fn real_line(desk: Desk, limit: u32) -> Option<(Desk, PathBuf, String)> {
    let (golden, data) = (folder_of("SWALLOW_EVAL_GOLDEN")?, folder_of("SWALLOW_EVAL_DATA")?);
    let (golden, data) = (golden.canonicalize().unwrap(), data.canonicalize().unwrap());
    let model = golden.join("models/tiny-llama31");
    let tasks = "jcommonsenseqa,jemhopqa,niilc,jmmlu";
    Some((desk.env("SWALLOW_EVAL_DATA", data), model, format!("run --suite ja --tasks {tasks} --limit {limit} --quiet")))
}

#[test]
fn kill_at_any_moment_on_real_data() {
    let Some((desk, model, line)) = real_line(Desk::new(), 8) else { return };
    kill_ten_times(&desk, &format!("{line} --model {}", model.display()));
}

#[test]
fn an_endpoint_gives_the_answers_of_the_engine_behind_it() {
    let Some((desk, model, line)) = real_line(Desk::new(), 4) else { return };
    let said = desk.run(&format!("{line} --model {} --output own", model.display()));
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.contains("partial: 4 of 120"), "{}", said.out);
    let load = move || -> Box<dyn swallow_eval::engine::Engine> {
        Box::new(Llama::load(&model, &LoadOptions { model: "tiny".into(), ..LoadOptions::default() }).unwrap())
    };
    let server = EngineServer::start(load, Rules::new("tiny"));
    let served = desk.run(&format!("{line} --base-url {} --model tiny --output served --offline", server.base_url));
    assert_eq!(served.code, 0, "{}", served.err);
    assert!(served.out.contains("end tokens of its own choice") && !said.out.contains("of its own choice"), "{}", served.out);
    let answers = |output: &str| -> Vec<(String, String, Value)> {
        let samples = read(&only_run(&desk, output), "samples.jsonl");
        let of = |line: &str| {
            let sample: Value = serde_json::from_str(line).unwrap();
            (sample["task"].to_string(), sample["doc_id"].to_string(), sample["answer"].clone())
        };
        samples.lines().map(of).collect()
    };
    assert_eq!(answers("own"), answers("served"));
    assert_eq!(answers("own").len(), 16);
}

#[test]
fn ctrl_c_keeps_the_journal_and_says_how_to_go_on() {
    let desk = Desk::new();
    // Hot sampling hardly ever ends, so the run is still at work when the signal comes.
    let line = format!("{DEMO} --tasks niilc --gen-kwargs temperature=9,max_gen_toks=150");
    let mut child = desk.command().args(line.split(' ')).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let runs = desk.folder.path().join("results/runs");
    let begun = || fs::read_dir(&runs).is_ok_and(|d| d.flatten().any(|e| e.path().join("run.json").exists()));
    while !begun() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it began");
        std::thread::sleep(Duration::from_millis(1));
    }
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{err}");
    let resume =
        err.lines().find_map(|l| l.strip_prefix("resume with: swallow-eval ")).unwrap_or_else(|| panic!("no resume line in {err}"));
    let said = desk.run(&format!("{resume} --quiet"));
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(read(&only_run(&desk, "results"), "samples.jsonl").lines().count() == 8, "{}", said.out);
}

#[expect(clippy::disallowed_methods, reason = "a test sends the signal that a person's Ctrl-C sends")]
fn interrupt(child: &Child) {
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "unshare starts the program without a network")]
fn offline_runs_need_no_network() {
    let empty = || std::process::Command::new("unshare").args(["--net", "true"]).stderr(Stdio::null()).status();
    if !empty().is_ok_and(|s| s.success()) {
        eprintln!("skipped: this machine gives no network namespace");
        return;
    }
    let desk = Desk::new();
    let program = desk.command().get_program().to_owned();
    let output = std::process::Command::new("unshare")
        .arg("--net")
        .arg(program)
        .args(format!("{DEMO} --offline").split(' '))
        .current_dir(desk.folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn data_that_is_missing_is_named_or_left_out() {
    let desk = Desk::new();
    let line = "run --suite ja --tasks jsquad --model nowhere --offline";
    desk.run(line).fails(4, &["jglue/datasets/jsquad-v1.1/", "https://raw.githubusercontent.com/yahoojapan/JGLUE/v1.1.0", "hint: "]);
    let Some(data) = folder_of("SWALLOW_EVAL_DATA") else { return };
    let desk = Desk::new().env("SWALLOW_EVAL_DATA", data.canonicalize().unwrap());
    desk.run(line).fails(4, &["jglue/datasets/jsquad-v1.1/train-v1.1.json is missing", "SWALLOW_EVAL_DATA"]);
    let said = desk.run("run --suite ja --tasks jsquad,jemhopqa --model nowhere --offline --skip-missing --dry-run");
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.err.contains("task 'jsquad' is left out") && said.out.contains("jemhopqa: 120 of 120"), "{} {}", said.out, said.err);
}

/// Each suite is a run of its own; a task alone is shown in the table it belongs to, and a run that is gone on with stays what it was.
#[test]
fn suites_are_runs_of_their_own() {
    let desk = Desk::new();
    desk.run("run --suite mt-bench,en --demo --dry-run").works(&["japanese_mt_bench: ", "gsm8k: "]);
    let line = "run --demo --quiet --limit 1 --gen-kwargs max_gen_toks=4";
    desk.run(&format!("{line} --tasks gsm8k")).works(&["en (swallow-202407)", "En Avg"]);
    let run = fs::read_dir(desk.folder.path().join("results/runs")).unwrap().next().unwrap().unwrap().path();
    let again = desk.run(&format!("{line} --tasks gsm8k --resume {}", run.display()));
    again.works(&["en (swallow-202407)"]);
}

#[test]
fn what_the_second_suite_lacks_is_said_before_the_first_is_asked() {
    let Some(data) = folder_of("SWALLOW_EVAL_DATA") else { return };
    let desk = Desk::new().env("SWALLOW_EVAL_DATA", data.canonicalize().unwrap());
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/micro-llama");
    let line = format!("run --suite mt-bench,en --judge-demo --quiet --offline --gen-kwargs max_gen_toks=1 --model {model}");
    desk.run(&line).fails(4, &["task 'openbookqa'", "is missing"]);
    assert!(!desk.folder.path().join("results/runs").exists(), "nothing was asked");
}

#[test]
fn full_set_digests_are_the_originals() {
    let Some(data) = folder_of("SWALLOW_EVAL_DATA") else { return };
    let desk = Desk::new().env("SWALLOW_EVAL_DATA", data.canonicalize().unwrap());
    desk.run("run --suite ja --tasks jcommonsenseqa,jemhopqa,niilc,jmmlu --model nowhere --dry-run").works(&[
        "ef6401f41056796b665acdebd04498fd6d41f4067f9f5fb9ca811177a13984d7",
        "d6ef156c6f8e8b02a7f144f4cc1825905110da75f0a4ea12e1c0a97a7c266773",
        "0734e1ebe52c99ae7c870037e881a955587bd83b0171833ade17d65ca8c09973",
        "7f27128586951b1a6f2b089a576a2caf98c8f04c037be4ab8fa463ed800d3a00",
        "b1fd096f39e4f5811209f351780c1a20616e92723841c096cc0f09f2ff35fdfe",
        "1e53b8ef00f7a04c8c854663b92dce1d31538ab391325fa302ec59188da8e094",
        "2b5d975de432afb0ba4c32b043bf148431d57405487e5f8d111c101e5f01ca28",
        "2953e8689327e53e2625f720afc28ef53e86a598674bd01d9d82b9451b87930a",
    ]);
}
