//! Two runs, document by document: what differs, how sure that is, and whether a policy lets it pass.
//!
//! A run is seen as a [`Baseline`]. Nothing here prints or chooses an exit code, and `resample` and `paired` know neither runs nor tasks.

pub mod gate;
pub mod paired;
pub mod policy;
pub mod resample;
pub mod table;

use crate::metric::{self, Score};
use crate::results::{
    baseline::{Baseline, BaselineTask},
    reference::ReferenceRow,
};
use paired::Paired;
use resample::Tail;
use std::collections::{BTreeMap, BTreeSet};

/// Level of the tests and intervals that `compare` shows.
pub const ALPHA: f64 = 0.05;

/// Whether runs may be compared that did not do the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incomparable {
    /// They are refused.
    Refuse,
    /// The documents they share are compared, and the table says what differs (`--force`).
    Force,
}

/// Why two runs are not compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// Signatures differ in more than who answered.
    #[error("these runs did not do the same: {}", differences.join("; "))]
    Differ {
        /// One a task and field: `jemhopqa shots: 4 in the base, 2 in the candidate`.
        differences: Vec<String>,
    },
    /// No task in common.
    #[error("the base {base} and the candidate {cand} have no task in common; the base has: {of_base}; the candidate has: {of_cand}")]
    NothingShared {
        /// Name of the base.
        base: String,
        /// Name of the candidate.
        cand: String,
        /// Tasks of the base.
        of_base: String,
        /// Tasks of the candidate.
        of_cand: String,
    },
}

/// A comparison of two runs, or of a run with a published row.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Name of the base.
    pub base: String,
    /// Name of the candidate.
    pub cand: String,
    /// Suite of both.
    pub suite: String,
    /// Whether the numbers of either mean nothing.
    pub demo: bool,
    /// Tasks, in the candidate's order, then those that only the base has.
    pub tasks: Vec<TaskComparison>,
    /// The mean over the compared tasks, where there are at least two.
    pub mean: Option<MeanComparison>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// One task of a comparison.
#[derive(Clone, Debug)]
pub struct TaskComparison {
    /// Task name.
    pub task: String,
    /// Column of the published table.
    pub title: String,
    /// Headline metric.
    pub metric: String,
    /// Number of the base, where it has one.
    pub base: Option<f64>,
    /// Number of the candidate, where it has one.
    pub cand: Option<f64>,
    /// Failed requests of the base and of the candidate.
    pub failed: (u64, u64),
    /// Documents of the base and of the candidate.
    pub documents: (usize, usize),
    /// What the two say about a difference.
    pub finding: Finding,
    /// Two-sided p after Holm's correction over the tasks.
    pub adjusted_p: Option<f64>,
    /// Documents whose score changed, largest loss first.
    pub flips: Vec<Flip>,
}

impl TaskComparison {
    /// Candidate less base, of what the table shows: where the aggregate cannot be resampled, of the two numbers.
    pub fn difference(&self) -> Option<f64> {
        match &self.finding {
            Finding::Paired(paired) if paired.statistic == resample::Statistic::MeanInstead => Some(self.cand? - self.base?),
            finding => finding.difference(),
        }
    }
}

/// What can be said about a task.
#[derive(Clone, Debug)]
pub enum Finding {
    /// Document by document.
    Paired(Box<Paired>),
    /// Number against published number.
    Unpaired {
        /// Candidate less base.
        difference: f64,
        /// Standard error of the difference, the published number taken to be as uncertain as ours.
        standard_error: Option<f64>,
    },
    /// Only one of the two has it.
    Missing {
        /// Which one lacks it.
        why: String,
    },
}

impl Finding {
    /// Candidate less base.
    pub fn difference(&self) -> Option<f64> {
        match self {
            Finding::Paired(paired) => Some(paired.difference),
            Finding::Unpaired { difference, .. } => Some(*difference),
            Finding::Missing { .. } => None,
        }
    }

