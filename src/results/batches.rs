//! `batches-<judge>.json`: what was handed to a judge's server as a batch, written down before anything can be lost.
//!
//! A batch stands here before its file is uploaded, with a key that its file and the batch carry at the server; the server's own names for
//! both are added as soon as they are known. So a process that ends at any moment leaves enough to find the batch again, and none is made
//! twice. Its answers are in the judge's journal; an entry that has ended stays, as a record.

use crate::engine::RequestId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{collections::BTreeSet, time::SystemTime};

/// Number of the `batches-<judge>.json` format.
pub const FORMAT: u32 = 1;

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batches {
    /// [`FORMAT`].
    pub version: u32,
    /// In the order in which they were begun.
    pub batches: Vec<Batch>,
}

/// One batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Ours, unlike any other: what file and batch are known by at the server until their ids are written here.
    pub key: String,
    /// Base URL of the server, without user-info.
    pub server: String,
    /// Which try of its requests this is, from 1.
    pub attempt: u32,
    /// The uploaded file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The server's name for the batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    /// Its last status, once the journal has its answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// What it asks.
    pub requests: Vec<RequestId>,
    /// Those that it did not answer, once it has ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<RequestId>,
}

impl Default for Batches {
    fn default() -> Self {
        Batches { version: FORMAT, batches: Vec::new() }
    }
}

impl Batches {
    /// Batches whose answers are not in the journal yet.
    pub fn open(&self) -> impl Iterator<Item = &Batch> {
        self.batches.iter().filter(|b| b.ended.is_none())
    }

    /// Requests that a batch answered.
    pub fn answered(&self) -> BTreeSet<&RequestId> {
        let mut answered = BTreeSet::new();
        for batch in self.batches.iter().filter(|b| b.ended.is_some()) {
            let unanswered: BTreeSet<&RequestId> = batch.unanswered.iter().collect();
            answered.extend(batch.requests.iter().filter(|id| !unanswered.contains(id)));
        }
        answered
    }
}

impl Batch {
    /// A batch that is about to be made. Its key tells it from every other, this moment's included.
    pub fn new(run: &str, server: &str, attempt: u32, requests: Vec<RequestId>) -> Self {
        let mut hash = Sha256::new();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        for part in [run, server, &now.to_string(), &std::process::id().to_string()] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        requests.iter().for_each(|id| hash.update(id.0.as_bytes()));
        let key = hash.finalize()[..16].iter().map(|b| format!("{b:02x}")).collect();
        Batch { key, server: server.to_owned(), attempt, file: None, batch: None, ended: None, requests, unanswered: Vec::new() }
    }

    /// Name of its file at the server.
    pub fn file_name(&self) -> String {
        format!("swallow-eval-{}.jsonl", self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &[&str]) -> Vec<RequestId> {
        names.iter().map(|n| RequestId((*n).to_owned())).collect()
    }

    #[test]
    fn two_batches_of_the_same_requests_have_two_keys() {
        let make = || Batch::new("run", "http://h/v1", 1, ids(&["a", "b"]));
        assert_ne!(make().key, make().key);
    }

    #[test]
    fn what_a_batch_answered_is_known_when_it_has_ended() {
        let open = Batch::new("run", "http://h/v1", 1, ids(&["c"]));
        let ended =
            Batch { ended: Some("completed".into()), unanswered: ids(&["b"]), ..Batch::new("run", "http://h/v1", 1, ids(&["a", "b"])) };
        let all = Batches { batches: vec![ended, open], ..Batches::default() };
        assert_eq!(all.answered().into_iter().cloned().collect::<Vec<_>>(), ids(&["a"]));
        assert_eq!(all.open().count(), 1);
    }
}
