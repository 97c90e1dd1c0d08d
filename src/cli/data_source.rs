//! Where records come from: mirror and cache as the environment says, or the bundled samples.

use super::{
    exit::{Exit, Failure},
    settings,
};
use crate::{
    dataset::{
        DatasetError,
        manifest::Manifest,
        store::{self, Store},
    },
    run::plan::{Missing, Source},
    task::load::TaskError,
};
use std::path::PathBuf;

/// The files of this machine.
pub(super) fn files() -> Store {
    let mirror = settings::env("SWALLOW_EVAL_DATA").map(PathBuf::from);
    Store::Files { mirror, cache: store::default_cache(&settings::env).ok(), source: None }
}

/// Calls `work` with a source of records over `store`.
pub(super) fn with_source<T>(store: &Store, work: impl FnOnce(&Source<'_>) -> T) -> T {
    let records = |dataset: &str, split: &str| {
        let manifest = Manifest::builtin(dataset).map_err(missing)?;
        store.records(&manifest, split).map_err(missing)
    };
    let digest = |dataset: &str| Manifest::builtin(dataset).map(|m| store.digest(&m)).unwrap_or_default();
    work(&Source { records: &records, digest: &digest })
}

fn missing(error: DatasetError) -> Missing {
    Missing { message: error.to_string(), hint: error.hint() }
}

/// A wrong task file or name.
pub(super) fn task_failure(error: TaskError) -> Failure {
    let failure = Failure::new(Exit::Usage, error.to_string());
    match error {
        TaskError::UnknownTask { .. } => failure.hint("`swallow-eval tasks list` shows every task"),
        _ => failure,
    }
}
