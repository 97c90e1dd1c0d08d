//! Parity with the recorded goldens, and the proof that certify sees every change in what it compares.

use crate::support::{desk::Desk, folder_of};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use swallow_eval::certify::{self, Inputs, report::Folder, source::CertifyError};
use swallow_eval::dataset::{manifest::Manifest, store::Store};
use swallow_eval::run::resources;
use swallow_eval::sandbox::{Options, Sandbox};

/// Goldens written by us.
pub(crate) fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

pub(crate) fn replay(dir: &Path, store: Option<&Store>) -> certify::Report {
    let records = |dataset: &str, split: &str| {
        let manifest = Manifest::builtin(dataset).map_err(|e| e.to_string())?;
        store.expect("asked only with a store").records(&manifest, split).map_err(|e| e.to_string())
    };
    let data: Option<certify::llm_jp::Data<'_>> = if store.is_some() { Some(&records) } else { None };
    let words = store.and_then(|store| resources::nagisa(store, &|_| {}).ok());
    let segment: Option<certify::Words<'_>> = words.as_ref().map(|words| &**words as _);
    certify::run(dir, &Inputs { data, segment, programs: &programs, progress: &|_| {} })
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
}

fn assert_certified(report: &certify::Report) {
    for folder in &report.folders {
        assert_eq!(folder.mismatches.first(), None, "{}", folder.name);
        // What belongs to a later protocol is counted, not compared.
        let compared = folder.rows > 0 && folder.fields() > 0;
        assert!(compared || !folder.outside.is_empty(), "{} compared nothing", folder.name);
    }
}

#[test]
fn committed_goldens() {
    let report = replay(&committed(), Some(&Store::samples()));
    assert_certified(&report);
    let names: Vec<&str> = report.folders.iter().map(|f| f.name.as_str()).collect();
    for needed in ["ja-llmjp/_metrics", "ja-llmjp/jmmlu", "metrics", "pyrandom"] {
        assert!(names.contains(&needed), "{names:?}");
    }
    for folder in report.folders.iter().filter(|f| f.name != "ja-harness/wmt20_en_ja") {
        assert_eq!(folder.left_out, Vec::<String>::new(), "{}", folder.name);
    }
}

/// Each request alone and with all others, by one thread and by two.
#[test]
fn threads_change_no_answer_of_a_model() {
    let desk = Desk::new();
    for threads in [1, 2] {
        let line = format!("certify {} --threads {threads}", committed().join("models").display());
        desk.run(&line).works(&["models/micro-llama: 458 rows", "certified: 458 rows, 0 mismatches"]);
    }
}

#[test]
fn recorded_goldens() {
    let Some(golden) = folder_of("SWALLOW_EVAL_GOLDEN") else { return };
    let store = folder_of("SWALLOW_EVAL_DATA").map(|mirror| Store::mirror_only(&mirror));
    let report = replay(&golden, store.as_ref());
    assert_certified(&report);
    if store.is_some() {
        let left_out: Vec<&String> = report.folders.iter().filter(|f| f.name.starts_with("ja-harness")).flat_map(|f| &f.left_out).collect();
        assert!(left_out.is_empty(), "{left_out:?}");
    }
    eprintln!("certified: {} rows, {} fields", report.rows(), report.fields());
}

#[test]
fn what_is_not_understood_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let run = |path: &Path| {
        certify::run(path, &Inputs { data: None, segment: None, programs: &programs, progress: &|_| {} })
            .map(|r| r.rows())
            .map_err(|e| e.to_string())
    };
    assert!(run(&dir.path().join("nothing")).unwrap_err().contains("is missing"));
    assert!(run(dir.path()).unwrap_err().contains("is not a golden folder"));
    fs::create_dir_all(dir.path().join("ja-llmjp/chess")).unwrap();
    assert!(run(dir.path()).unwrap_err().contains("chess is not a golden folder"));
    let task = dir.path().join("ja-llmjp/jemhopqa");
    fs::rename(dir.path().join("ja-llmjp/chess"), &task).unwrap();
    assert!(run(&task).unwrap_err().contains("fewshot.json is missing"));
    fs::write(task.join("scoring_v2.jsonl"), "").unwrap();
    assert!(run(&task).unwrap_err().contains("scoring_v2.jsonl is not a file of a golden folder of kind 'ja-llmjp'"));
    fs::remove_file(task.join("scoring_v2.jsonl")).unwrap();
    copy(&committed().join("ja-llmjp/jemhopqa"), &task);
    let scoring = fs::read_to_string(task.join("scoring.jsonl")).unwrap();
    fs::write(task.join("scoring.jsonl"), scoring.replacen("\"extracted\"", "\"extract\"", 1)).unwrap();
    assert!(run(&task).unwrap_err().contains("scoring.jsonl, line 1: 'extract' is not a field"));
    fs::write(task.join("scoring.jsonl"), format!("{{\n{scoring}")).unwrap();
    assert!(run(&task).unwrap_err().contains("scoring.jsonl, line 1: EOF"));
    fs::create_dir(dir.path().join("endpoints")).unwrap();
    assert!(run(&dir.path().join("endpoints")).unwrap_err().contains("fixtures of other tests"));
    fs::create_dir(dir.path().join("code")).unwrap();
    assert!(run(&dir.path().join("code")).unwrap_err().contains("is not a golden folder"));
}

