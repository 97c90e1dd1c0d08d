//! `scores.json`: a number a task, and whether a suite average may be given.

use super::reference;
use crate::metric::aggregate::exact_mean;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Number of the `scores.json` format.
pub const FORMAT: u32 = 1;

/// The whole of `scores.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Format number, [`FORMAT`].
    pub version: u32,
    /// `swallow-202407`.
    pub protocol: String,
    /// `ja`, `en`, `mt-bench`.
    pub suite: String,
    /// What answered, as the user named it.
    pub model: String,
    /// Whether this is the bundled samples and the toy model, whose numbers mean nothing.
    pub demo: bool,
    /// The tasks of the run, in the suite's order.
    pub tasks: Vec<TaskScore>,
    /// Mean of the suite's columns; `null` when it is withheld.
    pub average: Option<f64>,
    /// Why the average is withheld.
    pub average_withheld: Option<String>,
}

/// The number of one task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskScore {
    /// Task name.
    pub task: String,
    /// Column of the published table.
    pub title: String,
    /// Headline metric.
    pub metric: String,
    /// Upstream's name of how the answer was read, where numbers carry it (lm-eval's filters).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// The number, 0 to 1; `null` when there is none.
    pub value: Option<f64>,
    /// Documents scored, failed ones included.
    pub n: u64,
    /// Documents of the full set, where known; more than `n` means that the number is partial.
    pub documents_in_full: Option<u64>,
    /// Documents whose request failed. They count as wrong.
    pub failed: u64,
    /// Half the width of the 95 % confidence interval of the mean, where there is one.
    pub half_width_95: Option<f64>,
    /// Standard error as the original harness prints it, where it prints one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
    /// The other metrics of the task.
    #[serde(default)]
    pub others: BTreeMap<String, f64>,
    /// Parts of the benchmark.
    #[serde(default)]
    pub groups: Vec<GroupScore>,
    /// See [`signature`](super::signature); empty when there is no number.
    pub signature: String,
    /// What departs from the protocol, in words: `num_fewshot=2`, `dtype bf16->f32`.
    #[serde(default)]
    pub departures: Vec<String>,
    /// What a reader of the number should know.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Why there is no number.
    pub unavailable: Option<String>,
}

impl TaskScore {
    /// A task without a number, and why.
    pub fn unavailable(task: impl Into<String>, title: impl Into<String>, metric: impl Into<String>, why: impl Into<String>) -> Self {
        TaskScore { task: task.into(), title: title.into(), metric: metric.into(), unavailable: Some(why.into()), ..TaskScore::default() }
    }

    /// Whether documents of the full set were left out.
    pub fn is_partial(&self) -> bool {
        self.documents_in_full.is_some_and(|full| self.n < full)
    }
}

/// The number of a part of a benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupScore {
    /// Which part (`stem`, `stem/abstract_algebra`).
    pub path: String,
    /// Metric.
    pub metric: String,
    /// The number; `null` when no document of the part was asked.
    pub value: Option<f64>,
    /// Standard error as the original harness prints it, where it prints one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
    /// Documents scored.
    pub n: u64,
}

impl Scores {
    /// Scores of a run, with the suite average or the reason why it is withheld.
    ///
    /// The average is the plain mean of the columns of the published table (of the tasks themselves where no table of that suite was
    /// published). It is withheld in a demo and when a column has no number, a partial one, or one with failed documents.
    pub fn new(protocol: &str, suite: &str, model: &str, demo: bool, tasks: Vec<TaskScore>) -> Self {
        let (average, average_withheld) = match average(suite, demo, &tasks) {
            Ok(average) => (Some(average), None),
            Err(why) => (None, Some(why)),
        };
        let (protocol, suite, model) = (protocol.to_owned(), suite.to_owned(), model.to_owned());
        Scores { version: FORMAT, protocol, suite, model, demo, tasks, average, average_withheld }
    }

    /// The task whose column has this title.
    pub fn by_title(&self, title: &str) -> Option<&TaskScore> {
        self.tasks.iter().find(|t| t.title == title)
    }
}

/// The mean of the suite's columns, or why there is none.
fn average(suite: &str, demo: bool, tasks: &[TaskScore]) -> Result<f64, String> {
    let published = reference::columns(suite);
    let titles: Vec<&str> = published.map_or_else(|| tasks.iter().map(|t| t.title.as_str()).collect(), |c| c.titles());
    let columns: Vec<(&str, Option<&TaskScore>)> = titles.iter().map(|title| (*title, tasks.iter().find(|t| t.title == *title))).collect();

    let told = |what: &str, applies: &dyn Fn(Option<&TaskScore>) -> bool| {
        let names: Vec<&str> = columns.iter().filter(|(_, task)| applies(*task)).map(|(title, _)| *title).collect();
        (!names.is_empty()).then(|| format!("{what}: {}", names.join(", ")))
    };
    let reasons: Vec<String> = [
        demo.then(|| "a demo measures nothing".to_owned()),
        told("no number", &|task| task.is_none_or(|t| t.value.is_none())),
        told("partial", &|task| task.is_some_and(|t| t.value.is_some() && t.is_partial())),
        told("failed requests", &|task| task.is_some_and(|t| t.failed > 0)),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !reasons.is_empty() {
        return Err(reasons.join("; "));
    }
    exact_mean(columns.iter().filter_map(|(_, task)| task.and_then(|t| t.value))).ok_or_else(|| "no task".to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A complete task.
    pub(crate) fn task(title: &str, value: f64) -> TaskScore {
        TaskScore {
            task: title.to_lowercase(),
            title: title.to_owned(),
            metric: "exact_match".into(),
            value: Some(value),
            n: 100,
            documents_in_full: Some(100),
            signature: format!("swallow-202407|{title}"),
            ..TaskScore::default()
        }
    }

    /// Every column of the Japanese table.
    pub(crate) fn japanese() -> Vec<TaskScore> {
        reference::columns("ja").expect("published").titles().into_iter().map(|title| task(title, 0.5)).collect()
    }

    #[test]
    fn average_or_the_reason() {
        type Change = fn(&mut Vec<TaskScore>);
        let cases: [(bool, Change, Result<f64, &str>); 7] = [
            (false, |_| (), Ok(0.5)),
            (false, |t| t[0].value = Some(1.0), Ok(0.55)),
            (true, |_| (), Err("a demo measures nothing")),
            (false, |t| drop(t.remove(0)), Err("no number: JCom.")),
            (false, |t| t[1] = TaskScore::unavailable("jemhopqa", "JEMHopQA", "char_f1", "no data"), Err("no number: JEMHopQA")),
            (false, |t| t[2].n = 40, Err("partial: NIILC")),
            (
                true,
                |t| {
                    t[0].failed = 2;
                    t[1].n = 1;
                },
                Err("a demo measures nothing; partial: JEMHopQA; failed requests: JCom."),
            ),
        ];
        for (demo, change, expected) in cases {
            let mut tasks = japanese();
            change(&mut tasks);
            let scores = Scores::new("swallow-202407", "ja", "m", demo, tasks);
            assert_eq!(scores.average, expected.ok());
            assert_eq!(scores.average_withheld.as_deref(), expected.err());
        }
    }

    #[test]
    fn a_suite_without_published_table_averages_its_tasks() {
        let scores = Scores::new("p", "own", "m", false, vec![task("A", 0.25), task("B", 0.75)]);
        assert_eq!(scores.average, Some(0.5));
        assert_eq!(Scores::new("p", "own", "m", false, vec![]).average_withheld.as_deref(), Some("no task"));
    }
}
