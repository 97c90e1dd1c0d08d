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
    let withheld = scores.average_withheld.iter().map(|why| Footnote::Text(format!("{} is withheld. {why}", average_title(scores))));
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