/// Copies the files of one folder.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// One field to damage: the file, the JSON pointer inside a row (or the whole file), and the name certify must report.
pub(crate) struct Field {
    pub(crate) file: &'static str,
    pub(crate) pointer: String,
    pub(crate) name: String,
    pub(crate) damage: fn(&mut Value),
    /// The row that is damaged, from 0; the first that has the field unless given.
    pub(crate) row: Option<usize>,
}

pub(crate) fn field(file: &'static str, pointer: &str, name: &str) -> Field {
    Field { file, pointer: pointer.into(), name: name.into(), damage, row: None }
}

/// A number at the top of a row that is compared within a tolerance of 1e-12.
fn near(file: &'static str, name: &str) -> Field {
    Field { damage: damage_beyond_tolerance, ..field(file, &format!("/{name}"), name) }
}

/// Changes one character of a JSON value: the last of a text, the last digit of a number, the first such value of a list or object.
pub(crate) fn damage(value: &mut Value) {
    match value {
        Value::String(text) => {
            let last = text.pop();
            text.push(if last == Some('x') { 'y' } else { 'x' });
        }
        Value::Number(number) => {
            let text = number.to_string();
            let (head, last) = text.split_at(text.len() - 1);
            let other = if last == "1" { "2" } else { "1" };
            *value = serde_json::from_str(&format!("{head}{other}")).unwrap();
        }
        Value::Bool(flag) => *flag = !*flag,
        Value::Null => *value = Value::from(1),
        Value::Array(items) if items.is_empty() => items.push(Value::from("x")),
        Value::Array(items) => damage(items.last_mut().unwrap()),
        Value::Object(fields) => damage(fields.values_mut().next_back().unwrap()),
    }
}

/// Changes a number by little more than the tolerance.
pub(crate) fn damage_beyond_tolerance(value: &mut Value) {
    let number = value.as_f64().unwrap();
    *value = Value::from(if number == 0.0 { 1e-11 } else { number * (1.0 + 1e-11) });
}

/// Damages `pointer` in one row of the file, the first that has it unless given, and writes the file.
fn damage_file(path: &Path, pointer: &str, damage: fn(&mut Value), row: Option<usize>) {
    let text = fs::read_to_string(path).unwrap();
    if path.extension().is_some_and(|e| e == "json") {
        let mut object: Value = serde_json::from_str(&text).unwrap();
        damage(object.pointer_mut(pointer).unwrap_or_else(|| panic!("{} has {pointer}", path.display())));
        return fs::write(path, object.to_string()).unwrap();
    }
    let mut rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let row =
        rows.iter_mut().skip(row.unwrap_or(0)).find(|r| r.pointer(pointer).is_some()).unwrap_or_else(|| panic!("a row has {pointer}"));
    damage(row.pointer_mut(pointer).unwrap());
    fs::write(path, rows.iter().map(|r| format!("{r}\n")).collect::<String>()).unwrap();
}

