//! The gate: a comparison and a policy give GO, NO-GO or INCONCLUSIVE, with a reason for every task.
//!
//! A task is NO-GO when its loss is larger than `max_drop` *and* the one-sided test says at level `alpha`, after Holm's correction over all
//! tested tasks, that there is a loss: so two equal models fail the gate with probability `alpha` at most, however many tasks there are. A
//! loss beyond `max_drop` that may be noise is INCONCLUSIVE, never a pass.

use super::{
    Comparison, Finding, Flip, TaskComparison, paired,
    policy::{Policy, Rule},
    resample::Tail,
};
use crate::report::{
    junit::{Case, Outcome},
    table::{Cell, Column, Footnote, Mark, Row, RowKind, Table},
};
use std::fmt;

/// What the gate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decision {
    /// No loss beyond what the policy tolerates.
    Go,
    /// The data do not decide.
    Inconclusive,
    /// A loss beyond what the policy tolerates, and not by chance.
    NoGo,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Decision::Go => "GO",
            Decision::Inconclusive => "INCONCLUSIVE",
            Decision::NoGo => "NO-GO",
        })
    }
}

/// The gate's answer.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Over all tasks: the worst of theirs.
    pub decision: Decision,
    /// One a task.
    pub tasks: Vec<TaskVerdict>,
    /// Name of the base.
    pub base: String,
    /// Name of the candidate.
    pub cand: String,
    /// Whether the numbers mean nothing.
    pub demo: bool,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// The gate's answer for one task.
#[derive(Clone, Debug)]
pub struct TaskVerdict {
    /// Task name.
    pub task: String,
    /// Column of the published table.
    pub title: String,
    /// `None` where the task is not gated.
    pub decision: Option<Decision>,
    /// Why, in a sentence with the numbers.
    pub reason: String,
    /// Numbers of base and candidate.
    pub numbers: (Option<f64>, Option<f64>),
    /// Candidate less base.
    pub difference: Option<f64>,
    /// One-sided p after Holm's correction.
    pub p: Option<f64>,
    /// The rules in force.
    pub rule: Rule,
    /// Documents that lost, largest loss first.
    pub lost: Vec<Flip>,
}

/// Documents that a message names.
const NAMED: usize = 10;

/// Judges a comparison.
pub fn judge(comparison: &Comparison, policy: &Policy) -> Verdict {
    let p: Vec<f64> = comparison.tasks.iter().filter_map(|t| t.finding.p(Tail::Lower)).collect();
    let mut adjusted = paired::holm(&p).into_iter();
    let mut tasks: Vec<TaskVerdict> = comparison
        .tasks
        .iter()
        .map(|task| {
            let p = task.finding.p(Tail::Lower).and_then(|_| adjusted.next());
            judge_task(task, policy.rule(&task.task), p)
        })
        .collect();
    // A required task that neither run has must not go unseen.
    let known = |name: &str| comparison.tasks.iter().any(|t| t.task == name);
    tasks.extend(policy.task.keys().filter(|name| !known(name)).map(|name| absent(name, policy.rule(name))));
    let worst = tasks.iter().filter_map(|t| t.decision).max();
    Verdict {
        // Nothing gated is nothing known.
        decision: worst.unwrap_or(Decision::Inconclusive),
        tasks,
        base: comparison.base.clone(),
        cand: comparison.cand.clone(),
        demo: comparison.demo,
        notes: comparison.notes.clone(),
    }
}

fn judge_task(task: &TaskComparison, rule: Rule, p: Option<f64>) -> TaskVerdict {
    let difference = task.difference();
    let (decision, reason) = decide(task, rule, difference, p);
    let lost = task.flips.iter().filter(|flip| flip.cand < flip.base).cloned().collect();
    let numbers = (task.base, task.cand);
    TaskVerdict { task: task.task.clone(), title: task.title.clone(), decision, reason, numbers, difference, p, rule, lost }
}

fn absent(name: &str, rule: Rule) -> TaskVerdict {
    TaskVerdict {
        task: name.to_owned(),
        title: name.to_owned(),
        decision: Some(Decision::NoGo),
        reason: "required, and neither run has it".to_owned(),
        numbers: (None, None),
        difference: None,
        p: None,
        rule,
        lost: Vec::new(),
    }
}

