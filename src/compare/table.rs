//! A comparison as a [`Table`], and its flips as another.

use super::{ALPHA, Comparison, Finding, TaskComparison, paired::Test};
use crate::report::{
    leaderboard::Columns,
    table::{Cell, Column, Footnote, Mark, Row, RowKind, Table},
};

/// One row a task: both numbers, difference, interval, p, changed documents; the mean over the compared tasks last. For eyes the test and the
/// detectable effect stand in footnotes, so that a row fits a terminal of 80 columns.
pub fn of(comparison: &Comparison, shown: Columns) -> Table {
    let whole = of_all(comparison);
    match shown {
        Columns::All => whole,
        Columns::Filled => for_eyes(comparison, whole),
    }
}

/// Without the last two columns, and with the two of changed documents in one.
fn for_eyes(comparison: &Comparison, mut table: Table) -> Table {
    table.columns.truncate(10);
    table.columns.drain(7..9);
    table.columns.insert(7, Column::number("changed", "changed"));
    for (column, heading) in table.columns.iter_mut().zip(["task", "base", "cand.", "diff.", "from", "to", "p", "changed", "n"]) {
        heading.clone_into(&mut column.heading);
    }
    for row in &mut table.rows {
        row.cells.truncate(10);
        let changed: Vec<Cell> = row.cells.drain(7..9).collect();
        row.cells.insert(
            7,
            match changed.as_slice() {
                [Cell::Count(better), Cell::Count(worse)] => Cell::Text(format!("+{better} -{worse}")),
                _ => Cell::Blank,
            },
        );
    }
    let mut notes = Vec::new();
    for test in [Test::McNemar, Test::Randomisation] {
        let by_it = |task: &&TaskComparison| matches!(&task.finding, Finding::Paired(paired) if paired.test == test);
        let titles: Vec<&str> = comparison.tasks.iter().filter(by_it).map(|task| task.title.as_str()).collect();
        if !titles.is_empty() {
            notes.push(Footnote::Text(format!("{}: {}", test.name(), titles.join(", "))));
        }
    }
    let detectable = comparison.tasks.iter().filter_map(|task| match &task.finding {
        Finding::Paired(paired) => Some(format!("{} {:.4}", task.title, paired.minimum_detectable(ALPHA)?)),
        _ => None,
    });
    let detectable: Vec<String> = detectable.collect();
    if !detectable.is_empty() {
        notes.push(Footnote::Text(format!("detectable: {}", detectable.join(", "))));
    }
    table.footnotes.splice(0..0, notes);
    table
        .footnotes
        .push(Footnote::Text("from, to: 95 % interval of the difference; changed: documents that gained and that lost".to_owned()));
    table
}

fn of_all(comparison: &Comparison) -> Table {
    let mut rows: Vec<Row> = comparison.tasks.iter().map(task_row).collect();
    if let Some(mean) = &comparison.mean {
        let (low, high) = interval(mean.interval);
        let mut cells = vec![Cell::Text(format!("mean of {}", mean.tasks)), score(Some(mean.base)), score(Some(mean.cand))];
        cells.extend([Cell::difference(mean.cand, mean.base), low, high]);
        cells.resize(COLUMNS, Cell::Blank);
        rows.push(Row { kind: RowKind::Average, cells });
    }
    let missing = comparison.tasks.iter().filter_map(|task| match &task.finding {
        Finding::Missing { why } => Some(Footnote::Text(format!("{}: {why}", task.title))),
        _ => None,
    });
    let failed = comparison.tasks.iter().filter(|task| task.failed != (0, 0)).map(|task| {
        let (base, cand) = task.failed;
        Footnote::Text(format!("{}: failed requests count as wrong: {base} in the base, {cand} in the candidate", task.title))
    });
    let legend = format!("p: two-sided, after Holm's correction over the tasks; detectable: with probability 0.8 at level {ALPHA}");
    Table {
        title: format!("{}: {} against {}", comparison.suite, comparison.cand, comparison.base),
        demo: comparison.demo,
        columns: columns(),
        lead: 1,
        rows,
        footnotes: missing
            .chain(failed)
            .chain([Footnote::Text(legend)])
            .chain(comparison.notes.iter().cloned().map(Footnote::Text))
            .collect(),
    }
}