/// Damages each field in turn and checks that certify reports exactly that field, once; and that the list has every compared field.
pub(crate) fn check_every_field(kind: &str, name: &str, store: Option<&Store>, fields: &[Field]) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join(kind);
    let copy_of = root.join(name);
    let golden = committed().join(kind).join(name);
    copy(&golden, &copy_of);
    // The tokenizer that folders of these kinds share.
    if ["ja-harness", "metrics"].contains(&kind) {
        copy(&committed().join("ja-harness/tokenizer"), &dir.path().join("ja-harness/tokenizer"));
    }
    let only = |report: certify::Report| -> Folder { report.folders.into_iter().next().unwrap() };
    let path = if name.is_empty() { &root } else { &copy_of };
    let clean = only(replay(path, store));
    assert_eq!(clean.mismatches, [], "{kind}/{name} undamaged");
    let compared: BTreeSet<String> = clean.compared.keys().cloned().collect();
    let listed: BTreeSet<String> = fields.iter().map(|f| format!("{} {}", f.file, f.name)).collect();
    assert_eq!(compared, listed, "{kind}/{name}: every compared field is in this test's list, and the reverse");
    for Field { file, pointer, name: field, damage, row } in fields {
        damage_file(&copy_of.join(file), pointer, *damage, *row);
        let report = only(replay(path, store));
        let found: Vec<(&str, &str)> = report.mismatches.iter().map(|m| (m.file.as_str(), m.field.as_str())).collect();
        assert_eq!(found, [(*file, field.as_str())], "{kind}/{name}: {file} {pointer}");
        fs::copy(golden.join(file), copy_of.join(file)).unwrap();
    }
}

#[test]
fn every_change_in_the_judges_conversations_is_seen() {
    let mut fields = vec![
        field("requests.jsonl", "/doc/judge_prompt", "doc.judge_prompt"),
        field("requests.jsonl", "/request/messages/1/content", "request.messages"),
        field("scoring.jsonl", "/error", "error"),
        field("scoring.jsonl", "/extracted", "extracted"),
        field("scoring.jsonl", "/scores/rating", "scores.rating"),
    ];
    for key in ["kind", "n", "stop", "temperature", "max_new_tokens"] {
        fields.push(field("requests.jsonl", &format!("/request/{key}"), &format!("request.{key}")));
    }
    check_every_field("jmt-bench", "judge", None, &fields);
}

/// The compared fields of every llm-jp-eval task folder.
fn task_fields(task: &str, metric: &str) -> Vec<Field> {
    let mut fields = vec![
        field("fewshot.json", "/num_fewshot", "num_fewshot"),
        field("fewshot.json", "/documents/0/input", "input"),
        field("fewshot.json", "/documents/1/output", "output"),
        field("scoring.jsonl", "/extracted", "extracted"),
        field("scoring.jsonl", "/reference", "reference"),
        field("summary.json", "/n", "n"),
        field("summary.json", &format!("/metrics/{task}_{metric}"), "metrics"),
        field("summary.json", &format!("/metrics_formatted_by_upstream/{task}_{metric}"), "metrics_formatted_by_upstream"),
        field("summary.json", "/primary_metric", "primary_metric"),
        field("summary.json", "/settings/num_fewshot", "settings.num_fewshot"),
    ];
    for key in ["exact_match", "char_f1"] {
        fields.push(field("scoring.jsonl", &format!("/scores/{key}"), &format!("scores.{key}")));
    }
    for key in ["kind", "prompt", "stop", "max_new_tokens", "temperature"] {
        fields.push(field("requests.jsonl", &format!("/request/{key}"), &format!("request.{key}")));
    }
    for key in ["max_new_tokens", "do_sample", "repetition_penalty", "eos_token_id"] {
        fields.push(field("summary.json", &format!("/settings/pipeline_kwargs/{key}"), &format!("settings.pipeline_kwargs.{key}")));
    }
    for key in ["n", "n_train", "n_dev", "sha256_prompts", "sha256_golds"] {
        fields.push(field("summary.json", &format!("/full_test_set/{key}"), &format!("full_test_set.{key}")));
    }
    fields
}