/// The rules in their order: absence, failures, size, then the loss itself.
fn decide(task: &TaskComparison, rule: Rule, difference: Option<f64>, p: Option<f64>) -> (Option<Decision>, String) {
    if let Finding::Missing { why } = &task.finding {
        return match (rule.required, task.cand) {
            (true, None) => (Some(Decision::NoGo), format!("required, and {why}")),
            (true, Some(_)) => (Some(Decision::Inconclusive), format!("required, and {why}")),
            (false, _) => (None, format!("not gated: {why}")),
        };
    }
    let Some(difference) = difference else { return (None, "not gated: no difference".to_owned()) };
    let Rule { max_drop, alpha, min_n, .. } = rule;
    let told = format!("difference {difference:+.4}, tolerated {:+.4}", -max_drop);
    let failed = task.failed.0 + task.failed.1;
    if failed > 0 {
        return (Some(Decision::Inconclusive), format!("{failed} requests failed and count as wrong; {told}"));
    }
    let n = match &task.finding {
        Finding::Paired(paired) => paired.n,
        _ => task.documents.1,
    };
    if (n as u64) < min_n {
        return (Some(Decision::Inconclusive), format!("{n} documents, fewer than min_n {min_n}; {told}"));
    }
    // The last bits of a mean must not decide: 0.75 - 0.74 is a little more than 0.01.
    if -difference <= max_drop + 1e-9 {
        return (Some(Decision::Go), told);
    }
    match p {
        Some(p) if p <= alpha => (Some(Decision::NoGo), format!("{told}; p {p:.2e}, level {alpha}")),
        Some(p) => (Some(Decision::Inconclusive), format!("{told}, but this may be chance: p {p:.3}, level {alpha}")),
        None => (Some(Decision::Inconclusive), format!("{told}, but nothing says how uncertain it is")),
    }
}

impl TaskVerdict {
    /// Documents that lost, for a message: at most ten, and how many more.
    pub fn lost_documents(&self) -> String {
        let names: Vec<&str> = self.lost.iter().take(NAMED).map(|flip| flip.doc_id.as_str()).collect();
        match self.lost.len() {
            0 => "no document lost".to_owned(),
            n if n > NAMED => format!("documents that lost: {} and {} more", names.join(", "), n - NAMED),
            _ => format!("documents that lost: {}", names.join(", ")),
        }
    }
}

impl Verdict {
    /// The verdict and a row a task; below it, for each task that is not GO, the reason and the documents that lost.
    pub fn table(&self) -> Table {
        let number = |value: Option<f64>| value.map_or(Cell::Blank, |value| Cell::score(value, Mark::None));
        let row = |task: &TaskVerdict| Row {
            kind: RowKind::Ours,
            cells: vec![
                Cell::Text(task.title.clone()),
                Cell::Text(task.decision.map_or("–".to_owned(), |d| d.to_string())),
                number(task.numbers.0),
                number(task.numbers.1),
                task.difference.map_or(Cell::Blank, |d| Cell::difference(d, 0.0)),
                number(Some(task.rule.max_drop)),
                number(task.p),
            ],
        };
        let told = self.tasks.iter().filter(|task| task.decision != Some(Decision::Go)).map(|task| {
            let lost = if task.lost.is_empty() { String::new() } else { format!("; {}", task.lost_documents()) };
            Footnote::Text(format!("{}: {}{lost}", task.title, task.reason))
        });
        Table {
            title: format!("{}: {} against {}", self.decision, self.cand, self.base),
            demo: self.demo,
            columns: vec![
                Column::text("task", "task"),
                Column::text("verdict", "verdict"),
                Column::number("base", "base"),
                Column::number("candidate", "cand."),
                Column::number("difference", "diff."),
                Column::number("max_drop", "tolerated"),
                Column::number("p_holm", "p"),
            ],
            lead: 1,
            rows: self.tasks.iter().map(row).collect(),
            footnotes: told.chain(self.notes.iter().cloned().map(Footnote::Text)).collect(),
        }
    }

    /// A test case a task: NO-GO is a failure, INCONCLUSIVE an error, a task that is not gated skipped.
    pub fn cases(&self) -> Vec<Case> {
        let case = |task: &TaskVerdict| {
            let (message, text) = (task.reason.clone(), task.lost_documents());
            let outcome = match task.decision {
                Some(Decision::Go) => Outcome::Passed,
                Some(Decision::NoGo) => Outcome::Failed { message, text },
                Some(Decision::Inconclusive) => Outcome::Error { message, text },
                None => Outcome::Skipped { message },
            };
            Case { class: "swallow-eval.gate".to_owned(), name: task.task.clone(), outcome }
        };
        self.tasks.iter().map(case).collect()
    }