    /// p of no difference (both tails), or of no loss (lower tail).
    pub fn p(&self, tail: Tail) -> Option<f64> {
        match (self, tail) {
            (Finding::Paired(paired), Tail::Both) => Some(paired.p),
            (Finding::Paired(paired), Tail::Lower) => Some(paired.p_worse),
            (Finding::Unpaired { difference, standard_error }, tail) => Some(paired::normal_p(*difference, (*standard_error)?, tail)),
            (Finding::Missing { .. }, _) => None,
        }
    }
}

/// A document whose score changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Flip {
    /// Document.
    pub doc_id: String,
    /// Score in the base.
    pub base: f64,
    /// Score in the candidate.
    pub cand: f64,
}

/// The mean of differences over tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct MeanComparison {
    /// Tasks in the mean.
    pub tasks: usize,
    /// Mean of the base's numbers.
    pub base: f64,
    /// Mean of the candidate's.
    pub cand: f64,
    /// 95 % interval of the mean difference, each task resampled on its own.
    pub interval: Option<(f64, f64)>,
}

/// Compares a candidate with a base.
///
/// # Errors
/// [`CompareError`]: with [`Incomparable::Refuse`] when the runs differ in protocol, task file, data, shots, departures, metric or documents.
pub fn runs(base: &Baseline, cand: &Baseline, incomparable: Incomparable) -> Result<Comparison, CompareError> {
    let shared: Vec<(&BaselineTask, &BaselineTask)> =
        cand.tasks.iter().filter_map(|c| Some((base.tasks.iter().find(|b| b.task == c.task)?, c))).collect();
    if shared.is_empty() {
        let names = |side: &Baseline| side.tasks.iter().map(|t| t.task.as_str()).collect::<Vec<_>>().join(", ");
        let (of_base, of_cand) = (names(base), names(cand));
        return Err(CompareError::NothingShared { base: base.run.clone(), cand: cand.run.clone(), of_base, of_cand });
    }
    let mut differences = side_differences(base, cand);
    differences.extend(shared.iter().flat_map(|(b, c)| task_differences(b, c)));
    if incomparable == Incomparable::Refuse && !differences.is_empty() {
        return Err(CompareError::Differ { differences });
    }
    let mut tasks: Vec<TaskComparison> = cand
        .tasks
        .iter()
        .map(|c| match base.tasks.iter().find(|b| b.task == c.task) {
            Some(b) => compare_task(b, c),
            None => missing(c, None, Some(c.value), "the base has no number for it"),
        })
        .collect();
    let only_base = base.tasks.iter().filter(|b| cand.tasks.iter().all(|c| c.task != b.task));
    tasks.extend(only_base.map(|b| missing(b, Some(b.value), None, "the candidate has no number for it")));
    adjust(&mut tasks);
    let mut notes: Vec<String> = differences.iter().map(|d| format!("compared by force: {d}")).collect();
    if tasks.iter().any(|t| matches!(&t.finding, Finding::Paired(p) if p.n < t.documents.0.max(t.documents.1))) {
        notes.push("differences are over the documents that both have, base and candidate over all of their own".to_owned());
    }
    let of_mean = |t: &&TaskComparison| matches!(&t.finding, Finding::Paired(p) if p.statistic == resample::Statistic::MeanInstead);
    let of_mean: Vec<&str> = tasks.iter().filter(of_mean).map(|task| task.title.as_str()).collect();
    if !of_mean.is_empty() {
        let which = of_mean.join(", ");
        notes.push(format!("{which}: the difference is that of the numbers; interval and test are those of the mean over documents"));
    }
    let name = |side: &Baseline| format!("{} ({})", side.model, side.run);
    let mean = mean_over(&tasks);
    Ok(Comparison { base: name(base), cand: name(cand), suite: cand.suite.clone(), demo: base.demo || cand.demo, tasks, mean, notes })
}

