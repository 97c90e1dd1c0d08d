//! Many runs in one frame: a row a run (or a model), the columns of the published tables. Ranks and folds; prints nothing.
//!
//! Thousands of runs are a few hundred kilobytes of numbers, so that plain vectors do; Parquet is written without a data-frame library.

use super::{
    ResultsError, atomic,
    reference::{self, ReferenceRow, SUITES},
    scores::Scores,
};
use parquet::{
    data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type},
    errors::ParquetError,
    file::writer::{SerializedFileWriter, SerializedRowGroupWriter},
    schema::parser::parse_message_type,
};
use std::{collections::BTreeMap, io, path::Path, sync::Arc};

/// A column of the published tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heading {
    /// `ja`, `en`, `mt-bench`.
    pub suite: &'static str,
    /// Title on the card.
    pub title: &'static str,
    /// Task or average.
    pub kind: HeadingKind,
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadingKind {
    /// A task's headline metric.
    Task,
    /// The mean of a suite's columns.
    Average,
}

/// A number of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Entry {
    /// The number; of a folded row, the mean over its runs.
    pub value: f64,
    /// Half the width of the 95 % interval, of a row of one run.
    pub half_width_95: Option<f64>,
    /// Sample standard deviation over runs, of a folded row of at least two.
    pub deviation: Option<f64>,
    /// Whether the number is not the protocol's: partial, failed requests, departures.
    pub qualified: bool,
}

/// Whose numbers a row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Measured here.
    Ours,
    /// Bundled samples and the toy model.
    Demo,
    /// A published table.
    Published,
}

impl Origin {
    /// As files show it.
    pub fn name(self) -> &'static str {
        match self {
            Origin::Ours => "ours",
            Origin::Demo => "demo",
            Origin::Published => "published",
        }
    }
}

/// A row of a frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Place by the ranking column, from 1; equal numbers share a place. Demos and rows without that number have none.
    pub rank: Option<u64>,
    /// Model, as the user or the card names it.
    pub model: String,
    /// Ids of the runs, in the order given.
    pub runs: Vec<String>,
    /// Whose numbers they are.
    pub origin: Origin,
    /// One for each heading of the frame.
    pub entries: Vec<Option<Entry>>,
    /// Signatures of the numbers.
    pub signatures: Vec<String>,
}

/// What a row stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsBy {
    /// One run.
    Run,
    /// All runs of a model: seeds of one suite become mean and deviation, suites stand side by side.
    Model,
}

/// The whole frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// The columns of the card's tables, in its order.
    pub headings: Vec<Heading>,
    /// Rows by rank; those without one last, in the order given.
    pub rows: Vec<Standing>,
    /// Title of the ranking column.
    pub ranked_by: &'static str,
    /// What a row stands for.
    pub by: RowsBy,
}

/// The columns of every published table, each table's average last.
pub fn headings() -> Vec<Heading> {
    let of = |suite: &'static str| {
        let columns = reference::columns(suite).expect("listed suites have tables");
        let task = move |title| Heading { suite, title, kind: HeadingKind::Task };
        columns.titles().into_iter().map(task).chain([Heading { suite, title: columns.average(), kind: HeadingKind::Average }])
    };
    SUITES.into_iter().flat_map(of).collect()
}

impl Frame {
    /// Puts runs (id and scores) and published rows into one frame, ranked by the average that most rows have (the first of them in the
    /// card's order), or by `rank_by`.
    pub fn new(runs: &[(String, Scores)], published: &[ReferenceRow], by: RowsBy, rank_by: Option<&'static str>) -> Frame {
        let headings = headings();
        let single: Vec<Standing> = runs.iter().map(|(run, scores)| standing(run, scores, &headings)).collect();
        let mut rows = match by {
            RowsBy::Run => single,
            RowsBy::Model => fold(single, headings.len()),
        };
        rows.extend(of_card(published, &headings));
        let filled = |at: &usize| rows.iter().filter(|row| row.origin == Origin::Ours && row.entries[*at].is_some()).count();
        let averages: Vec<usize> = (0..headings.len()).filter(|at| headings[*at].kind == HeadingKind::Average).collect();
        let chosen = rank_by.and_then(|title| headings.iter().position(|h| h.title == title));
        let most = averages.iter().map(filled).max().unwrap_or(0);
        let at = chosen.or_else(|| averages.iter().copied().find(|at| filled(at) == most)).unwrap_or(0);
        rank(&mut rows, at);
        Frame { ranked_by: headings[at].title, headings, rows, by }
    }

