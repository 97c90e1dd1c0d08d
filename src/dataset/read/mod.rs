//! File formats to [`Record`]s. Every reader is a function of bytes: broken input is an error that says where, never a panic.

mod csv;
mod json;
mod xml;

use super::{DatasetError, Record};
use serde::Deserialize;
use std::path::Path;

/// A file format, as a manifest says it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Reader {
    /// One array of objects.
    Json,
    /// An object a line.
    Jsonl,
    /// SQuAD 1.1: `data[].paragraphs[].qas[]`, flattened in file order to records of `title`, `context` and the question's own fields.
    Squad,
    /// Comma-separated values without heading, Excel dialect. One leading byte-order mark is dropped; cells are kept as they are.
    Csv {
        /// Names of the columns.
        columns: Vec<String>,
    },
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

/// Records of one file's content. `path` is for messages.
///
/// # Errors
/// [`DatasetError::Format`].
pub fn records(reader: &Reader, content: &[u8], path: &Path) -> Result<Vec<Record>, DatasetError> {
    let records = match reader {
        Reader::Json => json::array(content),
        Reader::Jsonl => json::lines(content),
        Reader::Squad => json::squad(content),
        Reader::Csv { columns } => csv::records(content, columns),
        Reader::Xml { record, id, text, list } => xml::records(content, &xml::Shape { record, id, text, list }),
    };
    records.map_err(|Broken { place, cause }| DatasetError::Format { path: path.to_owned(), place, cause })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all_readers() -> Vec<Reader> {
        let list = XmlList { name: "answers".into(), item: "answer".into() };
        let xml = Reader::Xml { record: "question".into(), id: "id".into(), text: "text".into(), list };
        vec![Reader::Json, Reader::Jsonl, Reader::Squad, Reader::Csv { columns: vec!["a".into(), "b".into()] }, xml]
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
