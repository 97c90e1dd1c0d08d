//! One run, a task a row, in the order of the published table.

use super::table::{Cell, Column, Footnote, Mark, Row, RowKind, Table, by_reason};
use crate::results::{
    reference::{self, ReferenceRow},
    scores::{GroupScore, Scores, TaskScore},
};

/// Why a column of the published table has no number when the run says nothing about it.
pub(super) const NOT_IN_RUN: &str = "not in this run";

impl Table {
    /// The tasks of a run: ours, the published one and the difference (where there is a published row), the 95 % interval, documents, failed
    /// documents, remarks; below them the suite average. Tasks that no published table has come last.
    pub fn of_run(scores: &Scores, published: Option<&ReferenceRow>) -> Table {
        let mut rows: Vec<Row> = lines(scores).into_iter().map(|(title, task)| task_row(title, task, published)).collect();
        rows.push(average_row(scores, published));
        let against = published.map(|row| format!(" against {} (published)", row.model)).unwrap_or_default();
        Table {
            title: format!("{} ({}): {}{against}", scores.suite, scores.protocol, scores.model),
            demo: scores.demo,
            columns: columns(published.is_some()),
            lead: 1,
            rows,
            footnotes: footnotes(scores),
        }
    }
}

/// Titles of the suite's columns with the task of each, where the run has it.
fn lines(scores: &Scores) -> Vec<(&str, Option<&TaskScore>)> {
    let titles = reference::columns(&scores.suite).map(|c| c.titles()).unwrap_or_default();
    let others = scores.tasks.iter().filter(|task| !titles.contains(&task.title.as_str()));
    let others: Vec<(&str, Option<&TaskScore>)> = others.map(|task| (task.title.as_str(), Some(task))).collect();
    titles.iter().map(|title| (*title, scores.by_title(title))).chain(others).collect()
}

fn columns(with_published: bool) -> Vec<Column> {
    let mut columns = vec![Column::text("task", "task"), Column::number("score", "score")];
    if with_published {
        columns.push(Column::number("published", "published"));
        columns.push(Column::number("difference", "difference"));
    }
    columns.push(Column::number("half_width_95", "±95 %"));
    columns.push(Column::number("n", "n"));
    columns.push(Column::number("failed", "failed"));
    columns.push(Column::text("remarks", "remarks"));
    columns
}

fn task_row(title: &str, task: Option<&TaskScore>, published: Option<&ReferenceRow>) -> Row {
    let value = task.and_then(|t| t.value);
    let mut cells = vec![Cell::Text(title.to_owned()), score_cell(task)];
    if let Some(row) = published {
        let known = row.value(title);
        cells.push(known.map_or(Cell::Blank, |v| Cell::score(v, Mark::None)));
        cells.push(value.zip(known).map_or(Cell::Blank, |(ours, published)| Cell::difference(ours, published)));
    }
    match task.filter(|t| t.value.is_some()) {
        Some(task) => cells.extend([
            task.half_width_95.map_or(Cell::Blank, |half| Cell::score(half, Mark::None)),
            Cell::Count(task.n),
            Cell::Count(task.failed),
            Cell::Text(remarks(task).join("; ")),
        ]),
        None => cells.extend([Cell::Blank, Cell::Blank, Cell::Blank, Cell::Blank]),
    }
    Row { kind: RowKind::Ours, cells }
}

/// A task's number, marked when it is not what the protocol asks for, or why there is none.
pub(super) fn score_cell(task: Option<&TaskScore>) -> Cell {
    let Some(task) = task else { return Cell::missing(NOT_IN_RUN) };
    match task.value {
        Some(value) => Cell::score(value, if is_qualified(task) { Mark::Qualified } else { Mark::None }),
        None => Cell::missing(reason(task)),
    }
}

/// Why a task of the run has no number.
fn reason(task: &TaskScore) -> &str {
    task.unavailable.as_deref().unwrap_or("no documents")
}

fn is_qualified(task: &TaskScore) -> bool {
    task.is_partial() || task.failed > 0 || !task.departures.is_empty()
}

/// What qualifies a number, in words; failed documents too, so that a row says it even where no column does.
pub(super) fn remarks(task: &TaskScore) -> Vec<String> {
    let partial = task.documents_in_full.filter(|_| task.is_partial()).map(|full| format!("partial: {} of {full}", task.n));
    let failed = (task.failed > 0).then(|| format!("incomplete: {} failed, counted as wrong", task.failed));
    let departures = (!task.departures.is_empty()).then(|| format!("off-protocol: {}", task.departures.join(", ")));
    [partial, failed, departures].into_iter().flatten().collect()
}