    /// Writes the frame as Parquet: `rank`, `model`, `run`, `origin`, then a double for each heading, its interval or deviation beside it, and
    /// the signatures.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_parquet(&self, path: &Path) -> Result<(), ResultsError> {
        let mut bytes = Vec::new();
        self.parquet(&mut bytes).map_err(|e| ResultsError::Io { action: "write", path: path.to_owned(), source: io::Error::other(e) })?;
        atomic::write(path, |out| out.write_all(&bytes))
    }

    fn parquet(&self, out: &mut Vec<u8>) -> Result<(), ParquetError> {
        let numbers = self.numbers();
        let doubles: String = numbers.iter().map(|(name, _)| format!("optional double {};\n", plain(name))).collect();
        let schema = format!(
            "message leaderboard {{ optional int64 rank; required binary model (UTF8); required binary run (UTF8); \
             required binary origin (UTF8); {doubles} required binary signatures (UTF8); }}"
        );
        let mut file = SerializedFileWriter::new(out, Arc::new(parse_message_type(&schema)?), Default::default())?;
        let mut group = file.next_row_group()?;
        let ranks: Vec<Option<i64>> = self.rows.iter().map(|row| row.rank.map(|rank| rank as i64)).collect();
        optional::<Int64Type>(&mut group, &ranks)?;
        for text in [Standing::model, Standing::run, Standing::origin] {
            required(&mut group, self.rows.iter().map(text))?;
        }
        for (_, values) in &numbers {
            optional::<DoubleType>(&mut group, values)?;
        }
        required(&mut group, self.rows.iter().map(|row| row.signatures.join(" ")))?;
        group.close()?;
        file.close().map(drop)
    }

    /// Every column of numbers by name: the headings, each followed by its interval (runs) or deviation (models).
    pub fn numbers(&self) -> Vec<(String, Vec<Option<f64>>)> {
        let beside = match self.by {
            RowsBy::Run => " ±95 %",
            RowsBy::Model => " sd",
        };
        let column = |at: usize, of: &dyn Fn(&Entry) -> Option<f64>| self.rows.iter().map(|row| of(row.entries[at].as_ref()?)).collect();
        let pair = |(at, heading): (usize, &Heading)| {
            let spread: &dyn Fn(&Entry) -> Option<f64> = match self.by {
                RowsBy::Run => &|e| e.half_width_95,
                RowsBy::Model => &|e| e.deviation,
            };
            [(heading.title.to_owned(), column(at, &|e| Some(e.value))), (format!("{}{beside}", heading.title), column(at, spread))]
        };
        self.headings.iter().enumerate().flat_map(pair).collect()
    }
}

impl Standing {
    fn model(&self) -> String {
        self.model.clone()
    }

    /// Ids of its runs.
    pub fn run(&self) -> String {
        self.runs.join(" ")
    }

    fn origin(&self) -> String {
        self.origin.name().to_owned()
    }
}

/// One run. Its average has an interval where all its columns have one: they are measured on different documents, so variances add.
fn standing(run: &str, scores: &Scores, headings: &[Heading]) -> Standing {
    let of_suite: Vec<&str> = headings.iter().filter(|h| h.suite == scores.suite && h.kind == HeadingKind::Task).map(|h| h.title).collect();
    let entry = |heading: &Heading| {
        if heading.suite != scores.suite {
            return None;
        }
        match heading.kind {
            HeadingKind::Task => {
                let task = scores.by_title(heading.title)?;
                let qualified = task.is_partial() || task.failed > 0 || !task.departures.is_empty();
                Some(Entry { value: task.value?, half_width_95: task.half_width_95, deviation: None, qualified })
            }
            HeadingKind::Average => {
                let halves: Option<Vec<f64>> = of_suite.iter().map(|title| scores.by_title(title)?.half_width_95).collect();
                let half = halves.map(|halves| halves.iter().map(|h| h * h).sum::<f64>().sqrt() / of_suite.len() as f64);
                let qualified = scores.tasks.iter().any(|task| !task.departures.is_empty());
                Some(Entry { value: scores.average?, half_width_95: half, deviation: None, qualified })
            }
        }
    };
    Standing {
        rank: None,
        model: scores.model.clone(),
        runs: vec![run.to_owned()],
        origin: if scores.demo { Origin::Demo } else { Origin::Ours },
        entries: headings.iter().map(entry).collect(),
        signatures: scores.tasks.iter().filter(|t| !t.signature.is_empty()).map(|t| t.signature.clone()).collect(),
    }
}