#[test]
fn every_change_in_a_task_folder_is_seen() {
    for (task, metric) in
        [("jcommonsenseqa", "exact_match"), ("jemhopqa", "char_f1"), ("niilc", "char_f1"), ("jsquad", "char_f1"), ("jmmlu", "exact_match")]
    {
        let mut fields = task_fields(task, metric);
        // Fields of a record that no template shows: what is compared with them is the record drawn from the data set.
        let unseen = match task {
            "jcommonsenseqa" => "/q_id",
            "jemhopqa" => "/qid",
            "jmmlu" => "/row",
            _ => "/id",
        };
        fields.push(field("requests.jsonl", &format!("/doc{unseen}"), "doc"));
        fields.push(field("fewshot.json", &format!("/documents/2/doc{unseen}"), "doc"));
        if task == "jmmlu" {
            fields.push(field("category_full.json", "/with_true_subjects/__all__/correct", "with_true_subjects"));
            fields.push(field("category_full.json", "/upstream_per_task_json/results/jmmlu", "upstream_per_task_json"));
            let moved = "/documents_upstream_files_under_another_subject/0/true_subject";
            fields.push(field("category_full.json", moved, "true_subject"));
        } else {
            fields.push(field("fewshot.json", "/documents/3/index_in_filtered_train_source", "index_in_filtered_train_source"));
        }
        check_every_field("ja-llmjp", task, Some(&Store::samples()), &fields);
    }
}

#[test]
fn every_change_in_the_metric_vectors_is_seen() {
    let fields = [
        field("pairs.jsonl", "/extracted", "extracted"),
        field("pairs.jsonl", "/reference", "reference"),
        field("pairs.jsonl", "/scores/exact_match", "scores.exact_match"),
        field("pairs.jsonl", "/scores/char_f1", "scores.char_f1"),
        field("mean_vectors.json", "/vectors/0/mean", "mean"),
        field("mean_vectors.json", "/vectors/0/formatted", "formatted"),
        field("summary.json", "/n", "n"),
        field("summary.json", "/metrics/char_f1", "metrics.char_f1"),
        field("summary.json", "/metrics/exact_match", "metrics.exact_match"),
    ];
    check_every_field("ja-llmjp", "_metrics", None, &fields);
}

#[test]
fn every_change_in_the_harness_metric_vectors_is_seen() {
    let mut fields =
        vec![near("bleu_sacrebleu.jsonl", "score"), near("bleu_sacrebleu.jsonl", "bp"), near("rouge_bootstrap.jsonl", "plain_mean")];
    for (file, keys) in [
        ("bleu_sacrebleu.jsonl", &["counts", "totals", "precisions", "sys_len", "ref_len"][..]),
        ("decode_cleanup.jsonl", &["cleaned"]),
        ("mgsm_extract.jsonl", &["extracted", "is_integer_answer"]),
        ("rouge_bootstrap.jsonl", &["low", "mid", "high"]),
        ("tokenizer_13a.jsonl", &["tokenized", "rstripped_first"]),
    ] {
        fields.extend(keys.iter().map(|key| field(file, &format!("/{key}"), key)));
    }
    for key in ["whitespace/rouge1", "whitespace/rouge2", "whitespace/rougeL"] {
        fields.push(field("rouge_score.jsonl", &format!("/{key}"), &key.replace('/', ".")));
    }
    for key in ["rouge1", "rouge2", "rougeL", "prediction_tokens"] {
        fields.push(field("rouge_score.jsonl", &format!("/model_tokenizer/{key}"), &format!("model_tokenizer.{key}")));
    }
    check_every_field("metrics", "", None, &fields);
}

/// Changes one random file in a copy of the folder, and says what certify finds: file, row and field.
fn found_in_random_vectors(name: &str, change: impl FnOnce(&Path)) -> Vec<(String, String, String)> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("pyrandom");
    copy(&committed().join("pyrandom"), &root);
    change(&root.join(name));
    replay(&root, None).folders.remove(0).mismatches.into_iter().map(|m| (m.file, m.row, m.field)).collect()
}

#[test]
fn every_change_in_the_random_vectors_is_seen() {
    let folder = committed().join("pyrandom");
    for entry in fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let object: Value = serde_json::from_str(&fs::read_to_string(folder.join(&name)).unwrap()).unwrap();
        let lists: Vec<&String> = object.as_object().unwrap().iter().filter(|(_, v)| v.is_array()).map(|(k, _)| k).collect();
        let needed =
            [("python_seed_", 13), ("numpy_legacy_seed_", 7), ("protocol_", 0)].into_iter().find(|(prefix, _)| name.starts_with(prefix));
        assert_eq!(needed.map(|(_, count)| count), Some(lists.len()), "{name} has the lists of the recorded vectors");
        for list in lists {
            let last = object[list].as_array().unwrap().len() - 1;
            let found = found_in_random_vectors(&name, |path| damage_file(path, &format!("/{list}/{last}"), damage, None));
            assert_eq!(found, [(name.clone(), format!("{list}[{last}]"), list.clone())]);
        }
    }
}