fn average_row(scores: &Scores, published: Option<&ReferenceRow>) -> Row {
    let mut cells = vec![Cell::Text(average_title(scores).to_owned()), average_cell(scores)];
    if let Some(row) = published {
        cells.push(Cell::score(row.average, Mark::None));
        cells.push(scores.average.map_or(Cell::Blank, |ours| Cell::difference(ours, row.average)));
    }
    cells.extend([Cell::Blank, Cell::Blank, Cell::Blank, Cell::Blank]);
    Row { kind: RowKind::Average, cells }
}

/// The heading that the published table gives the average.
pub(super) fn average_title(scores: &Scores) -> &'static str {
    reference::columns(&scores.suite).map_or("Average", |columns| columns.average())
}

/// The average, marked when a task of it departs from the protocol, or why it is withheld.
pub(super) fn average_cell(scores: &Scores) -> Cell {
    let mark = if scores.tasks.iter().any(is_qualified) { Mark::Qualified } else { Mark::None };
    let withheld = || Cell::missing(scores.average_withheld.as_deref().unwrap_or("no reason given"));
    scores.average.map_or_else(withheld, |average| Cell::score(average, mark))
}

fn footnotes(scores: &Scores) -> Vec<Footnote> {
    let lines = lines(scores);
    let without_number = lines.iter().filter_map(|(title, task)| match task {
        None => Some((*title, NOT_IN_RUN)),
        Some(task) => task.value.is_none().then(|| (*title, reason(task))),
    });
    let tasks = || lines.iter().filter_map(|(_, task)| *task);
    let withheld = scores.average_withheld.iter().map(|why| Footnote::Text(format!("{} is withheld: {why}", average_title(scores))));
    let warnings = tasks().flat_map(|task| task.warnings.iter().map(|w| (task.title.as_str(), w.as_str())));
    let groups = tasks().filter_map(groups);
    let signed = tasks().filter(|task| !task.signature.is_empty());
    let signatures = signed.map(|task| Footnote::Signature { of: task.title.clone(), signature: task.signature.clone() });
    withheld.chain(by_reason(without_number)).chain(by_reason(warnings)).chain(groups).chain(signatures).collect()
}

