//! The proof that certify sees every change in the goldens of the English harness and of the tokenizer.

use crate::certify::{Field, check_every_field, committed, copy, damage, damage_beyond_tolerance, field, replay};
use flate2::{Compression, write::GzEncoder};
use serde_json::Value;
use std::{fs, io::Write as _, path::Path};
use swallow_eval::dataset::store::Store;

/// A task folder: its name, a field of a document that is seen, filters (none of a multiple choice), metrics.
struct Task {
    folder: &'static str,
    doc: &'static str,
    filters: &'static [&'static str],
    metrics: &'static [&'static str],
}

const GENERATION: [&str; 8] = ["kind", "prompt", "stop", "stop_with_eos", "max_new_tokens", "temperature", "do_sample", "n"];
const TASKS: [Task; 8] = [
    Task { folder: "openbookqa", doc: "/doc/question/stem", filters: &[], metrics: &["acc", "acc_norm"] },
    Task { folder: "triviaqa", doc: "/doc/question", filters: &["remove_whitespace"], metrics: &["exact_match"] },
    Task { folder: "hellaswag", doc: "/doc/ctx_a", filters: &[], metrics: &["acc", "acc_norm"] },
    Task {
        folder: "squadv2",
        doc: "/doc/question",
        filters: &["none"],
        metrics: &["exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1", "best_exact", "best_f1"],
    },
    Task { folder: "xwinograd_en", doc: "/doc/option2", filters: &[], metrics: &["acc"] },
    Task { folder: "mmlu", doc: "/doc/question", filters: &[], metrics: &["acc"] },
    Task { folder: "gsm8k", doc: "/doc/answer", filters: &["strict-match", "flexible-extract"], metrics: &["exact_match"] },
    Task { folder: "bbh_cot_fewshot", doc: "/doc/target", filters: &["get-answer"], metrics: &["exact_match"] },
];

impl Task {
    /// The name of the first part of the folder, as its summary counts it.
    fn part(&self) -> String {
        let path = committed().join("en-harness").join(self.folder).join("summary.json");
        let summary: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        summary["n_per_task"].as_object().unwrap().keys().next().unwrap().clone()
    }

    /// What a row of the folder records of a document's shots, request, answer and scores.
    fn fields_of_rows(&self) -> Vec<Field> {
        let part = self.part();
        let mut fields = vec![field("fewshot.json", "/num_fewshot", "num_fewshot"), field("requests.jsonl", self.doc, "doc")];
        if self.folder != "bbh_cot_fewshot" {
            fields.push(field("fewshot.json", &format!("/pool_size/{part}"), "pool_size"));
            fields.extend(["drawn", "used"].map(|key| field("fewshot.json", &format!("/per_doc/{part}:1/{key}"), key)));
        }
        let asked = match (self.filters, self.folder) {
            ([], "xwinograd_en") => &["kind", "prompt", "continuations", "prompts"][..],
            ([], _) => &["kind", "prompt", "continuations"],
            _ => &GENERATION,
        };
        fields.extend(asked.iter().map(|key| field("requests.jsonl", &format!("/request/{key}"), &format!("request.{key}"))));
        fields.push(field("scoring.jsonl", "/reference", "reference"));
        if !self.filters.is_empty() {
            fields.push(field("scoring.jsonl", "/after_stop", "after_stop"));
        }
        if let [] | ["none"] = self.filters {
            fields.push(field("scoring.jsonl", "/extracted", "extracted"));
        } else {
            let extracted =
                self.filters.iter().map(|name| field("scoring.jsonl", &format!("/extracted/{name}"), &format!("extracted.{name}")));
            fields.extend(extracted);
        }
        if self.folder == "squadv2" {
            const KEY: &str = "no_answer_probability";
            fields.push(field("requests.jsonl", "/extra_requests/0/prompt", "extra_requests"));
            fields.push(Field { damage: damage_beyond_tolerance, ..field("scoring.jsonl", &format!("/{KEY}"), KEY) });
        }
        fields
    }