#[test]
fn every_change_in_the_order_and_draws_of_a_protocol_is_seen() {
    const FILE: &str = "protocol_jp_harness.json";
    let task = "pool_is_the_split";
    let drop_last = |value: &mut Value| drop(value.as_array_mut().unwrap().pop());
    for (pointer, change, row, field) in [
        ("order", damage as fn(&mut Value), task.to_owned(), "order"),
        ("draws/3", damage, format!("{task} draws[3]"), "draws"),
        ("draws", drop_last, task.to_owned(), "documents"),
    ] {
        let found = found_in_random_vectors(FILE, |path| damage_file(path, &format!("/tasks/{task}/{pointer}"), change, None));
        assert_eq!(found, [(FILE.to_owned(), row, field.to_owned())], "{pointer}");
    }
}

/// The compared fields of every folder of the JP harness, and those that one of them alone has.
#[test]
fn every_change_in_a_folder_of_the_jp_harness_is_seen() {
    let own: [(&str, &[&str], &[&str], &[&str]); 3] = [
        ("mgsm", &["answer"], &["acc"], &["acc"]),
        (
            "wmt20_ja_en",
            &["tokenized_13a", "tokenized_13a_reference"],
            &["bleu_one_document_corpus", "counts", "totals", "sys_len", "ref_len"],
            &["bleu", "counts", "totals", "sys_len", "ref_len", "precisions", "bp"],
        ),
        (
            "xlsum_ja",
            &["tokens", "reference_tokens"],
            &["rouge2_f", "rouge2_p", "rouge2_r"],
            &["rouge2", "rouge2_plain_mean_of_f_times_100"],
        ),
    ];
    for (folder, extracted, scores, metrics) in own {
        let mut fields = vec![
            field("fewshot.json", "/pool_size", "pool_size"),
            field("fewshot.json", "/documents", "documents"),
            field("fewshot.json", "/draws/1/rnd_sample_indices", "rnd_sample_indices"),
            field("scoring.jsonl", "/reference", "reference"),
            field("scoring.jsonl", "/extracted/completion", "extracted.completion"),
            field("summary.json", "/n", "n"),
        ];
        if folder != "wmt20_ja_en" {
            fields.push(field("fewshot.json", "/pool", "pool"));
        }
        for key in ["kind", "prompt", "stop", "max_new_tokens", "temperature"] {
            fields.push(field("requests.jsonl", &format!("/request/{key}"), &format!("request.{key}")));
        }
        for key in ["task", "num_fewshot", "documents_in_full_run", "sha256_of_all_prompts_in_evaluation_order"] {
            fields.push(field("summary.json", &format!("/settings/{key}"), &format!("settings.{key}")));
        }
        fields.extend(extracted.iter().map(|key| field("scoring.jsonl", &format!("/extracted/{key}"), &format!("extracted.{key}"))));
        // What went through a logarithm, and a mean that the harness does not report, are compared within a tolerance; all else is exact.
        const NEAR: [&str; 4] = ["bleu_one_document_corpus", "bleu", "bp", "rouge2_plain_mean_of_f_times_100"];
        let number = |file, group: &str, key: &&str| Field {
            damage: if NEAR.contains(key) { damage_beyond_tolerance } else { damage },
            ..field(file, &format!("/{group}/{key}"), &format!("{group}.{key}"))
        };
        fields.extend(scores.iter().map(|key| number("scoring.jsonl", "scores", key)));
        fields.extend(metrics.iter().map(|key| number("summary.json", "metrics", key)));
        let (asked, gold) = match folder {
            "mgsm" => ("/doc/question", "/doc/answer_number"),
            "xlsum_ja" => ("/doc/text", "/doc/summary"),
            _ => ("/doc/src", "/doc/ref"),
        };
        fields.extend([field("requests.jsonl", asked, "doc"), field("requests.jsonl", gold, "doc (gold)")]);
        check_every_field("ja-harness", folder, Some(&Store::samples()), &fields);
    }
}

fn programs() -> Result<Sandbox, CertifyError> {
    let mut options = Options::new(env!("CARGO_BIN_EXE_swallow-eval").into());
    options.python = std::env::var_os("SWALLOW_EVAL_PYTHON").map(Into::into);
    Sandbox::choose(&options).map_err(CertifyError::Sandbox)
}
