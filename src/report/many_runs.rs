//! Many runs of one suite, a run a row, with the columns of the published table and its rows below.

use super::{
    one_run::{average_cell, average_title, remarks, score_cell},
    table::{Cell, Column, Footnote, Mark, Row, RowKind, Table, by_reason},
};
use crate::results::{
    reference::{self, ReferenceRow},
    scores::{Scores, TaskScore},
};

/// A run and the name it goes by in a table.
#[derive(Clone, Debug)]
pub struct NamedScores {
    /// Id of the run.
    pub run: String,
    /// Its scores.
    pub scores: Scores,
}

impl Table {
    /// The columns of the first run's suite, a row for each run, then the published rows. A run of another suite has no numbers in these
    /// columns; ask for one suite at a time.
    pub fn of_runs(runs: &[NamedScores], published: &[ReferenceRow]) -> Table {
        let Some(first) = runs.first().map(|run| &run.scores) else {
            return Table {
                title: "no runs".to_owned(),
                demo: false,
                columns: Vec::new(),
                lead: 0,
                rows: Vec::new(),
                footnotes: Vec::new(),
            };
        };
        let titles = titles(runs);
        let ours = runs.iter().map(|run| our_row(run, &titles));
        let theirs = published.iter().map(|row| published_row(row, &titles));
        Table {
            title: format!("{} ({})", first.suite, first.protocol),
            demo: runs.iter().any(|run| run.scores.demo),
            columns: columns(&titles, average_title(first)),
            lead: 2,
            rows: ours.chain(theirs).collect(),
            footnotes: footnotes(runs, &titles),
        }
    }
}

/// Columns of the published table, then tasks that it does not have.
fn titles(runs: &[NamedScores]) -> Vec<String> {
    let suite = runs.first().map_or("", |run| run.scores.suite.as_str());
    let mut titles: Vec<String> = reference::columns(suite).into_iter().flat_map(|c| c.titles()).map(str::to_owned).collect();
    for task in runs.iter().flat_map(|run| &run.scores.tasks) {
        if !titles.contains(&task.title) {
            titles.push(task.title.clone());
        }
    }
    titles
}

fn columns(titles: &[String], average: &str) -> Vec<Column> {
    let mut columns = vec![Column::text("run", "run"), Column::text("model", "model")];
    columns.extend(titles.iter().map(|title| Column::number(title, title)));
    columns.push(Column::number(average, average));
    columns.push(Column::text("remarks", "remarks"));
    columns
}

fn our_row(NamedScores { run, scores }: &NamedScores, titles: &[String]) -> Row {
    let mut cells = vec![Cell::Text(run.clone()), Cell::Text(scores.model.clone())];
    cells.extend(titles.iter().map(|title| score_cell(scores.by_title(title))));
    cells.push(average_cell(scores));
    let demo = scores.demo.then(|| "DEMO".to_owned());
    let of_task = |task: &TaskScore| remarks(task).into_iter().map(|remark| format!("{} {remark}", task.title)).collect::<Vec<_>>();
    let remarks = scores.tasks.iter().filter(|task| task.value.is_some()).flat_map(of_task);
    cells.push(Cell::Text(demo.into_iter().chain(remarks).collect::<Vec<_>>().join("; ")));
    Row { kind: RowKind::Ours, cells }
}

fn published_row(row: &ReferenceRow, titles: &[String]) -> Row {
    let mut cells = vec![Cell::Text("published".to_owned()), Cell::Text(row.model.to_owned())];
    cells.extend(titles.iter().map(|title| row.value(title).map_or(Cell::Blank, |v| Cell::score(v, Mark::None))));
    cells.push(Cell::score(row.average, Mark::None));
    cells.push(Cell::Blank);
    Row { kind: RowKind::Published, cells }
}

/// Why cells are empty, and the signatures, each with its run.
fn footnotes(runs: &[NamedScores], titles: &[String]) -> Vec<Footnote> {
    let mut notes = Vec::new();
    for NamedScores { run, scores } in runs {
        let missing: Vec<(&str, String)> = titles
            .iter()
            .filter_map(|title| match score_cell(scores.by_title(title)) {
                Cell::Missing { why } => Some((title.as_str(), format!("{why} ({run})"))),
                _ => None,
            })
            .collect();
        notes.extend(by_reason(missing.iter().map(|(title, why)| (*title, why.as_str()))));
        notes.extend(
            scores.average_withheld.iter().map(|why| Footnote::Text(format!("{} is withheld ({run}): {why}", average_title(scores)))),
        );
        let signed = scores.tasks.iter().filter(|task| !task.signature.is_empty());
        notes.extend(signed.map(|task| Footnote::Signature { of: format!("{} ({run})", task.title), signature: task.signature.clone() }));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{csv, one_run::tests::scores};

    fn runs() -> Vec<NamedScores> {
        vec![NamedScores { run: "one".into(), scores: scores(false) }, NamedScores { run: "two".into(), scores: scores(true) }]
    }

    #[test]
    fn runs_and_published_rows_share_the_columns() {
        let published = [reference::row("ja", "Qwen2-72B-Instruct").expect("published")];
        let table = Table::of_runs(&runs(), &published);
        let remarks =
            "JEMHopQA partial: 40 of 120; NIILC incomplete: 2 failed, counted as wrong; JMMLU off-protocol: num_fewshot=2, dtype bf16->f32";
        let expected = format!(
            "run,model,JCom.,JEMHopQA,NIILC,JSQuAD,XL-Sum,MGSM,WMT20-en-ja,WMT20-ja-en,JMMLU,JHumanEval,手製,Ja Avg,remarks,demo\n\
             one,org/model,0.9500,0.5000,0.2500,,,,,,0.7500,,1.0000,,\"{remarks}\",demo\n\
             two,org/model,0.9500,0.5000,0.2500,,,,,,0.7500,,1.0000,,\"DEMO; {remarks}\",demo\n\
             published,Qwen2-72B-Instruct,0.9634,0.6268,0.5418,0.9210,0.1644,0.7840,0.2592,0.2327,0.7713,0.6909,,0.5955,,demo\n"
        );
        assert_eq!(csv::render(&table), expected);
    }

    #[test]
    fn footnotes_name_the_run() {
        let table = Table::of_runs(&runs(), &[]);
        let notes: Vec<String> = table.footnotes.iter().map(ToString::to_string).collect();
        assert_eq!(notes[0], "JSQuAD: train-v1.1.json is missing (one)");
        assert!(notes.contains(&"JMMLU (two): swallow-202407|jmmlu|v0".to_owned()), "{notes:#?}");
        assert_eq!(notes.iter().filter(|note| note.starts_with("Ja Avg is withheld (")).count(), 2);
    }

    #[test]
    fn nothing_in_nothing_out() {
        assert_eq!(Table::of_runs(&[], &[]).rows, []);
    }
}