/// Compares a candidate with a published row, number against number.
pub fn published(row: &ReferenceRow, cand: &Baseline) -> Comparison {
    let task = |c: &BaselineTask| {
        let base = row.value(&c.title);
        let standard_error = c.half_width_95.map(|half| half / paired::quantile(0.975) * std::f64::consts::SQRT_2);
        let finding = match base {
            Some(base) => Finding::Unpaired { difference: c.value - base, standard_error },
            None => Finding::Missing { why: "the published table has no such column".to_owned() },
        };
        TaskComparison { base, finding, ..missing(c, None, Some(c.value), "") }
    };
    let mut tasks: Vec<TaskComparison> = cand.tasks.iter().map(task).collect();
    adjust(&mut tasks);
    let notes = vec![
        "unpaired: the base is a published row, whose answers are not known; its numbers are taken to be as uncertain as ours".to_owned(),
    ];
    let mean = mean_over(&tasks);
    let (base, cand_name) = (format!("{} (published)", row.model), format!("{} ({})", cand.model, cand.run));
    Comparison { base, cand: cand_name, suite: cand.suite.clone(), demo: cand.demo, tasks, mean, notes }
}

/// What two runs as a whole must share.
fn side_differences(base: &Baseline, cand: &Baseline) -> Vec<String> {
    let kind = |demo| if demo { "a demo" } else { "a measurement" };
    [("protocol", &base.protocol, &cand.protocol), ("suite", &base.suite, &cand.suite)]
        .into_iter()
        .filter(|(_, b, c)| b != c)
        .map(|(field, b, c)| differ("", field, b, c))
        .chain((base.demo != cand.demo).then(|| differ("", "purpose", kind(base.demo), kind(cand.demo))))
        .collect()
}

/// What the same task must share in two runs: everything a number depends on but who answered.
fn task_differences(base: &BaselineTask, cand: &BaselineTask) -> Vec<String> {
    let short = |hash: &str| hash.get(..6).unwrap_or(hash).to_owned();
    let departures = |t: &BaselineTask| if t.departures.is_empty() { "none".to_owned() } else { t.departures.join(",") };
    let fields = [
        ("metric", base.metric.clone(), cand.metric.clone()),
        ("shots", base.shots.to_string(), cand.shots.to_string()),
        ("task file", short(&base.task_sha256), short(&cand.task_sha256)),
        ("data", short(&base.data_sha256), short(&cand.data_sha256)),
        ("departures", departures(base), departures(cand)),
        ("defects", defects(&base.signature), defects(&cand.signature)),
        ("documents", base.documents.len().to_string(), cand.documents.len().to_string()),
    ];
    let mut found: Vec<String> =
        fields.iter().filter(|(_, b, c)| b != c).map(|(field, b, c)| differ(&format!("{} ", cand.task), field, b, c)).collect();
    let ids = |t: &BaselineTask| t.documents.iter().cloned().collect::<BTreeSet<String>>();
    if base.documents.len() == cand.documents.len() && ids(base) != ids(cand) {
        found.push(format!("{} documents: as many in both, but not the same ones", cand.task));
    }
    found
}

fn differ(of: &str, field: &str, base: &str, cand: &str) -> String {
    format!("{of}{field}: {base} in the base, {cand} in the candidate")
}

/// The part of a signature that says what was done about upstream defects.
fn defects(signature: &str) -> String {
    signature.split('|').find_map(|part| part.strip_prefix("defects:")).unwrap_or("none").to_owned()
}

