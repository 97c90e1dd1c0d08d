//! Readers against Python's own: the records of every file at hand, to the byte and in field order, and the documents of the goldens.

use crate::support::folder_of;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write;
use swallow_eval::dataset::{Record, checksum, manifest::Manifest, store::Store};

/// What CPython 3.11 makes of the same files: `json.load`, `csv.reader` after one leading U+FEFF, `xml.etree.ElementTree` with `.text or ''`.
/// Data set, splits in manifest order, number of records, and SHA-256 over one line a record of
/// `json.dumps(record, ensure_ascii=False, separators=(',', ':')) + '\n'`.
const PYTHON: [(&str, &[&str], usize, &str); 8] = [
    ("jcommonsenseqa", &["train"], 8939, "6725147ad2ca181edd05a7c162480704b0af202ebf5351808131aed333b2469d"),
    ("jcommonsenseqa", &["valid"], 1119, "f20bc4542775650855b8abc03dc18eeff66701a418964fbd5c89e9a8a813c2e0"),
    ("jemhopqa", &["train"], 1059, "d3132ab53c90066935ff20937b455eaeeeda20110743cc2b427d725821742333"),
    ("jemhopqa", &["dev"], 120, "246e5a308c45db725f8562fa4b1fce2aaa727debf7322606ca91bd3b071eb72c"),
    ("niilc", &["dev"], 800, "824e6a9e749df213cd5cf0deaa4ecb47b85276dbb3c56c1c33c25221f8f8ca8d"),
    ("niilc", &["test"], 200, "622e6eafec63255176f587a47ba0a9fa97005cca11bea1d5d3f4c561b9f6841a"),
    ("jsquad", &["valid"], 4442, "990e612defe0fdfe56218eed021fcecdbbb97d823ad326b6d20b53e6f87b93d7"),
    ("jmmlu", &[], 7097, "6dba5c8a8167d0c9e0a4faeee0e2f63b8c543b521f452b4e520d57065002925a"),
];

/// Golden folder and the splits its documents come from; no split stands for all.
const DOCUMENTS: [(&str, &[&str]); 5] =
    [("jcommonsenseqa", &["valid"]), ("jemhopqa", &["dev"]), ("niilc", &["test"]), ("jsquad", &["valid"]), ("jmmlu", &[])];

#[test]
fn records_are_those_python_reads() {
    let Some(data) = folder_of("SWALLOW_EVAL_DATA") else { return };
    let store = Store::mirror_only(&data);
    for (dataset, splits, count, digest) in PYTHON {
        let records: Vec<Record> = splits_of(&store, dataset, splits).into_iter().flat_map(|(_, records)| records).collect();
        let mut lines = String::new();
        records.iter().for_each(|record| writeln!(lines, "{}", line(record)).expect("a String takes everything"));
        assert_eq!((records.len(), checksum::sha256(lines.as_bytes()).as_str()), (count, digest), "{dataset} {splits:?}");
    }
}

/// Field order too, which `Map`'s own comparison ignores: exports hash documents as they are written.
#[test]
fn documents_of_goldens_are_records() {
    let Some(golden) = folder_of("SWALLOW_EVAL_GOLDEN") else { return };
    let Some(data) = folder_of("SWALLOW_EVAL_DATA") else { return };
    let store = Store::mirror_only(&data);
    for (task, splits) in DOCUMENTS {
        let records = splits_of(&store, task, splits);
        let mut known = BTreeSet::new();
        for (split, records) in &records {
            for (row, record) in records.iter().enumerate() {
                known.insert(if splits.is_empty() { format!("{split} {row} {}", line(record)) } else { line(record) });
            }
        }
        let requests = std::fs::read_to_string(golden.join("ja-llmjp").join(task).join("requests.jsonl")).expect("a golden");
        for request in requests.lines() {
            let row: Value = serde_json::from_str(request).expect("an object");
            let document = row["doc"].as_object().expect("an object").clone();
            let wanted = if splits.is_empty() { placed(document) } else { Value::Object(document).to_string() };
            assert!(known.contains(&wanted), "{task} {}: no record is {wanted}", row["doc_id"]);
        }
    }
}

/// A document of a benchmark with many subsets, as `subject row record`: the task adds those two, the file has the rest.
fn placed(mut document: serde_json::Map<String, Value>) -> String {
    let subject = document.shift_remove("subject").expect("a subject");
    let row = document.shift_remove("row").expect("a row");
    format!("{} {row} {}", subject.as_str().expect("text"), Value::Object(document))
}

fn splits_of(store: &Store, dataset: &str, splits: &[&str]) -> Vec<(String, Vec<Record>)> {
    let manifest = Manifest::builtin(dataset).expect("known");
    let splits = if splits.is_empty() { manifest.splits() } else { splits.to_vec() };
    splits.into_iter().map(|split| (split.to_owned(), store.records(&manifest, split).expect("read"))).collect()
}

fn line(record: &Record) -> String {
    serde_json::to_string(&record.0).expect("a record is JSON")
}
