//! Where records come from: mirror and cache as the environment says, or the bundled samples.

use super::{
    downloads::Downloads,
    exit::{Exit, Failure},
    progress::Show,
    settings,
};
use crate::{
    dataset::{
        DatasetError, Network,
        manifest::Manifest,
        store::{Store, StoreOptions},
    },
    run::{
        plan::{Missing, Source},
        resources::{self, Segmenter, ToolError},
    },
    task::load::TaskError,
};
use std::{cell::RefCell, collections::BTreeSet, path::PathBuf};

/// The files of this machine; what is in neither mirror nor cache is fetched when `network` allows it, from `data_url` where one is given.
pub(super) fn files(network: Network, data_url: Option<&String>) -> Store {
    match StoreOptions::from_env(&settings::env, network) {
        Ok(options) => Store::open(StoreOptions { base_url: data_url.cloned(), ..options }),
        // Without a home there is no cache; a mirror may still have everything.
        Err(_) => Store::Files { mirror: settings::env("SWALLOW_EVAL_DATA").map(PathBuf::from), cache: None, source: None },
    }
}

/// `--offline`.
pub(super) fn network(offline: bool) -> Network {
    if offline { Network::Off } else { Network::Allowed }
}

/// Calls `work` with a source of records over `store`. The first record that is wanted of a data set brings all its files.
pub(super) fn with_source<T>(store: &Store, work: impl FnOnce(&Source<'_>) -> T) -> T {
    let brought: RefCell<BTreeSet<String>> = RefCell::default();
    let records = |dataset: &str, split: &str| {
        let manifest = Manifest::builtin(dataset).map_err(missing)?;
        if brought.borrow_mut().insert(dataset.to_owned()) {
            let downloads = Downloads::new(Show::on_stderr(), dataset);
            let ended = store.ensure(&manifest, &manifest.splits(), &|event| downloads.see(event));
            downloads.end();
            ended.map_err(missing)?;
        }
        store.records(&manifest, split).map_err(missing)
    };
    let digest = |dataset: &str| Manifest::builtin(dataset).map(|m| store.digest(&m)).unwrap_or_default();
    work(&Source { records: &records, digest: &digest })
}

fn missing(error: DatasetError) -> Missing {
    Missing { message: error.to_string(), hint: error.hint() }
}

/// nagisa's words.
///
/// # Errors
/// Its model is not at hand.
pub(super) fn nagisa(store: &Store) -> Result<Segmenter, ToolError> {
    let downloads = Downloads::new(Show::on_stderr(), "nagisa");
    let segmenter = resources::nagisa(store, &|event| downloads.see(event));
    downloads.end();
    segmenter
}

/// A wrong task file or name.
pub(super) fn task_failure(error: TaskError) -> Failure {
    let failure = Failure::new(Exit::Usage, error.to_string());
    match error {
        TaskError::UnknownTask { .. } => failure.hint("`swallow-eval tasks list` shows every task"),
        _ => failure,
    }
}
