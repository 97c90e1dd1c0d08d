//! Bad input of every kind through the built binary: one message that names what and where, the documented code, nothing lost.

use crate::support::{desk::Desk, folder_of};
use serde_json::{Value, json};
use std::{fs, path::Path};

const DEMO: &str = "run --suite ja --demo --quiet --tasks jemhopqa";

#[test]
fn unknown_names_and_impossible_outputs() {
    let desk = Desk::new().file("a-file", "");
    desk.run("run --suite ja --tasks chess --demo").fails(2, &["unknown task 'chess'", "jemhopqa", "tasks list"]);
    desk.run("tasks show chess").fails(2, &["unknown task 'chess'"]);
    desk.run("tasks preview jemhopqa --demo --doc 99").fails(2, &["8 documents", "no document 99"]);
    desk.run(&format!("{DEMO} --output a-file")).fails(2, &["a-file", "hint: "]);
    desk.run(&format!("{DEMO} --resume nowhere")).fails(2, &["nowhere is not a run directory"]);
    desk.run(&format!("{DEMO} --num-fewshot 100")).fails(2, &["needs 100 shots", "its pool 'train' has"]);
    desk.run(&format!("{DEMO} --against GPT-9")).fails(2, &["GPT-9", "Llama 3.1 Swallow 70B Instruct"]);
    desk.run(&format!("{DEMO} --gen-kwargs top_p=2")).fails(2, &["top_p", "from", "'2'"]);
    desk.run("certify nowhere").fails(2, &["nowhere is missing"]);
    desk.run("certify --threads 0").fails(2, &["--threads", "'0'"]);
}

#[test]
fn a_misspelt_key_in_a_task_file_is_named_with_its_line() {
    let desk = Desk::new();
    let good = desk.run("tasks show jemhopqa").out;
    fs::create_dir(desk.folder.path().join("mine")).unwrap();
    fs::write(desk.folder.path().join("mine/quiz.toml"), good.replace("headline ", "headlines ")).unwrap();
    desk.run("run --suite ja --tasks quiz --demo --include-path mine").fails(2, &["mine/quiz.toml", "headlines", "expected one of"]);
    fs::write(desk.folder.path().join("mine/quiz.toml"), good.replace("aliases  = [\"jemhopqa\"]", "aliases  = []")).unwrap();
    let said = desk.run("run --suite ja --tasks quiz --demo --include-path mine --quiet");
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.contains("quiz"), "a task of one's own runs: {}", said.out);
}

#[test]
fn a_corrupt_journal_is_named_and_kept() {
    let desk = Desk::new();
    assert_eq!(desk.run(DEMO).code, 0);
    let run = fs::read_dir(desk.folder.path().join("results/runs")).unwrap().next().unwrap().unwrap().path();
    let journal = run.join("responses.jsonl");
    let damaged = fs::read_to_string(&journal).unwrap().replacen("\"id\"", "\"di\"", 2);
    fs::write(&journal, &damaged).unwrap();
    for verb in ["run --resume", "score"] {
        desk.run(&format!("{verb} {}", run.display())).fails(2, &["responses.jsonl:1", "hint: "]);
        assert_eq!(fs::read_to_string(&journal).unwrap(), damaged, "the journal is untouched");
    }
    fs::write(run.join("run.json"), "{").unwrap();
    desk.run(&format!("score {}", run.display())).fails(2, &["run.json"]);
}

#[test]
fn other_settings_do_not_join_a_recorded_run() {
    let desk = Desk::new();
    assert_eq!(desk.run(DEMO).code, 0);
    let run = fs::read_dir(desk.folder.path().join("results/runs")).unwrap().next().unwrap().unwrap().path();
    let line = format!("{DEMO} --limit 3 --resume {}", run.display());
    desk.run(&line).fails(2, &["recorded with other settings", "limit: 3 now, nothing recorded"]);
}

/// A copy of the demo model that the caller damages.
fn model(desk: &Desk) -> std::path::PathBuf {
    let dir = desk.folder.path().join("model");
    fs::create_dir_all(&dir).unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine/demo");
    for name in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(from.join(name), dir.join(name)).unwrap();
    }
    dir
}

fn edit(path: &Path, change: impl Fn(&mut Value)) {
    let mut value: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn broken_models_are_5_and_leave_no_run_behind() {
    let Some(data) = folder_of("SWALLOW_EVAL_DATA") else { return };
    let desk = Desk::new().env("SWALLOW_EVAL_DATA", data.canonicalize().unwrap());
    let line = "run --suite ja --tasks jemhopqa --limit 1 --quiet --model model";
    type Damage = fn(&Path);
    let cases: [(Damage, &[&str]); 6] = [
        (
            |dir| {
                let path = dir.join("model.safetensors");
                let bytes = fs::read(&path).unwrap();
                fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
            },
            &["model.safetensors", "hint: "],
        ),
        (
            |dir| edit(&dir.join("config.json"), |c| c["architectures"] = json!(["MistralForCausalLM"])),
            &["MistralForCausalLM", "--base-url"],
        ),
        (|dir| edit(&dir.join("config.json"), |c| c["hidden_size"] = json!(256)), &["model.safetensors", "shape"]),
        (|dir| edit(&dir.join("config.json"), |c| c["vocab_size"] = json!(64)), &["tokenizer", "64"]),
        (|dir| fs::write(dir.join("tokenizer.json"), "{}").unwrap(), &["tokenizer.json"]),
        (|dir| fs::remove_file(dir.join("config.json")).unwrap(), &["config.json is missing"]),
    ];
    for (damage, parts) in cases {
        damage(&model(&desk));
        desk.run(line).fails(5, parts);
        assert_eq!(fs::read_dir(desk.folder.path().join("results/runs")).unwrap().count(), 0, "{parts:?}");
    }
    model(&desk);
    // No machine has a hundredth GPU.
    let gpu = if cfg!(feature = "cuda") { "device cuda:99 cannot be used" } else { "this build has no CUDA support" };
    desk.run(&format!("{line} --device cuda:99")).fails(5, &[gpu]);
    assert_eq!(desk.run(line).code, 0);
}
