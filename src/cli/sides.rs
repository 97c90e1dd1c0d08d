//! What `compare` and `gate` compare: a run directory, a baseline file, or a published row, by whatever name a person gives it.

use super::{
    compare::refused,
    exit::{Exit, Failure},
    run::results_failure,
};
use crate::{
    compare::{self, Comparison, Incomparable},
    results::{ResultsError, baseline::Baseline, reference, run_dir::RunDir},
};
use std::path::{Path, PathBuf};

/// Where committed baselines lie.
pub(super) const BASELINES: &str = "results/baselines";

/// The candidate: a run, or a baseline file.
pub(super) fn candidate(name: &str) -> Result<Baseline, Failure> {
    match recorded(name) {
        Ok(Some(side)) => Ok(side),
        Ok(None) => Err(usage(&ResultsError::NotARun { path: name.into() })),
        Err(error) => Err(usage(&error)),
    }
}

/// Compares the candidate with whatever `base` names.
pub(super) fn compare(base: &str, cand: &Baseline, incomparable: Incomparable) -> Result<Comparison, Failure> {
    if let Some(base) = recorded(base).map_err(|e| usage(&e))? {
        return compare::runs(&base, cand, incomparable).map_err(|e| refused(&e));
    }
    match reference::row(&cand.suite, base) {
        Ok(row) => Ok(compare::published(&row, cand)),
        Err(error) => {
            let message = format!("{base:?} is no run, no baseline and no published row");
            Err(Failure::new(Exit::Usage, message).hint(error.to_string()))
        }
    }
}

/// A run or baseline of this name, where there is one.
fn recorded(name: &str) -> Result<Option<Baseline>, ResultsError> {
    let by_name = Path::new(BASELINES).join(format!("{name}.json"));
    for file in [PathBuf::from(name), by_name] {
        if file.is_file() {
            return Baseline::read(&file).map(Some);
        }
    }
    match RunDir::find(Path::new(name), Path::new("results")) {
        Ok(dir) => Baseline::of_run(&dir).map(Some),
        Err(ResultsError::NotARun { .. }) if !Path::new(name).is_dir() => Ok(None),
        Err(error) => Err(error),
    }
}

fn usage(error: &ResultsError) -> Failure {
    results_failure(Exit::Usage, error)
}