fn compare_task(base: &BaselineTask, cand: &BaselineTask) -> TaskComparison {
    let places: BTreeMap<&str, usize> = base.documents.iter().enumerate().map(|(at, id)| (id.as_str(), at)).collect();
    let (mut of_base, mut of_cand, mut flips): (Vec<Score>, Vec<Score>, Vec<Flip>) = Default::default();
    for (at, id) in cand.documents.iter().enumerate() {
        let Some(place) = places.get(id.as_str()) else { continue };
        let (b, c) = (base.score(*place), cand.score(at));
        if b.value != c.value {
            flips.push(Flip { doc_id: id.clone(), base: b.value, cand: c.value });
        }
        of_base.push(b);
        of_cand.push(c);
    }
    flips.sort_by(|a, b| (a.cand - a.base).total_cmp(&(b.cand - b.base)));
    let finding = match metric::by_name(&cand.metric) {
        None => Finding::Missing { why: format!("this build has no metric {}", cand.metric) },
        Some(metric) => match paired::compare(metric, &of_base, &of_cand) {
            Some(paired) => Finding::Paired(Box::new(paired)),
            None => Finding::Missing { why: "no document in common".to_owned() },
        },
    };
    let documents = (base.documents.len(), cand.documents.len());
    TaskComparison {
        failed: (base.failed, cand.failed),
        documents,
        finding,
        flips,
        ..missing(cand, Some(base.value), Some(cand.value), "")
    }
}

/// A task with numbers and without a finding.
fn missing(task: &BaselineTask, base: Option<f64>, cand: Option<f64>, why: &str) -> TaskComparison {
    TaskComparison {
        task: task.task.clone(),
        title: task.title.clone(),
        metric: task.metric.clone(),
        base,
        cand,
        failed: (0, task.failed),
        documents: (0, task.documents.len()),
        finding: Finding::Missing { why: why.to_owned() },
        adjusted_p: None,
        flips: Vec::new(),
    }
}

/// Holm over the tasks that were tested.
fn adjust(tasks: &mut [TaskComparison]) {
    let p: Vec<f64> = tasks.iter().filter_map(|t| t.finding.p(Tail::Both)).collect();
    let mut adjusted = paired::holm(&p).into_iter();
    for task in tasks.iter_mut().filter(|t| t.finding.p(Tail::Both).is_some()) {
        task.adjusted_p = adjusted.next();
    }
}

