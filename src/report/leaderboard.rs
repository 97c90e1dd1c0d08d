//! Many runs as a leaderboard table.

use super::table::{Cell, Column, Footnote, Mark, Row, RowKind, Table};
use crate::results::frame::{Frame, HeadingKind, Origin, RowsBy};

/// Which columns a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// All thirty, each with its interval or deviation, and signatures: for programs.
    All,
    /// Those in which a row of ours has a number, and what the rows are ranked by; intervals of averages alone: for eyes.
    Filled,
}

/// The frame as a table, by rank.
pub fn of(frame: &Frame, columns: Columns) -> Table {
    let spread = match frame.by {
        RowsBy::Run => "±95 %",
        RowsBy::Model => "sd",
    };
    let measured = |at: usize| frame.rows.iter().any(|row| row.origin != Origin::Published && row.entries[at].is_some());
    let ranks = |at: usize| frame.headings[at].title == frame.ranked_by && frame.rows.iter().any(|row| row.entries[at].is_some());
    let shown: Vec<usize> = (0..frame.headings.len()).filter(|at| columns == Columns::All || measured(*at) || ranks(*at)).collect();
    let with_spread = |at: usize| columns == Columns::All || (frame.headings[at].kind == HeadingKind::Average && measured(at));
    let mut heads = vec![Column::number("rank", "rank"), Column::text("model", "model"), Column::text("run", "run")];
    heads.push(Column::text("origin", "origin"));
    for at in &shown {
        let title = frame.headings[*at].title;
        heads.push(Column::number(title, title));
        if with_spread(*at) {
            heads.push(Column::number(&format!("{title} {spread}"), spread));
        }
    }
    if columns == Columns::All {
        heads.push(Column::text("signatures", "signatures"));
    }
    // A published row with nothing in the shown columns tells eyes nothing.
    let tells = |row: &&crate::results::frame::Standing| {
        columns == Columns::All || row.origin != Origin::Published || shown.iter().any(|at| row.entries[*at].is_some())
    };
    let row = |row: &crate::results::frame::Standing| {
        let rank = row.rank.map_or(Cell::Blank, Cell::Count);
        let mut cells = vec![rank, Cell::Text(row.model.clone()), Cell::Text(row.run()), Cell::Text(row.origin.name().to_owned())];
        for at in &shown {
            let entry = row.entries[*at];
            let mark = |qualified| if qualified { Mark::Qualified } else { Mark::None };
            cells.push(entry.map_or(Cell::Blank, |e| Cell::score(e.value, mark(e.qualified))));
            if with_spread(*at) {
                let beside = entry.and_then(|e| match frame.by {
                    RowsBy::Run => e.half_width_95,
                    RowsBy::Model => e.deviation,
                });
                cells.push(beside.map_or(Cell::Blank, |value| Cell::score(value, Mark::None)));
            }
        }
        if columns == Columns::All {
            cells.push(Cell::Text(row.signatures.join(" ")));
        }
        Row { kind: if row.origin == Origin::Published { RowKind::Published } else { RowKind::Ours }, cells }
    };
    Table {
        title: format!("leaderboard by {}", frame.ranked_by),
        // Every row says what it is, so that one demo does not discredit the others.
        demo: !frame.rows.is_empty() && frame.rows.iter().all(|row| row.origin == Origin::Demo),
        columns: heads,
        lead: 2,
        rows: frame.rows.iter().filter(tells).map(row).collect(),
        footnotes: notes(frame),
    }
}

fn notes(frame: &Frame) -> Vec<Footnote> {
    let mut notes = vec![Footnote::Text("an average is given only where every column of its table has a whole number".to_owned())];
    if frame.rows.iter().any(|row| row.origin == Origin::Demo) {
        notes.push(Footnote::Text(
            "demo: bundled samples answered by a toy model; these numbers measure nothing and have no rank".to_owned(),
        ));
    }
    if frame.by == RowsBy::Model {
        notes.push(Footnote::Text("several runs of one model: mean, and the standard deviation over runs (sd)".to_owned()));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{csv, one_run::tests::scores};
    use crate::results::reference;

    #[test]
    fn for_programs_every_column_for_eyes_the_filled_ones() {
        let runs = [("one".to_owned(), scores(false)), ("two".to_owned(), scores(true))];
        let published = reference::rows("ja").expect("published");
        let frame = Frame::new(&runs, &published, RowsBy::Run, None);
        let all = of(&frame, Columns::All);
        assert_eq!(all.columns.len(), 4 + 60 + 1);
        assert!(all.rows.iter().all(|row| row.cells.len() == all.columns.len()));
        assert!(csv::render(&all).starts_with("rank,model,run,origin,JCom.,JCom. ±95 %,"));
        let filled = of(&frame, Columns::Filled);
        let keys: Vec<&str> = filled.columns.iter().map(|c| c.key.as_str()).collect();
        assert_eq!(keys, ["rank", "model", "run", "origin", "JCom.", "JEMHopQA", "NIILC", "JMMLU", "Ja Avg"]);
        assert!(!filled.demo && filled.footnotes.iter().any(|n| n.to_string().starts_with("demo: ")));
    }
}