/// The first level of a benchmark's parts in one line.
fn groups(task: &TaskScore) -> Option<Footnote> {
    let shown = |group: &GroupScore| match group.value {
        Some(value) => format!("{} {} (n={})", group.path, Cell::score(value, Mark::None).shown(), group.n),
        None => format!("{} – (n={})", group.path, group.n),
    };
    let parts: Vec<String> = task.groups.iter().filter(|g| !g.path.contains('/') && g.metric == task.metric).map(shown).collect();
    (!parts.is_empty()).then(|| Footnote::Text(format!("{} by group: {}", task.title, parts.join(", "))))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::report::markdown;

    fn task(title: &str, value: f64, n: u64) -> TaskScore {
        TaskScore {
            task: title.to_lowercase(),
            title: title.to_owned(),
            metric: "exact_match".into(),
            value: Some(value),
            n,
            documents_in_full: Some(n),
            half_width_95: Some(0.0123),
            signature: format!("swallow-202407|{}|v0", title.to_lowercase()),
            ..TaskScore::default()
        }
    }

    /// A run with every kind of row: whole, partial, failed, off the protocol, unavailable, absent, and one that the card lacks.
    pub(in crate::report) fn scores(demo: bool) -> Scores {
        let group = |path: &str, value| GroupScore { path: path.into(), metric: "exact_match".into(), value, stderr: None, n: 2 };
        let tasks = vec![
            task("JCom.", 0.95, 1119),
            TaskScore { n: 40, ..task("JEMHopQA", 0.5, 120) },
            TaskScore { failed: 2, warnings: vec!["3 answers beyond the context".into()], ..task("NIILC", 0.25, 198) },
            TaskScore::unavailable("jsquad", "JSQuAD", "char_f1", "train-v1.1.json is missing"),
            TaskScore {
                departures: vec!["num_fewshot=2".into(), "dtype bf16->f32".into()],
                groups: vec![group("stem", Some(0.5)), group("stem/anatomy", Some(0.5)), group("other", None)],
                ..task("JMMLU", 0.75, 3541)
            },
            task("手製", 1.0, 3),
        ];
        Scores::new("swallow-202407", "ja", "org/model", demo, tasks)
    }

    #[test]
    fn every_kind_of_row_against_a_published_one() {
        let published = reference::row("ja", "Llama 3.1 Swallow 70B Instruct").expect("published");
        let expected = r"## ja (swallow-202407): org/model against Llama 3.1 Swallow 70B Instruct (published)

| task        |    score |  published | difference |  ±95 % |    n | failed | remarks                                       |
| ----------- | -------: | ---------: | ---------: | -----: | ---: | -----: | --------------------------------------------- |
| JCom.       |   0.9500 |     0.9598 |    -0.0098 | 0.0123 | 1119 |      0 |                                               |
| JEMHopQA    | 0.5000\* |     0.6192 |    -0.1192 | 0.0123 |   40 |      0 | partial: 40 of 120                            |
| NIILC       | 0.2500\* |     0.6605 |    -0.4105 | 0.0123 |  198 |      2 | incomplete: 2 failed, counted as wrong        |
| JSQuAD      |        – |     0.9235 |            |        |      |        |                                               |
| XL-Sum      |        – |     0.1938 |            |        |      |        |                                               |
| MGSM        |        – |     0.7760 |            |        |      |        |                                               |
| WMT20-en-ja |        – |     0.3123 |            |        |      |        |                                               |
| WMT20-ja-en |        – |     0.2593 |            |        |      |        |                                               |
| JMMLU       | 0.7500\* |     0.7117 |    +0.0383 | 0.0123 | 3541 |      0 | off-protocol: num\_fewshot=2, dtype bf16->f32 |
| JHumanEval  |        – |     0.4713 |            |        |      |        |                                               |
| 手製        |   1.0000 |            |            | 0.0123 |    3 |      0 |                                               |
| **Ja Avg**  |    **–** | **0.5887** |            |        |      |        |                                               |

- \* not the protocol's number: see the remarks
- Ja Avg is withheld: no number: JSQuAD, XL-Sum, MGSM, WMT20-en-ja, WMT20-ja-en, JHumanEval; partial: JEMHopQA; failed requests: NIILC
- JSQuAD: train-v1.1.json is missing
- XL-Sum, MGSM, WMT20-en-ja, WMT20-ja-en, JHumanEval: not in this run
- NIILC: 3 answers beyond the context
- JMMLU by group: stem 0.5000 (n=2), other – (n=2)
- JCom.: `swallow-202407|jcom.|v0`
- JEMHopQA: `swallow-202407|jemhopqa|v0`
- NIILC: `swallow-202407|niilc|v0`
- JMMLU: `swallow-202407|jmmlu|v0`
- 手製: `swallow-202407|手製|v0`
";
        assert_eq!(markdown::render(&Table::of_run(&scores(false), Some(&published))), expected);
    }

    #[test]
    fn a_complete_run_has_an_average_and_its_difference() {
        let titles = reference::columns("ja").expect("published").titles();
        let tasks = titles.into_iter().map(|title| task(title, 0.6, 10)).collect();
        let scores = Scores::new("swallow-202407", "ja", "m", false, tasks);
        let published = reference::row("ja", "Llama 3.1 Swallow 70B Instruct").expect("published");
        let table = Table::of_run(&scores, Some(&published));
        let average = table.rows.last().expect("rows");
        let shown: Vec<String> = average.cells.iter().map(Cell::shown).collect();
        assert_eq!((average.kind, &shown[..4]), (RowKind::Average, &["Ja Avg", "0.6000", "0.5887", "+0.0113"].map(str::to_owned)[..]));
        assert!(!table.has_marks());
    }

    #[test]
    fn an_average_over_departures_is_marked() {
        let mut tasks = vec![task("a", 0.25, 10), task("b", 0.75, 10)];
        tasks[1].departures = vec!["num_fewshot=2".into()];
        let table = Table::of_run(&Scores::new("p", "own", "m", false, tasks), None);
        let shown: Vec<String> = table.rows.iter().map(|row| row.cells[1].shown()).collect();
        assert_eq!(shown, ["0.2500", "0.7500*", "0.5000*"]);
    }

    #[test]
    fn without_a_published_row_its_columns_are_absent_and_a_demo_says_so() {
        let table = Table::of_run(&scores(true), None);
        let keys: Vec<&str> = table.columns.iter().map(|c| c.key.as_str()).collect();
        assert_eq!(keys, ["task", "score", "half_width_95", "n", "failed", "remarks"]);
        assert!(table.rows.iter().all(|row| row.cells.len() == keys.len()));
        assert!(table.demo && table.footnotes[0].to_string().contains("a demo measures nothing"));
    }
}
