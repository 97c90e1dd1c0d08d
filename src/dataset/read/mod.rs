//! File formats to [`Record`]s. Every reader is a function of bytes: broken input is an error that says where, never a panic.

mod csv;
mod exemplars;
mod json;
mod lines;
mod parquet;
mod winograd;
mod xml;

use super::{DatasetError, Record};
use flate2::read::GzDecoder;
use serde::Deserialize;
use std::{io::Read, path::Path};

/// A file format, as a manifest says it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Reader {
    /// One array of objects.
    Json {
        /// Key of the array, where it stands in an object.
        #[serde(default)]
        at: Option<String>,
    },
    /// An object a line.
    Jsonl,
    /// The same, compressed by gzip.
    JsonlGz,
    /// SQuAD 1.1: `data[].paragraphs[].qas[]`, flattened in file order to records of `title`, `context` and the question's own fields.
    Squad,
    /// TriviaQA: `Data[]` to records with the names of the hub's data set (`question`, `question_id`, `answer` with `value` and `aliases`),
    /// texts stripped as its loader does.
    Trivia,
    /// A prompt written for people, as BIG-Bench-Hard has them: below a line `-----`, paragraphs, of which the last ones are worked examples.
    /// A record an example (`exemplar`); the first also has what stands before them (`description`).
    Exemplars {
        /// How many of the paragraphs are examples.
        count: usize,
    },
    /// The table of the crosslingual Winograd collection (XWINO), rows of one language, as the hub's data set has them: `sentence` with `_`
    /// for the pronoun, `option1`, `option2`, `answer`.
    Winograd {
        /// First column of the rows.
        language: String,
    },
    /// Comma-separated values, Excel dialect. One leading byte-order mark is dropped; cells are kept as they are.
    Csv {
        /// Names of the columns; columns of one name are a list.
        columns: Vec<String>,
        /// Whether the first row is a heading.
        #[serde(default)]
        heading: Heading,
    },
    /// Tab-separated values without heading, as Python's `csv.reader(delimiter="\t")` sees them: a quotation mark still quotes.
    Tsv {
        /// Names of the columns.
        columns: Vec<String>,
    },
    /// A value a line, without its line feed. Files of one split stand beside each other: each gives one field of the records.
    Lines,
    /// Apache Parquet, columns of plain types.
    Parquet,
    /// No records: a file that something else reads as a whole.
    Whole,
    /// Elements of one name to records. Text is kept as it is, an empty element is the empty text.
    Xml {
        /// Name of the element that is a record.
        record: String,
        /// Attribute of it that becomes the field of that name.
        id: String,
        /// Child element that becomes the field of that name.
        text: String,
        /// Child element that holds a list.
        list: XmlList,
    },
}

/// What the first row of a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Heading {
    /// A record.
    #[default]
    None,
    /// Names of columns; not read.
    Skip,
}

/// A child element that holds a list.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XmlList {
    /// Its name, and the field's.
    pub name: String,
    /// Name of its items.
    pub item: String,
}

/// What is wrong with a file, and where.
#[derive(Debug, PartialEq)]
struct Broken {
    place: String,
    cause: String,
}

impl Broken {
    fn at(place: impl Into<String>, cause: impl ToString) -> Self {
        Broken { place: place.into(), cause: cause.to_string() }
    }
}

/// Lines with their numbers, from 1; the last may lack its line feed, and an empty file has none.
fn numbered_lines(content: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let lines = (!content.is_empty()).then(|| content.strip_suffix(b"\n").unwrap_or(content).split(|b| *b == b'\n'));
    lines.into_iter().flatten().enumerate().map(|(index, line)| (index + 1, line))
}