    /// Numbers of rows and of the summary.
    fn fields_of_numbers(&self) -> Vec<Field> {
        let mut fields = vec![
            field("summary.json", "/n", "n"),
            field("summary.json", &format!("/n_per_task/{}", self.part()), "n_per_task"),
            field("summary.json", "/settings/num_fewshot", "settings.num_fewshot"),
        ];
        let groups: &[&str] = if ["mmlu", "bbh_cot_fewshot"].contains(&self.folder) { &["metrics", "groups"] } else { &["metrics"] };
        let filters = if self.filters.is_empty() { &["none"] } else { self.filters };
        for (metric, filter) in self.metrics.iter().flat_map(|metric| filters.iter().map(move |filter| (metric, filter))) {
            let key = format!("{metric},{filter}");
            fields.push(field("scoring.jsonl", &format!("/scores/{key}"), &format!("scores.{key}")));
            for group in groups {
                let name = |key: &str| (format!("/{group}/{}/{key}", self.folder), format!("{group}.{key}"));
                let ((value, value_name), (error, error_name)) = (name(&key), name(&format!("{metric}_stderr,{filter}")));
                fields.push(field("summary.json", &value, &value_name));
                let damage = if self.folder == "squadv2" { damage } else { damage_beyond_tolerance };
                fields.push(Field { damage, ..field("summary.json", &error, &error_name) });
            }
        }
        fields
    }
}

#[test]
fn every_change_in_a_folder_of_the_english_harness_is_seen() {
    for task in &TASKS {
        let fields: Vec<Field> = task.fields_of_rows().into_iter().chain(task.fields_of_numbers()).collect();
        check_every_field("en-harness", task.folder, Some(&Store::samples()), &fields);
    }
}

#[test]
fn every_change_in_the_vectors_of_the_english_harness_is_seen() {
    let mut fields: Vec<Field> =
        ["norm_gold", "norm_pred", "exact", "f1"].map(|key| field("squad_v2_pairs.jsonl", &format!("/{key}"), key)).into();
    for key in ["first_getrandbits32", "mixed_getrandbits", "xwinograd_en_docs_whose_draw_contains_themselves"] {
        fields.push(field("rng_sample.json", &format!("/{key}"), key));
    }
    fields.extend(["first", "last", "sha256_of_lines"].map(|key| field("rng_sample.json", &format!("/cases/1/{key}"), key)));
    check_some_rows(&mut fields);
    check_every_field("en-harness", "units", None, &fields);
}

/// Fields whose rows are told apart by another field: the first row of each kind is damaged.
fn check_some_rows(fields: &mut Vec<Field>) {
    fields.push(of_row("filters.jsonl", "out", "out (gsm8k strict-match)", |row| row["filter"] == "gsm8k strict-match"));
    fields.push(of_row("filters.jsonl", "out", "out (gsm8k flexible-extract)", |row| row["filter"] == "gsm8k flexible-extract"));
    fields.push(of_row("filters.jsonl", "out", "out (bbh get-answer)", |row| row["filter"] == "bbh get-answer"));
    fields.push(of_row("filters.jsonl", "out", "out (triviaqa remove_whitespace)", |row| row["filter"] == "triviaqa remove_whitespace"));
    fields.push(of_row("exact_match.jsonl", "exact_match", "exact_match (gsm8k)", |row| row["kind"] == "gsm8k"));
    fields.push(of_row("exact_match.jsonl", "exact_match", "exact_match (triviaqa)", |row| row["kind"] == "triviaqa"));
    fields.push(of_row("exact_match.jsonl", "exact_match", "exact_match (bbh)", |row| row["kind"] == "bbh"));
    fields.push(of_row("hellaswag_text.jsonl", "out", "out (preprocess)", |row| row["fn"] == "preprocess"));
    fields.push(of_row("hellaswag_text.jsonl", "out", "out (capitalize)", |row| row["fn"] == "capitalize"));
    fields.push(of_row("aggregation.jsonl", "mean", "mean (mean+mean_stderr)", |row| row["fn"] != "group"));
    fields.push(of_row("aggregation.jsonl", "stderr", "stderr (mean+mean_stderr)", |row| row["fn"] != "group"));
    fields.push(of_row("aggregation.jsonl", "metric", "metric (group)", |row| row["fn"] == "group"));
    let error = of_row("aggregation.jsonl", "stderr", "stderr (group)", |row| row["fn"] == "group");
    fields.push(Field { damage: damage_beyond_tolerance, ..error });
}

