//! The published rows: the tables of the model card of Llama 3.1 Swallow 70B Instruct v0.1, embedded from `results/reference/`.

use super::ResultsError;

/// Suites with a published table.
pub const SUITES: [&str; 3] = ["ja", "en", "mt-bench"];

const JA: &str = include_str!("../../results/reference/ja.csv");
const EN: &str = include_str!("../../results/reference/en.csv");
const MT_BENCH: &str = include_str!("../../results/reference/mt-bench.csv");

/// The heading of a published table: task columns, then the average.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    heading: &'static str,
}

impl Columns {
    /// Titles of the task columns, in the card's order.
    pub fn titles(self) -> Vec<&'static str> {
        let fields: Vec<&str> = self.heading.split(',').collect();
        fields[1..fields.len() - 1].to_vec()
    }

    /// Title of the average.
    pub fn average(self) -> &'static str {
        self.heading.rsplit(',').next().expect("a split yields at least one part")
    }
}

/// One published row.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceRow {
    /// Suite of the table.
    pub suite: &'static str,
    /// The model as the card names it.
    pub model: &'static str,
    /// Title and value of each task column, in the card's order; four decimals.
    pub values: Vec<(&'static str, f64)>,
    /// The card's own average.
    pub average: f64,
}

impl ReferenceRow {
    /// The value in the column of this title.
    pub fn value(&self, title: &str) -> Option<f64> {
        self.values.iter().find(|(t, _)| *t == title).map(|(_, value)| *value)
    }
}

/// The heading of a suite's published table, where there is one.
pub fn columns(suite: &str) -> Option<Columns> {
    let (_, table) = table(suite).ok()?;
    Some(Columns { heading: table.lines().next().unwrap_or_default() })
}

/// The models of a suite's published table, in the card's order.
///
/// # Errors
/// [`ResultsError::NoTable`].
pub fn names(suite: &str) -> Result<Vec<&'static str>, ResultsError> {
    Ok(rows(suite)?.into_iter().map(|row| row.model).collect())
}

/// The published row of a model. Case, blanks, dashes, underscores, an organisation before `/`, `Meta-` before `Llama` and the suffix `-v0.1`
/// do not matter, so that a hub id finds its row; a name in parentheses is found too.
///
/// # Errors
/// [`ResultsError::NoTable`], [`ResultsError::NoRow`] (which lists the names).
pub fn row(suite: &str, name: &str) -> Result<ReferenceRow, ResultsError> {
    let wanted = key(name);
    let is_it = |model: &str| {
        let inner = model.split_once('(').map(|(_, inner)| inner.trim_end_matches(')'));
        let outer = model.split('(').next().unwrap_or(model);
        key(model) == wanted || key(outer) == wanted || inner.is_some_and(|inner| key(inner) == wanted)
    };
    let rows = rows(suite)?;
    let names = rows.iter().map(|row| row.model.to_owned()).collect();
    rows.into_iter().find(|row| is_it(row.model)).ok_or_else(|| ResultsError::NoRow {
        suite: suite.to_owned(),
        name: name.to_owned(),
        names,
    })
}

/// All rows of a suite's table, in the card's order.
///
/// # Errors
/// [`ResultsError::NoTable`].
pub fn rows(suite: &str) -> Result<Vec<ReferenceRow>, ResultsError> {
    let (suite, table) = table(suite)?;
    let mut lines = table.lines();
    let columns = Columns { heading: lines.next().unwrap_or_default() };
    let parse = |line: &'static str| {
        let mut fields = line.split(',');
        let model = fields.next()?;
        let values: Vec<f64> = fields.map(|f| f.parse().ok()).collect::<Option<_>>()?;
        let (average, values) = values.split_last()?;
        let values = columns.titles().into_iter().zip(values.iter().copied()).collect();
        Some(ReferenceRow { suite, model, values, average: *average })
    };
    Ok(lines.map(|line| parse(line).expect("the embedded tables are well formed, a test holds it")).collect())
}