/// Records of one file's content. `path` is for messages.
///
/// # Errors
/// [`DatasetError::Format`].
pub fn records(reader: &Reader, content: &[u8], path: &Path) -> Result<Vec<Record>, DatasetError> {
    let records = match reader {
        Reader::Json { at } => json::array(content, at.as_deref()),
        Reader::Jsonl => json::lines(content),
        Reader::JsonlGz => gunzip(content).and_then(|text| json::lines(&text)),
        Reader::Squad => json::squad(content),
        Reader::Trivia => json::trivia(content),
        Reader::Exemplars { count } => exemplars::records(content, *count),
        Reader::Winograd { language } => winograd::records(content, language),
        Reader::Csv { columns, heading } => csv::records(content, columns, b',', *heading),
        Reader::Tsv { columns } => csv::records(content, columns, b'\t', Heading::None),
        Reader::Lines => lines::records(content),
        Reader::Parquet => parquet::records(content),
        Reader::Whole => Err(Broken::at("the whole file", "it holds no records")),
        Reader::Xml { record, id, text, list } => xml::records(content, &xml::Shape { record, id, text, list }),
    };
    records.map_err(|Broken { place, cause }| DatasetError::Format { path: path.to_owned(), place, cause })
}

fn gunzip(content: &[u8]) -> Result<Vec<u8>, Broken> {
    let mut text = Vec::new();
    // Far beyond any data set of a benchmark; a small file must not fill the memory.
    const LIMIT: u64 = 1 << 30;
    let read = GzDecoder::new(content).take(LIMIT + 1).read_to_end(&mut text);
    match read {
        Ok(n) if n as u64 > LIMIT => Err(Broken::at("the whole file", format!("it unpacks to more than {LIMIT} bytes"))),
        Ok(_) => Ok(text),
        Err(e) => Err(Broken::at("the whole file", format!("it is damaged, or no gzip file: {e}"))),
    }
}

/// Puts the values of [`Reader::Lines`] into records under the name of their field; the first file makes the records.
///
/// # Errors
/// [`DatasetError::Format`] when the files have not as many lines.
pub fn beside(records: &mut Vec<Record>, of_file: Vec<Record>, field: &str, path: &Path) -> Result<(), DatasetError> {
    if records.is_empty() {
        records.resize_with(of_file.len(), Record::default);
    }
    if records.len() != of_file.len() {
        let cause = format!("{} lines, but the file before it has {}", of_file.len(), records.len());
        return Err(DatasetError::Format { path: path.to_owned(), place: "the whole file".into(), cause });
    }
    for (record, Record(mut line)) in records.iter_mut().zip(of_file) {
        record.0.extend(line.remove(lines::VALUE).map(|value| (field.to_owned(), value)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all_readers() -> Vec<Reader> {
        let list = XmlList { name: "answers".into(), item: "answer".into() };
        let xml = Reader::Xml { record: "question".into(), id: "id".into(), text: "text".into(), list };
        vec![
            Reader::Json { at: None },
            Reader::Json { at: Some("a".into()) },
            Reader::Jsonl,
            Reader::Squad,
            Reader::Trivia,
            Reader::Exemplars { count: 2 },
            Reader::Winograd { language: "en".into() },
            Reader::Csv { columns: vec!["a".into(), "b".into()], heading: Heading::None },
            Reader::Tsv { columns: vec!["a".into()] },
            Reader::Lines,
            Reader::Parquet,
            xml,
        ]
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            for reader in all_readers() {
                let _ = records(&reader, &content, Path::new("f"));
            }
        }

        #[test]
        fn damaged_xml_never_panics(at in 0usize..120, byte in any::<u8>()) {
            let mut content = b"<questions><question id=\"1\"><text>a&amp;b</text><answers><answer>x</answer></answers></question></questions>".to_vec();
            let at = at % content.len();
            content[at] = byte;
            for reader in all_readers() {
                let _ = records(&reader, &content, Path::new("f"));
            }
        }
    }

    #[test]
    fn errors_name_file_and_place() {
        let error = records(&Reader::Jsonl, b"{}\n{", Path::new("f.jsonl")).expect_err("broken").to_string();
        assert!(error.starts_with("f.jsonl, line 2: "), "{error}");
    }
}
