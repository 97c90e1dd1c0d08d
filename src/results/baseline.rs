//! A baseline: what a comparison needs of a run, in one small file that can be committed (`results/baselines/<name>.json`).
//!
//! `{"version":1,"run":"...","protocol":"...","suite":"ja","model":"...","tasks":[{"task":"jemhopqa","metric":"char_f1","shots":4,
//! "task_sha256":"...","data_sha256":"...","signature":"...","documents":["00000",...],"values":[0.73,...]}]}`. No prompt, no answer, no
//! reference: nothing of a data set but the names of its documents.

use super::{ResultsError, atomic, check_format, run_dir::RunDir, samples::Sample, scores::TaskScore, spec::TaskSpec};
use crate::metric::Score;
use serde::{Deserialize, Serialize};
use std::{fs, path::Path};

/// Number of the baseline format.
pub const FORMAT: u32 = 1;

/// A run as a comparison sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Format number, [`FORMAT`].
    pub version: u32,
    /// Id of the run.
    pub run: String,
    /// `swallow-202407`.
    pub protocol: String,
    /// `ja`, `en`, `mt-bench`.
    pub suite: String,
    /// What answered, as the user named it.
    pub model: String,
    /// Whether the numbers mean nothing.
    pub demo: bool,
    /// Tasks that have a number, in the suite's order.
    pub tasks: Vec<BaselineTask>,
}

/// One task of a [`Baseline`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BaselineTask {
    /// Task name.
    pub task: String,
    /// Column of the published table.
    pub title: String,
    /// Headline metric.
    pub metric: String,
    /// The number, as `scores.json` has it.
    pub value: f64,
    /// Half the width of its 95 % confidence interval.
    pub half_width_95: Option<f64>,
    /// Documents whose request failed, and which count as wrong.
    pub failed: u64,
    /// Shots in force.
    pub shots: u32,
    /// SHA-256 of the task file.
    pub task_sha256: String,
    /// SHA-256 over the data files used.
    pub data_sha256: String,
    /// What departs from the protocol, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub departures: Vec<String>,
    /// See [`signature`](super::signature).
    pub signature: String,
    /// Ids of the documents, in protocol order.
    pub documents: Vec<String>,
    /// Their values by the headline metric, in the same order.
    pub values: Vec<f64>,
    /// Their additive statistics, where the metric has some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stats: Vec<Vec<f64>>,
}

impl BaselineTask {
    /// The score of the document at this place.
    pub fn score(&self, at: usize) -> Score {
        Score { value: self.values[at], stats: self.stats.get(at).cloned().unwrap_or_default() }
    }

    fn of(score: &TaskScore, spec: &TaskSpec, samples: &[Sample]) -> Option<Self> {
        let of_task: Vec<&Sample> = samples.iter().filter(|sample| sample.task == score.task).collect();
        let values: Vec<f64> = of_task.iter().filter_map(|sample| sample.scores.get(&score.metric).copied()).collect();
        let stats: Vec<Vec<f64>> = of_task.iter().filter_map(|sample| sample.stats.get(&score.metric).cloned()).collect();
        Some(BaselineTask {
            task: score.task.clone(),
            title: score.title.clone(),
            metric: score.metric.clone(),
            value: score.value?,
            half_width_95: score.half_width_95,
            failed: score.failed,
            shots: spec.shots,
            task_sha256: spec.task_sha256.clone(),
            data_sha256: spec.data_sha256.clone(),
            departures: score.departures.clone(),
            signature: score.signature.clone(),
            documents: of_task.iter().map(|sample| sample.doc_id.clone()).collect(),
            values,
            stats,
        })
    }

    /// What is wrong with the lists, if anything.
    fn flaw(&self) -> Option<String> {
        let (documents, values, stats) = (self.documents.len(), self.values.len(), self.stats.len());
        let whole = values == documents && (stats == 0 || stats == documents);
        (!whole).then(|| format!("task {}: {documents} documents, {values} values, {stats} lists of statistics", self.task))
    }
}