fn mean_over(tasks: &[TaskComparison]) -> Option<MeanComparison> {
    let compared: Vec<&TaskComparison> = tasks.iter().filter(|t| t.finding.difference().is_some()).collect();
    let count = compared.len();
    let mean = |number: fn(&TaskComparison) -> Option<f64>| Some(compared.iter().filter_map(|t| number(t)).sum::<f64>() / count as f64);
    let replicates: Vec<&[f64]> = compared
        .iter()
        .filter_map(|t| match &t.finding {
            Finding::Paired(paired) => Some(paired.replicates.as_slice()),
            _ => None,
        })
        .collect();
    let interval = (replicates.len() == count && count > 0).then(|| {
        let of_all: Vec<f64> = (0..resample::REPLICATES).map(|r| replicates.iter().map(|of| of[r]).sum::<f64>() / count as f64).collect();
        paired::interval_95(&of_all)
    });
    (count >= 2).then(|| MeanComparison {
        tasks: count,
        base: mean(|t| t.base).unwrap_or_default(),
        cand: mean(|t| t.cand).unwrap_or_default(),
        interval,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run of one task, whose documents are right where `right` says so.
    pub(crate) fn side(run: &str, tasks: &[&str], n: usize, right: impl Fn(usize) -> bool) -> Baseline {
        let task = |name: &&str| {
            let values: Vec<f64> = (0..n).map(|i| f64::from(u8::from(right(i)))).collect();
            BaselineTask {
                task: (*name).to_owned(),
                title: name.to_uppercase(),
                metric: "exact_match".into(),
                value: values.iter().sum::<f64>() / n as f64,
                half_width_95: Some(0.02),
                shots: 4,
                task_sha256: "3fa9c1".repeat(10),
                data_sha256: "77b0e2".repeat(10),
                signature: "p|t|v0".into(),
                documents: (0..n).map(|i| format!("{i:05}")).collect(),
                values,
                ..BaselineTask::default()
            }
        };
        Baseline {
            version: 1,
            run: run.to_owned(),
            protocol: "swallow-202407".into(),
            suite: "ja".into(),
            model: "m".into(),
            demo: false,
            tasks: tasks.iter().map(task).collect(),
        }
    }

    #[test]
    fn runs_that_did_not_do_the_same_are_refused_by_field() {
        type Change = fn(&mut Baseline);
        let cases: [(Change, &str); 8] = [
            (|c| c.protocol = "p2".into(), "protocol: swallow-202407 in the base, p2 in the candidate"),
            (|c| c.demo = true, "purpose: a measurement in the base, a demo in the candidate"),
            (|c| c.tasks[0].shots = 2, "a shots: 4 in the base, 2 in the candidate"),
            (|c| c.tasks[0].data_sha256 = "00".repeat(30), "a data: 77b0e2 in the base, 000000 in the candidate"),
            (|c| c.tasks[0].departures = vec!["top_k=3".into()], "a departures: none in the base, top_k=3 in the candidate"),
            (|c| c.tasks[0].signature = "p|defects:clean|v0".into(), "a defects: none in the base, clean in the candidate"),
            (|c| c.tasks[0].documents[3] = "x".into(), "a documents: as many in both, but not the same ones"),
            (
                |c| {
                    c.tasks[0].documents.truncate(10);
                    c.tasks[0].values.truncate(10);
                },
                "a documents: 40 in the base, 10 in the candidate",
            ),
        ];
        let base = side("one", &["a"], 40, |i| i % 3 == 0);
        for (change, expected) in cases {
            let mut cand = side("two", &["a"], 40, |i| i % 2 == 0);
            change(&mut cand);
            let message = runs(&base, &cand, Incomparable::Refuse).expect_err(expected).to_string();
            assert_eq!(message, format!("these runs did not do the same: {expected}"));
            let forced = runs(&base, &cand, Incomparable::Force).expect("compares what is shared");
            assert_eq!(forced.notes[0], format!("compared by force: {expected}"));
        }
        let other = side("two", &["b"], 40, |_| true);
        let message = runs(&base, &other, Incomparable::Force).expect_err("nothing shared").to_string();
        assert!(message.contains("no task in common") && message.contains("the candidate has: b"), "{message}");
    }

    #[test]
    fn documents_are_paired_by_id_in_any_order() {
        let base = side("one", &["a", "b"], 100, |i| i % 4 != 0);
        let mut cand = side("two", &["a"], 100, |i| i % 4 != 0 && i != 7);
        cand.tasks[0].documents.reverse();
        cand.tasks[0].values.reverse();
        let comparison = runs(&base, &cand, Incomparable::Refuse).expect("comparable");
        assert_eq!(comparison.tasks[0].flips, [Flip { doc_id: "00007".into(), base: 1.0, cand: 0.0 }]);
        assert!((comparison.tasks[0].finding.p(Tail::Both).expect("tested") - 1.0).abs() < 1e-12);
        assert!(matches!(&comparison.tasks[1].finding, Finding::Missing { why } if why.contains("candidate")));
        assert_eq!(comparison.mean, None);
    }

    #[test]
    fn a_published_row_is_compared_unpaired() {
        let row = crate::results::reference::row("ja", "Llama 3.1 Swallow 70B Instruct").expect("published");
        let mut cand = side("two", &["jcom", "own"], 100, |i| i % 4 != 0);
        cand.tasks[0].title = "JCom.".into();
        let comparison = published(&row, &cand);
        assert!((comparison.tasks[0].finding.difference().expect("a column") + 0.2098).abs() < 1e-12);
        assert!(comparison.tasks[0].adjusted_p.expect("tested") < 1e-6);
        assert!(matches!(comparison.tasks[1].finding, Finding::Missing { .. }));
        assert!(comparison.notes[0].starts_with("unpaired"));
    }
}