    /// GitHub's workflow commands: an error for each NO-GO, a warning for each INCONCLUSIVE task, a notice for a pass.
    pub fn annotations(&self) -> String {
        let escape = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
        let property = |text: &str| escape(text).replace(':', "%3A").replace(',', "%2C");
        let mut lines = String::new();
        for task in &self.tasks {
            let kind = match task.decision {
                Some(Decision::NoGo) => "error",
                Some(Decision::Inconclusive) => "warning",
                _ => continue,
            };
            let told = format!("{}; {}", task.reason, task.lost_documents());
            lines += &format!("::{kind} title={}::{}\n", property(&format!("swallow-eval gate: {}", task.title)), escape(&told));
        }
        if self.decision == Decision::Go {
            lines += &format!("::notice title=swallow-eval gate::{}\n", escape(&format!("GO: {} against {}", self.cand, self.base)));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Incomparable, runs, tests::side};

    fn verdict(policy: &str, right: impl Fn(usize) -> bool, change: impl FnOnce(&mut crate::results::baseline::Baseline)) -> Verdict {
        let base = side("one", &["a", "b"], 1000, |i| !i.is_multiple_of(4));
        let mut cand = side("two", &["a", "b"], 1000, right);
        cand.tasks[1].values.clone_from(&base.tasks[1].values);
        cand.tasks[1].value = base.tasks[1].value;
        change(&mut cand);
        judge(&runs(&base, &cand, Incomparable::Refuse).expect("comparable"), &Policy::parse(policy).expect("valid"))
    }

    #[test]
    fn decisions_with_their_reasons() {
        let same = |i: usize| !i.is_multiple_of(4);
        let three_points = |i: usize| !i.is_multiple_of(4) && i % 33 != 1;
        let one_document = |i: usize| !i.is_multiple_of(4) && i != 1;
        let strict = "[default]\nmax_drop = 0.01\n";
        type Change = fn(&mut crate::results::baseline::Baseline);
        let nothing: Change = |_| ();
        type Right = fn(usize) -> bool;
        let cases: [(&str, Right, Change, Decision, &str); 9] = [
            (strict, same, nothing, Decision::Go, "difference +0.0000, tolerated -0.0100"),
            (strict, three_points, nothing, Decision::NoGo, "tolerated -0.0100; p "),
            ("[default]\nmax_drop = 0.05\n", three_points, nothing, Decision::Go, "tolerated -0.0500"),
            ("", one_document, nothing, Decision::Inconclusive, "may be chance: p 1.000"),
            ("[default]\nmin_n = 2000\n", same, nothing, Decision::Inconclusive, "1000 documents, fewer than min_n 2000"),
            (strict, three_points, |c| c.tasks[0].failed = 3, Decision::Inconclusive, "3 requests failed"),
            ("[task.a]\nrequired = true\n", same, |c| drop(c.tasks.remove(0)), Decision::NoGo, "required, and the candidate has no number"),
            (strict, same, |c| drop(c.tasks.remove(0)), Decision::Go, "not gated: the candidate has no number"),
            ("[task.x]\nrequired = true\n", same, nothing, Decision::NoGo, "neither run has it"),
        ];
        for (policy, right, change, decision, reason) in cases {
            let verdict = verdict(policy, right, change);
            assert_eq!(verdict.decision, decision, "{policy} {reason}");
            assert!(verdict.tasks.iter().any(|t| t.reason.contains(reason)), "{reason}: {:#?}", verdict.tasks);
        }
    }

    #[test]
    fn a_loss_names_its_documents_everywhere() {
        let verdict = verdict("[default]\nmax_drop = 0.01\n", |i| !i.is_multiple_of(4) && i % 33 != 1, |_| ());
        let named = "documents that lost: 00001, 00034, 00067,";
        assert!(verdict.tasks[0].lost_documents().starts_with(named), "{}", verdict.tasks[0].lost_documents());
        assert!(crate::report::markdown::render(&verdict.table()).contains(named));
        let annotations = verdict.annotations();
        assert!(annotations.starts_with("::error title=swallow-eval gate%3A A::difference ") && annotations.lines().count() == 1);
        assert!(matches!(&verdict.cases()[0].outcome, Outcome::Failed { text, .. } if text.starts_with(named)));
        assert_eq!(verdict.cases()[1].outcome, Outcome::Passed);
    }
}
