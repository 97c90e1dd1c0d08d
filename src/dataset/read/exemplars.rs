//! Prompts written for people: a line `-----`, a description, worked examples, a blank line between any two.

use super::{Broken, Record};
use serde_json::Map;

/// The line above the prompt; what stands over it is not part of it.
const RULE: &str = "\n-----\n";

/// One record an example. The last `count` paragraphs are examples, all before them is the description (BIG-Bench-Hard `cot-prompts/`: one
/// paragraph in all files but one, where there are two).
pub(super) fn records(content: &[u8], count: usize) -> Result<Vec<Record>, Broken> {
    let whole = |cause: String| Broken::at("the whole file", cause);
    let text = std::str::from_utf8(content).map_err(|e| Broken::at(format!("byte {}", e.valid_up_to()), "not UTF-8"))?;
    let prompt = text.rsplit(RULE).next().filter(|prompt| prompt.len() < text.len()).ok_or_else(|| whole("no line \"-----\"".into()))?;
    let paragraphs: Vec<&str> = prompt.split("\n\n").collect();
    let before = paragraphs.len().checked_sub(count).filter(|before| *before > 0);
    let before =
        before.ok_or_else(|| whole(format!("{} paragraphs, but {count} examples and a description are expected", paragraphs.len())))?;
    let description = paragraphs[..before].join("\n\n");
    let record = |(index, exemplar): (usize, &&str)| {
        let description = (index == 0).then(|| ("description".to_owned(), description.as_str().into()));
        Record(Map::from_iter(description.into_iter().chain([("exemplar".to_owned(), (*exemplar).into())])))
    };
    Ok(paragraphs[before..].iter().enumerate().map(record).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn the_last_paragraphs_are_examples() {
        let file = b"canary\n-----\nDo this.\n\nAnd that.\n\nQ: a\nA: b\n\nQ: c";
        let records: Vec<Value> = records(file, 2).expect("well-formed").into_iter().map(|r| Value::Object(r.0)).collect();
        assert_eq!(records, [json!({"description": "Do this.\n\nAnd that.", "exemplar": "Q: a\nA: b"}), json!({"exemplar": "Q: c"})]);
    }

    #[test]
    fn other_files_are_refused() {
        for (file, cause) in [(&b"Do this.\n\nQ"[..], "no line"), (b"x\n-----\nQ: a", "1 paragraphs"), (b"x\n-----\n\xff", "not UTF-8")] {
            let broken = records(file, 1).expect_err("broken");
            assert!(broken.cause.contains(cause), "{broken:?}");
        }
    }
}
