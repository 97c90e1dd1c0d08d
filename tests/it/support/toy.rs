//! A data set of our own, with the checks of a real one.

use sha2::{Digest, Sha256};
use swallow_eval::dataset::{
    manifest::{DataFile, Form, Manifest},
    read::Reader,
};

/// A content long enough to come in many parts.
pub(crate) fn content() -> Vec<u8> {
    (0..20_000).flat_map(|i| format!("{{\"id\": {i}}}\n").into_bytes()).collect()
}

pub(crate) fn file(path: &str, content: &[u8]) -> DataFile {
    DataFile {
        member: None,
        split: "train".into(),
        path: path.into(),
        url: Some(format!("https://pinned.invalid/v1/{path}")),
        field: None,
        bytes: Some(content.len() as u64),
        sha256: Some(Sha256::digest(content).iter().map(|b| format!("{b:02x}")).collect()),
        git_blob: None,
        rows: None,
    }
}

pub(crate) fn manifest(files: Vec<DataFile>) -> Manifest {
    Manifest {
        name: "toy".into(),
        sha256: String::new(),
        title: "Toy".into(),
        licence: "CC0-1.0".into(),
        licence_note: None,
        citation: String::new(),
        homepage: String::new(),
        form: vec![Form { name: "only".into(), reader: Reader::Jsonl, files, each: vec![] }],
    }
}

pub(crate) fn toy() -> Manifest {
    manifest(vec![file("toy/train.jsonl", &content())])
}