/// The documents whose score changed, largest loss first, at most `most` a task.
pub fn of_flips(comparison: &Comparison, most: usize) -> Table {
    let row = |task: &TaskComparison, flip: &super::Flip| Row {
        kind: RowKind::Ours,
        cells: vec![
            Cell::Text(task.title.clone()),
            Cell::Text(flip.doc_id.clone()),
            score(Some(flip.base)),
            score(Some(flip.cand)),
            Cell::difference(flip.cand, flip.base),
        ],
    };
    let rows = comparison.tasks.iter().flat_map(|task| task.flips.iter().take(most).map(move |flip| row(task, flip))).collect();
    let cut = comparison.tasks.iter().filter(|task| task.flips.len() > most);
    Table {
        title: "documents whose score changed".to_owned(),
        demo: comparison.demo,
        columns: vec![
            Column::text("task", "task"),
            Column::text("doc_id", "document"),
            Column::number("base", "base"),
            Column::number("candidate", "candidate"),
            Column::number("difference", "difference"),
        ],
        lead: 2,
        rows,
        footnotes: cut.map(|task| Footnote::Text(format!("{}: {most} of {} are shown", task.title, task.flips.len()))).collect(),
    }
}

const COLUMNS: usize = 12;

fn columns() -> Vec<Column> {
    vec![
        Column::text("task", "task"),
        Column::number("base", "base"),
        Column::number("candidate", "candidate"),
        Column::number("difference", "difference"),
        Column::number("low_95", "95 % from"),
        Column::number("high_95", "to"),
        Column::number("p_holm", "p"),
        Column::number("better", "better"),
        Column::number("worse", "worse"),
        Column::number("n", "n"),
        Column::number("detectable", "detectable"),
        Column::text("test", "test"),
    ]
}

fn task_row(task: &TaskComparison) -> Row {
    let difference = task.difference().map_or(Cell::Blank, |difference| Cell::difference(difference, 0.0));
    let mut cells = vec![Cell::Text(task.title.clone()), score(task.base), score(task.cand), difference];
    match &task.finding {
        Finding::Paired(paired) => {
            let (low, high) = interval(Some(paired.interval));
            cells.extend([
                low,
                high,
                score(task.adjusted_p),
                Cell::Count(paired.changed.0 as u64),
                Cell::Count(paired.changed.1 as u64),
                Cell::Count(paired.n as u64),
                score(paired.minimum_detectable(ALPHA)),
                Cell::Text(paired.test.name().to_owned()),
            ]);
        }
        Finding::Unpaired { difference, standard_error } => {
            let half = standard_error.map(|error| error * super::paired::quantile(0.975));
            let (low, high) = interval(half.map(|half| (difference - half, difference + half)));
            cells.extend([low, high, score(task.adjusted_p), Cell::Blank, Cell::Blank, Cell::Blank, Cell::Blank]);
            cells.push(Cell::Text("unpaired, normal".to_owned()));
        }
        Finding::Missing { .. } => cells.resize(COLUMNS, Cell::Blank),
    }
    Row { kind: RowKind::Ours, cells }
}

fn score(value: Option<f64>) -> Cell {
    value.map_or(Cell::Blank, |value| Cell::score(value, Mark::None))
}

fn interval(ends: Option<(f64, f64)>) -> (Cell, Cell) {
    ends.map_or((Cell::Blank, Cell::Blank), |(low, high)| (Cell::difference(low, 0.0), Cell::difference(high, 0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Incomparable, runs, tests::side};
    use crate::report::{
        csv,
        terminal::{self, Colour, Look},
    };

    #[test]
    fn a_row_a_task_and_the_flips() {
        let base = side("one", &["a", "b"], 200, |i| i % 4 != 0);
        let cand = side("two", &["a", "b"], 200, |i| i % 4 != 0 && i % 10 != 1);
        let comparison = runs(&base, &cand, Incomparable::Refuse).expect("comparable");
        let table = of(&comparison, Columns::All);
        assert!(table.rows.iter().all(|row| row.cells.len() == COLUMNS) && table.columns.len() == COLUMNS);
        let text = csv::render(&table);
        let row = text.lines().nth(1).expect("a row");
        assert!(row.starts_with("A,0.7500,0.6500,-0.1000,-0.1") && row.contains(",0,20,200,"), "{text}");
        assert!(text.lines().nth(3).expect("the mean").starts_with("mean of 2,0.7500,0.6500,-0.1000,"), "{text}");
        let eyes = of(&comparison, Columns::Filled);
        assert!(eyes.rows.iter().all(|row| row.cells.len() == eyes.columns.len()));
        let look = Look { width: Some(80), colour: Colour::Plain };
        let text = terminal::render(&eyes, look);
        assert!(text.contains(" -0.1000 ") && text.contains(" +0 -20 ") && text.contains("McNemar, exact: A, B"), "{text}");
        let flips = of_flips(&comparison, 3);
        assert_eq!(flips.rows.len(), 6);
        assert_eq!(flips.footnotes[0].to_string(), "A: 3 of 20 are shown");
    }
}
