//! A run with everything it recorded, in memory: what pages and exports are made from.

use super::{
    ResultsError,
    journal::Answers,
    requests::PlannedRequest,
    run_dir::{RunDir, SAMPLES},
    samples::Sample,
    scores::Scores,
    spec::RunSpec,
};

/// Everything a run recorded.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Id of the run.
    pub run: String,
    /// `run.json`.
    pub spec: RunSpec,
    /// `scores.json`.
    pub scores: Scores,
    /// What was asked, in protocol order, requests of one document together.
    pub requests: Vec<PlannedRequest>,
    /// A line a document; none where the run did not log them.
    pub samples: Vec<Sample>,
    /// What came back.
    pub answers: Answers,
}

impl RunDir {
    /// Reads the whole run. That there is no `samples.jsonl` (`--no-log-samples`) is no error.
    ///
    /// # Errors
    /// When another file cannot be read, is corrupt or of a later format, or the run has no scores yet.
    pub fn recorded(&self) -> Result<Recorded, ResultsError> {
        Ok(Recorded {
            run: self.id(),
            spec: self.spec()?,
            scores: self.scores()?,
            requests: self.requests()?,
            samples: if self.path().join(SAMPLES).exists() { self.samples()? } else { Vec::new() },
            answers: Answers::of(self.responses()?.outcomes),
        })
    }
}