fn table(suite: &str) -> Result<(&'static str, &'static str), ResultsError> {
    match suite {
        "ja" => Ok(("ja", JA)),
        "en" => Ok(("en", EN)),
        "mt-bench" => Ok(("mt-bench", MT_BENCH)),
        other => Err(ResultsError::NoTable { suite: other.to_owned() }),
    }
}

/// What is left of a name when everything that people spell in different ways is gone.
///
/// Of versions only `v0.1` goes, the one the card describes: another version is another model.
fn key(name: &str) -> String {
    let name = name.trim().trim_end_matches('/').to_lowercase();
    let name = name.rsplit('/').next().unwrap_or_default();
    let letters: String = name.chars().filter(|c| !matches!(c, ' ' | '-' | '_')).collect();
    let letters = letters.strip_suffix("v0.1").unwrap_or(&letters);
    letters.strip_prefix("meta").filter(|rest| rest.starts_with("llama")).unwrap_or(letters).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_whole() {
        for (suite, rows_expected, columns_expected, average) in
            [("ja", 9, 10, "Ja Avg"), ("en", 9, 9, "En Avg"), ("mt-bench", 11, 8, "JMTAvg")]
        {
            let columns = columns(suite).expect("published");
            assert_eq!((columns.titles().len(), columns.average()), (columns_expected, average));
            let rows = rows(suite).expect("published");
            assert_eq!(rows.len(), rows_expected);
            for row in rows {
                assert_eq!(row.values.len(), columns_expected, "{}", row.model);
                let mean = row.values.iter().map(|(_, v)| v).sum::<f64>() / columns_expected as f64;
                // The card's averages come from unrounded cells.
                assert!((mean - row.average).abs() < 1.5e-4, "{}: {mean} {}", row.model, row.average);
            }
        }
    }

    #[test]
    fn spelling_is_forgiven_another_version_is_not() {
        for (suite, name, expected) in [
            ("ja", "Llama 3.1 Swallow 70B Instruct", Some("Llama 3.1 Swallow 70B Instruct")),
            ("ja", "tokyotech-llm/Llama-3.1-Swallow-70B-Instruct-v0.1", Some("Llama 3.1 Swallow 70B Instruct")),
            ("ja", "models/llama_3.1_swallow_70b_instruct/", Some("Llama 3.1 Swallow 70B Instruct")),
            ("ja", "tokyotech-llm/Llama-3.1-Swallow-70B-Instruct-v0.3", None),
            ("ja", "tokyotech-llm/Llama-3.1-Swallow-8B-Instruct-v0.1", None),
            ("en", "meta-llama/Meta-Llama-3-70B-Instruct", Some("Llama 3 70B Instruct")),
            ("en", "meta-llama/Llama-3.1-70B-Instruct", Some("Llama 3.1 70B Instruct")),
            ("ja", "turing-motors/Llama-3-heron-brain-70B-v0.3", Some("Llama 3 heron brain 70B v0.3")),
            ("ja", "Qwen/Qwen2.5-72B-Instruct", Some("Qwen2.5-72B-Instruct")),
            ("mt-bench", "gpt-4o-2024-05-13", Some("GPT-4o (gpt-4o-2024-05-13)")),
            ("mt-bench", "GPT-4o", Some("GPT-4o (gpt-4o-2024-05-13)")),
            ("ja", "GPT-4o", None),
            ("ja", "", None),
        ] {
            assert_eq!(row(suite, name).ok().map(|r| r.model), expected, "{suite} {name:?}");
        }
    }

    #[test]
    fn a_known_cell_and_unknown_names() {
        let row_of = |name| row("ja", name).expect("published");
        assert_eq!(row_of("Llama 3.1 Swallow 70B Instruct").value("JEMHopQA"), Some(0.6192));
        assert_eq!(row_of("Llama 3.1 Swallow 70B Instruct").value("nothing"), None);
        let message = row("ja", "gpt-5").expect_err("not published").to_string();
        assert!(message.contains("no row \"gpt-5\"") && message.contains("Qwen2-72B-Instruct, Qwen2.5-72B-Instruct"), "{message}");
        assert!(row("zh", "x").expect_err("no table").to_string().contains("ja, en, mt-bench"));
    }
}