/// Rows of the same model become one, in the order of first appearance.
fn fold(rows: Vec<Standing>, columns: usize) -> Vec<Standing> {
    let mut order: Vec<(String, Origin)> = Vec::new();
    let mut groups: BTreeMap<String, Vec<Standing>> = BTreeMap::new();
    for row in rows {
        let key = (row.model.clone(), row.origin);
        if !order.contains(&key) {
            order.push(key);
        }
        groups.entry(format!("{}\0{}", row.model, row.origin.name())).or_default().push(row);
    }
    let folded = order.into_iter().filter_map(|(model, origin)| {
        let group = groups.remove(&format!("{model}\0{}", origin.name()))?;
        let entries = (0..columns).map(|at| mean_of(&group.iter().filter_map(|row| row.entries[at]).collect::<Vec<_>>())).collect();
        let mut signatures: Vec<String> = group.iter().flat_map(|row| row.signatures.clone()).collect();
        signatures.sort();
        signatures.dedup();
        let runs = group.into_iter().flat_map(|row| row.runs).collect();
        Some(Standing { rank: None, model, runs, origin, entries, signatures })
    });
    folded.collect()
}

fn mean_of(entries: &[Entry]) -> Option<Entry> {
    let n = entries.len() as f64;
    let [first, ..] = entries else { return None };
    if entries.len() == 1 {
        return Some(*first);
    }
    let value = entries.iter().map(|e| e.value).sum::<f64>() / n;
    let variance = entries.iter().map(|e| (e.value - value).powi(2)).sum::<f64>() / (n - 1.0);
    Some(Entry { value, half_width_95: None, deviation: Some(variance.sqrt()), qualified: entries.iter().any(|e| e.qualified) })
}

/// A row for each published model, with the columns of all tables that have it.
fn of_card(published: &[ReferenceRow], headings: &[Heading]) -> Vec<Standing> {
    let mut rows: Vec<Standing> = Vec::new();
    for row in published {
        let entry = |heading: &Heading| {
            let value = match heading.kind {
                _ if heading.suite != row.suite => return None,
                HeadingKind::Task => row.value(heading.title)?,
                HeadingKind::Average => row.average,
            };
            Some(Entry { value, ..Entry::default() })
        };
        let entries: Vec<Option<Entry>> = headings.iter().map(entry).collect();
        match rows.iter_mut().find(|known| known.model == row.model) {
            Some(known) => known.entries.iter_mut().zip(entries).for_each(|(known, new)| *known = known.or(new)),
            None => {
                let (model, runs, signatures) = (row.model.to_owned(), Vec::new(), Vec::new());
                rows.push(Standing { rank: None, model, runs, origin: Origin::Published, entries, signatures });
            }
        }
    }
    rows
}

/// Ranks by one column, best first, and sorts.
fn rank(rows: &mut [Standing], at: usize) {
    let number = |row: &Standing| row.entries[at].filter(|_| row.origin != Origin::Demo).map(|e| e.value);
    // A stable sort: rows without the number keep the order given.
    rows.sort_by(|a, b| match (number(a), number(b)) {
        (Some(a), Some(b)) => b.total_cmp(&a),
        (a, b) => b.is_some().cmp(&a.is_some()),
    });
    let mut place: Option<(f64, u64)> = None;
    for (i, row) in rows.iter_mut().enumerate() {
        let Some(value) = number(row) else { continue };
        let rank = place.filter(|(last, _)| *last == value).map_or(i as u64 + 1, |(_, rank)| rank);
        place = Some((value, rank));
        row.rank = Some(rank);
    }
}

/// A heading as Parquet's schema language can name it.
fn plain(name: &str) -> String {
    let name = name.replace(" ±95 %", "_half_width_95").replace(['.', ' ', '-'], "_");
    name.trim_end_matches('_').replace("__", "_")
}