impl Baseline {
    /// Takes what is needed from a scored run.
    ///
    /// # Errors
    /// When a file of the run is absent, corrupt or of a later format, or `samples.jsonl` and `scores.json` do not belong together.
    pub fn of_run(dir: &RunDir) -> Result<Self, ResultsError> {
        let (spec, scores, samples) = (dir.spec()?, dir.scores()?, dir.samples()?);
        let task = |score: &TaskScore| {
            let spec = spec.tasks.iter().find(|spec| spec.task == score.task)?;
            BaselineTask::of(score, spec, &samples)
        };
        let tasks: Vec<BaselineTask> = scores.tasks.iter().filter_map(task).collect();
        if let Some(flaw) = tasks.iter().find_map(BaselineTask::flaw) {
            return Err(ResultsError::corrupt(&dir.path().join(super::run_dir::SAMPLES), None, flaw));
        }
        let (run, model) = (dir.id(), scores.model.clone());
        Ok(Baseline { version: FORMAT, run, protocol: spec.protocol, suite: spec.suite, model, demo: scores.demo, tasks })
    }

    /// Reads a baseline file.
    ///
    /// # Errors
    /// When it cannot be read, is corrupt or of a later format.
    pub fn read(path: &Path) -> Result<Self, ResultsError> {
        let bytes = fs::read(path).map_err(ResultsError::io("read", path))?;
        let baseline: Baseline =
            serde_json::from_slice(&bytes).map_err(|e| ResultsError::corrupt(path, None, format!("not a baseline: {e}")))?;
        check_format(path, None, baseline.version, FORMAT)?;
        match baseline.tasks.iter().find_map(BaselineTask::flaw) {
            Some(flaw) => Err(ResultsError::corrupt(path, None, flaw)),
            None => Ok(baseline),
        }
    }

    /// Replaces a baseline file, making its folder where need be. Tasks stand on lines of their own, so that a diff shows which changed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ResultsError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(ResultsError::io("create", folder))?;
        }
        let head = Baseline { tasks: Vec::new(), ..self.clone() };
        let head = serde_json::to_string(&head).expect("a baseline is plain data");
        let head = head.strip_suffix("]}").expect("the list of tasks comes last");
        let lines: Vec<String> = self.tasks.iter().map(|task| serde_json::to_string(task).expect("a task is plain data")).collect();
        atomic::write(path, |out| write!(out, "{head}\n{}\n]}}\n", lines.join(",\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline() -> Baseline {
        let task = |name: &str| BaselineTask {
            task: name.into(),
            value: 0.5,
            documents: vec!["0".into(), "1".into()],
            values: vec![0.0, 1.0],
            ..BaselineTask::default()
        };
        let text = |t: &str| t.to_owned();
        let tasks = vec![task("a"), BaselineTask { stats: vec![vec![1.0], vec![2.0]], ..task("b") }];
        Baseline { version: FORMAT, run: text("r"), protocol: text("p"), suite: text("ja"), model: text("m"), demo: false, tasks }
    }

    #[test]
    fn round_trips_a_task_a_line() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("new/folder/b.json");
        for whole in [baseline(), Baseline { tasks: vec![], ..baseline() }] {
            whole.write(&path).expect("writes");
            assert_eq!(Baseline::read(&path).expect("reads"), whole);
        }
        baseline().write(&path).expect("writes");
        assert_eq!(fs::read_to_string(&path).expect("there").lines().count(), 4);
        assert_eq!(baseline().tasks[1].score(1), Score { value: 1.0, stats: vec![2.0] });
    }

    #[test]
    fn damage_is_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("b.json");
        baseline().write(&path).expect("writes");
        let text = fs::read_to_string(&path).expect("there");
        for (damaged, expected) in [
            (text.replace("\"version\":1", "\"version\":9"), "format 9 is newer"),
            (text.replacen("[0.0,1.0]", "[0.0]", 1), "task a: 2 documents, 1 values"),
            ("{}".to_owned(), "not a baseline: missing field"),
        ] {
            fs::write(&path, damaged).expect("written");
            let message = Baseline::read(&path).expect_err(expected).to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