/// A field of the first row that fits, as a pointer behind the row's number.
fn of_row(file: &'static str, key: &str, name: &str, fits: fn(&Value) -> bool) -> Field {
    let text = fs::read_to_string(committed().join("en-harness/units").join(file)).unwrap();
    let row = text.lines().position(|line| fits(&serde_json::from_str(line).unwrap())).unwrap();
    Field { row: Some(row), ..field(file, &format!("/{key}"), name) }
}

#[test]
fn every_change_in_the_vectors_of_the_tokenizer_is_seen() {
    let mut fields = Vec::new();
    for (file, keys) in [
        ("decode.jsonl", &["decode_plain", "decode_clean_up_tokenization_spaces"][..]),
        ("encode_special.jsonl", &["add_special_tokens_false", "add_special_tokens_true", "left_truncate_len_5"]),
        (
            "encode_pair.jsonl",
            &[
                "context_enc",
                "continuation_enc",
                "whole_enc_of_concatenation",
                "accepted_by_original",
                "inp_max_length_8",
                "inp_max_length_32",
            ],
        ),
    ] {
        fields.extend(keys.iter().map(|key| field(file, &format!("/{key}"), key)));
    }
    check_every_field("tokenizer", "", None, &fields);
}

/// The records of one split of a sample, a line each.
fn sample(dataset: &str, split: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("samples/{dataset}.jsonl"));
    let entries = fs::read_to_string(path).unwrap();
    let entries = entries.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    entries.filter(|entry| entry["split"] == split).map(|entry| format!("{}\n", entry["record"])).collect()
}

#[test]
fn records_that_a_golden_brings_along_are_used_and_compared() {
    let dir = tempfile::tempdir().unwrap();
    let found = |folder: &str, name: &str, content: &[u8]| {
        let root = dir.path().join("en-harness").join(folder);
        copy(&committed().join("en-harness").join(folder), &root);
        fs::create_dir_all(root.join("dataset")).unwrap();
        fs::write(root.join("dataset").join(name), content).unwrap();
        let folder = replay(&root, Some(&Store::samples())).folders.remove(0);
        (folder.compared, folder.mismatches.into_iter().map(|m| (m.file, m.row, m.field)).collect::<Vec<_>>())
    };
    let pool = sample("openbookqa", "train");
    assert_eq!(found("openbookqa", "synthetic.train.jsonl", pool.concat().as_bytes()).1, []);
    let mismatches = found("openbookqa", "synthetic.train.jsonl", pool[1..].concat().as_bytes()).1;
    assert!(mismatches.iter().any(|(_, _, field)| field == "pool_size"), "{mismatches:?}");
    let gzip = |text: String| {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(text.as_bytes()).unwrap();
        gzip.finish().unwrap()
    };
    const DERIVED: &str = "test.derived.jsonl.gz";
    let mut split = sample("xwinograd", "test");
    let (compared, mismatches) = found("xwinograd_en", DERIVED, &gzip(split.concat()));
    assert_eq!((mismatches, compared.get("test.derived.jsonl.gz record")), (vec![], Some(&(split.len() as u64))));
    split[3] = split[3].replace("\"2\"", "\"1\"");
    let mismatches = found("xwinograd_en", DERIVED, &gzip(split.concat())).1;
    assert!(mismatches.contains(&(DERIVED.to_owned(), "3".to_owned(), "record".to_owned())), "{mismatches:?}");
}
