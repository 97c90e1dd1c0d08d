//! Why a model or tokenizer is not at hand, and what to do about it.

use crate::dataset::fetch::Fault;
use std::path::PathBuf;

/// Why a model or tokenizer is not at hand. Holds no token.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The name is no directory and cannot be an id.
    #[error("'{name}' is neither a directory nor a hub id of the form organisation/name")]
    Neither {
        /// As the user wrote it.
        name: String,
    },
    /// A revision that no git has.
    #[error("'{revision}' cannot be a branch, tag or commit")]
    Revision {
        /// As the user wrote it.
        revision: String,
    },
    /// Offline, and not everything is in the cache.
    #[error("no connection is allowed, and {file} of {id} (revision {revision}) is not in {}", cache.display())]
    NotCached {
        /// Hub id.
        id: String,
        /// Branch, tag or commit.
        revision: String,
        /// The first file that is not there.
        file: String,
        /// The hub's cache.
        cache: PathBuf,
    },
    /// Gated or private.
    #[error("{endpoint} denies access to {id} (status {status})")]
    Denied {
        /// Hub.
        endpoint: String,
        /// Hub id.
        id: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        token: TokenSent,
    },
    /// No such repository or revision.
    #[error("there is no directory '{id}', and {endpoint} has no model {id} with a revision {revision} (status {status})")]
    NoModel {
        /// Hub.
        endpoint: String,
        /// Hub id.
        id: String,
        /// Branch, tag or commit.
        revision: String,
        /// 401 or 404.
        status: u16,
    },
    /// The repository lacks a file that every model has.
    #[error("{id} (revision {revision}) on {endpoint} has no {file}")]
    NoFile {
        /// Hub.
        endpoint: String,
        /// Hub id.
        id: String,
        /// Branch, tag or commit.
        revision: String,
        /// Which.
        file: String,
    },
    /// The list of shards cannot be read.
    #[error("{}: {cause}", path.display())]
    Index {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// The server does not speak the hub's language.
    #[error("{endpoint} does not answer as a hub does: {what}")]
    NoHub {
        /// Hub.
        endpoint: String,
        /// What is missing.
        what: String,
    },
    /// No answer.
    #[error("failed to ask {endpoint} for {id}: {fault}")]
    NoAnswer {
        /// Hub.
        endpoint: String,
        /// Hub id.
        id: String,
        /// Why.
        fault: Fault,
    },
}

/// Whether a token went with the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenSent {
    /// It did.
    Yes,
    /// There is none.
    No,
}

impl HubError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            HubError::Neither { .. } => "check the path, or name a model as its page on the hub does".into(),
            HubError::Revision { .. } => "the model's page on the hub lists its branches, tags and commits".into(),
            HubError::NotCached { id, .. } => {
                format!("run once without --offline and HF_HUB_OFFLINE, or name a directory that holds the files of {id}")
            }
            HubError::Denied { endpoint, id, token: TokenSent::No, .. } => {
                format!("accept the licence on {endpoint}/{id} if it asks for that, and set HF_TOKEN to a token that may read the model")
            }
            HubError::Denied { endpoint, id, .. } => {
                format!("accept the licence on {endpoint}/{id} with the account that the token (HF_TOKEN or its file) belongs to")
            }
            HubError::NoModel { .. } => "check path, id and --revision; a private model needs HF_TOKEN".into(),
            HubError::NoFile { .. } => "only models with safetensors weights and a tokenizer.json can be run".into(),
            HubError::Index { .. } => "the model's repository is broken; name another --revision or a directory".into(),
            HubError::NoHub { .. } => "check HF_ENDPOINT and HTTPS_PROXY".into(),
            HubError::NoAnswer { .. } => {
                "check the network, HF_ENDPOINT, HTTPS_PROXY and NO_PROXY; HF_HUB_OFFLINE=1 uses what is cached".into()
            }
        })
    }
}