fn optional<T: parquet::data_type::DataType>(
    group: &mut SerializedRowGroupWriter<'_, &mut Vec<u8>>,
    values: &[Option<T::T>],
) -> Result<(), ParquetError> {
    let present: Vec<T::T> = values.iter().flatten().cloned().collect();
    let levels: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
    let mut column = group.next_column()?.expect("the schema has a column for each call");
    column.typed::<T>().write_batch(&present, Some(&levels), None)?;
    column.close()
}

fn required(group: &mut SerializedRowGroupWriter<'_, &mut Vec<u8>>, values: impl Iterator<Item = String>) -> Result<(), ParquetError> {
    let values: Vec<ByteArray> = values.map(|value| ByteArray::from(value.into_bytes())).collect();
    let mut column = group.next_column()?.expect("the schema has a column for each call");
    column.typed::<ByteArrayType>().write_batch(&values, None, None)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::scores::tests::japanese;

    fn run(id: &str, model: &str, first: f64, demo: bool) -> (String, Scores) {
        let mut tasks = japanese();
        tasks[0].value = Some(first);
        tasks.iter_mut().for_each(|task| task.half_width_95 = Some(0.1));
        (id.to_owned(), Scores::new("swallow-202407", "ja", model, demo, tasks))
    }

    #[test]
    fn the_card_has_thirty_columns() {
        let headings = headings();
        assert_eq!(headings.iter().filter(|h| h.kind == HeadingKind::Task).count(), 27);
        assert_eq!(headings.len(), 30);
    }

    #[test]
    fn ranks_ties_demos_and_published_rows() {
        let runs = [run("a", "m", 0.5, false), run("b", "n", 0.9, false), run("c", "o", 0.5, false), run("d", "toy", 1.0, true)];
        let published = [reference::row("ja", "Llama 3.1 Swallow 70B Instruct").expect("published")];
        let frame = Frame::new(&runs, &published, RowsBy::Run, None);
        let shown: Vec<(Option<u64>, String)> = frame.rows.iter().map(|row| (row.rank, row.model.clone())).collect();
        let expected = [(Some(1), "Llama 3.1 Swallow 70B Instruct"), (Some(2), "n"), (Some(3), "m"), (Some(3), "o"), (None, "toy")];
        assert_eq!(shown, expected.map(|(rank, model)| (rank, model.to_owned())));
        assert_eq!(frame.ranked_by, "Ja Avg");
        let average = frame.rows[1].entries[10].expect("complete");
        assert!((average.half_width_95.expect("all have one") - 0.1 / 10f64.sqrt()).abs() < 1e-12);
        assert_eq!(Frame::new(&runs, &published, RowsBy::Run, Some("JCom.")).rows[0].rank, Some(1));
    }

    #[test]
    fn runs_of_one_model_become_mean_and_deviation() {
        let runs = [run("a", "m", 0.4, false), run("b", "m", 0.6, false), run("c", "n", 0.5, false)];
        let frame = Frame::new(&runs, &[], RowsBy::Model, None);
        assert_eq!(frame.rows.len(), 2);
        let entry = frame.rows[0].entries[0].expect("measured");
        assert!((entry.value - 0.5).abs() < 1e-12 && (entry.deviation.expect("two runs") - 0.02f64.sqrt()).abs() < 1e-12);
        assert_eq!(frame.rows[0].run(), "a b");
        assert_eq!(frame.rows[1].entries[0].expect("measured").deviation, None);
    }

    #[test]
    fn parquet_reads_back() {
        use parquet::file::reader::{FileReader, SerializedFileReader};
        let frame = Frame::new(&[run("a", "m", 0.5, false)], &reference::rows("ja").expect("published"), RowsBy::Run, None);
        let mut bytes = Vec::new();
        frame.parquet(&mut bytes).expect("writes");
        let reader = SerializedFileReader::new(bytes::Bytes::from(bytes)).expect("reads");
        let fields = reader.metadata().file_metadata().schema_descr().columns().len();
        assert_eq!((reader.metadata().file_metadata().num_rows(), fields), (10, 4 + 60 + 1));
        let rows: Vec<String> = reader.get_row_iter(None).expect("rows").map(|row| row.expect("a row").to_string()).collect();
        assert!(rows.iter().any(|row| row.contains("model: \"m\"") && row.contains("JCom: 0.5")), "{rows:#?}");
    }
}
