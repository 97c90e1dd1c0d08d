//! The published tables in the card's layout, a model a row and a task a column, with a verdict on every cell of ours; and the charts below.

use super::{Subject, charts};
use crate::report::{
    one_run::{average_cell, average_title, score_cell},
    table::{Cell, Mark, Number},
};
use crate::results::{
    reference::{self, ReferenceRow},
    scores::TaskScore,
};
use serde::Serialize;

/// How a number of ours stands to the published one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// Equal in all four decimals.
    Same,
    /// Different by no more than half the width of our 95 % interval.
    Within,
    /// Above by more than that.
    Above,
    /// Below by more than that.
    Below,
    /// Different, and no interval says how much that is.
    Different,
}

/// One suite: its table and its charts.
#[derive(Debug, Serialize)]
pub(super) struct Suite {
    suite: String,
    protocol: String,
    headings: Vec<Heading>,
    average: String,
    rows: Vec<Row>,
    /// Whether some number is marked, and some verdict given; both must then be explained.
    marked: bool,
    judged: bool,
    charts: charts::Charts,
}

#[derive(Debug, Serialize)]
struct Heading {
    title: String,
    /// Task whose documents the heading leads to, where the runs have any.
    task: Option<String>,
    /// Shots and metric.
    how: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Row {
    /// `ours`, `beside` (the row that ours are held against) or `published`.
    kind: &'static str,
    model: String,
    run: Option<String>,
    cells: Vec<View>,
}

/// A cell as the template shows it.
#[derive(Debug, Serialize)]
struct View {
    shown: String,
    /// For sorting; missing values go last.
    value: Option<f64>,
    difference: Option<String>,
    verdict: Option<Verdict>,
    /// Everything in words.
    says: String,
}

impl Suite {
    /// The table of `suite` over those of `runs` that are of it.
    pub(super) fn of(suite: &str, runs: &[Subject]) -> Suite {
        let runs: Vec<&Subject> = runs.iter().filter(|run| run.scores.suite == suite).collect();
        let titles = titles(suite, &runs);
        let published = reference::rows(suite).unwrap_or_default();
        let beside = |row: &ReferenceRow| runs.iter().any(|run| run.published.as_ref() == Some(row));
        let ours = runs.iter().map(|run| our_row(run, &titles));
        let (held_against, others): (Vec<_>, Vec<_>) = published.iter().partition(|row| beside(row));
        let theirs = held_against.iter().map(|row| published_row(row, "beside", &titles));
        let rows: Vec<Row> = ours.chain(theirs).chain(others.into_iter().map(|row| published_row(row, "published", &titles))).collect();
        let cells = || rows.iter().flat_map(|row| &row.cells);
        Suite {
            suite: suite.to_owned(),
            protocol: runs.first().map(|run| run.scores.protocol.clone()).unwrap_or_default(),
            headings: titles.iter().map(|title| heading(title, &runs)).collect(),
            average: runs.first().map_or("Average", |run| average_title(&run.scores)).to_owned(),
            marked: cells().any(|cell| cell.shown.ends_with('*')),
            judged: cells().any(|cell| cell.verdict.is_some()),
            charts: charts::Charts::of(&titles, &runs, &held_against),
            rows,
        }
    }
}

/// Columns of the published table, then tasks that it does not have.
fn titles(suite: &str, runs: &[&Subject]) -> Vec<String> {
    let mut titles: Vec<String> = reference::columns(suite).into_iter().flat_map(|c| c.titles()).map(str::to_owned).collect();
    for task in runs.iter().flat_map(|run| &run.scores.tasks) {
        if !titles.contains(&task.title) {
            titles.push(task.title.clone());
        }
    }
    titles
}

fn heading(title: &str, runs: &[&Subject]) -> Heading {
    let scored = runs.iter().find_map(|run| Some((run, run.scores.by_title(title).filter(|task| task.value.is_some())?)));
    let Some((run, task)) = scored else { return Heading { title: title.to_owned(), task: None, how: Vec::new() } };
    let shots = run.spec.tasks.iter().find(|spec| spec.task == task.task).map(|spec| format!("{}-shot", spec.shots));
    let how = shots.into_iter().chain([task.metric.replace('_', " ")]).collect();
    Heading { title: title.to_owned(), task: Some(task.task.clone()), how }
}

fn our_row(run: &Subject, titles: &[String]) -> Row {
    let mut cells: Vec<View> = titles.iter().map(|title| our_cell(title, run)).collect();
    let average = average_cell(&run.scores);
    let published = run.published.as_ref().map(|row| row.average);
    cells.push(view(&average, published, if is_whole(&average) { Interval::Unknown } else { Interval::NotComparable }, Vec::new()));
    Row { kind: "ours", model: run.scores.model.clone(), run: Some(run.run.clone()), cells }
}

fn our_cell(title: &str, run: &Subject) -> View {
    let task = run.scores.by_title(title);
    let cell = score_cell(task);
    let published = run.published.as_ref().and_then(|row| row.value(title));
    let interval = match task.and_then(|task| task.half_width_95) {
        _ if run.scores.demo || !is_whole(&cell) => Interval::NotComparable,
        Some(half) => Interval::HalfWidth(half),
        None => Interval::Unknown,
    };
    view(
        &cell,
        published,
        interval,
        task.map(|task| words(task, &run.spec.tasks.iter().map(|t| (t.task.as_str(), t.shots)).collect::<Vec<_>>())).unwrap_or_default(),
    )
}

/// What a reader who points at the number is told besides the verdict.
fn words(task: &TaskScore, shots: &[(&str, u32)]) -> Vec<String> {
    if task.value.is_none() {
        return Vec::new();
    }
    let shots = shots.iter().find(|(name, _)| *name == task.task).map(|(_, shots)| format!("{shots} shots"));
    let half = task.half_width_95.map(|half| format!("± {half:.4} (95 %)"));
    let n = Some(format!("{} documents", task.n));
    [Some(task.metric.clone()), shots, n, half].into_iter().flatten().chain(crate::report::one_run::remarks(task)).collect()
}

/// What is known of the uncertainty of a number.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Interval {
    HalfWidth(f64),
    Unknown,
    /// A demo, a part of the documents, another protocol: no verdict.
    NotComparable,
}

/// Whether a cell is a number without a mark.
fn is_whole(cell: &Cell) -> bool {
    matches!(cell, Cell::Number(Number { mark: Mark::None, .. }))
}

fn judge(ours: f64, published: f64, interval: Interval) -> Option<Verdict> {
    let difference = ours - published;
    Some(match interval {
        Interval::NotComparable => return None,
        _ if format!("{ours:.4}") == format!("{published:.4}") => Verdict::Same,
        Interval::Unknown => Verdict::Different,
        Interval::HalfWidth(half) if difference.abs() <= half => Verdict::Within,
        Interval::HalfWidth(_) if difference > 0.0 => Verdict::Above,
        Interval::HalfWidth(_) => Verdict::Below,
    })
}

fn view(cell: &Cell, published: Option<f64>, interval: Interval, mut says: Vec<String>) -> View {
    let value = match cell {
        Cell::Number(number) => Some(number.value),
        _ => None,
    };
    if let Cell::Missing { why } = cell {
        says.push(why.clone());
    }
    let pair = value.zip(published);
    says.extend(pair.map(|(_, published)| format!("published {published:.4}")));
    View {
        shown: cell.shown(),
        value,
        difference: pair.map(|(ours, published)| Cell::difference(ours, published).shown()),
        verdict: pair.and_then(|(ours, published)| judge(ours, published, interval)),
        says: says.join(" · "),
    }
}

fn published_row(row: &ReferenceRow, kind: &'static str, titles: &[String]) -> Row {
    let values = titles.iter().map(|title| row.value(title)).chain([Some(row.average)]);
    let cell = |value: Option<f64>| value.map_or(Cell::Blank, |value| Cell::score(value, Mark::None));
    let cells = values.map(|value| view(&cell(value), None, Interval::NotComparable, Vec::new())).collect();
    Row { kind, model: row.model.to_owned(), run: None, cells }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let half = Interval::HalfWidth(0.01);
        for (ours, published, interval, expected) in [
            (0.61920001, 0.6192, half, Some(Verdict::Same)),
            (0.6292, 0.6192, Interval::HalfWidth(0.02), Some(Verdict::Within)),
            (0.6092, 0.6192, Interval::HalfWidth(0.02), Some(Verdict::Within)),
            (0.7, 0.6, half, Some(Verdict::Above)),
            (0.5, 0.6, half, Some(Verdict::Below)),
            (0.5, 0.6, Interval::Unknown, Some(Verdict::Different)),
            (0.6, 0.6, Interval::Unknown, Some(Verdict::Same)),
            (0.6, 0.6, Interval::NotComparable, None),
        ] {
            assert_eq!(judge(ours, published, interval), expected, "{ours} {published}");
        }
    }
}
