//! The crosslingual Winograd collection: a pronoun in a sentence and two things it may stand for.
//!
//! Columns, without heading: language, source, -, raw sentence, its tokens, the pronoun `[text, [from, to], tokens]`, the candidates
//! `[[text, span, tokens, correct], ...]`, the last three as JSON (github.com/yandex-research/crosslingual_winograd `dataset.tsv`). Spans
//! count tokens; the hub's data set (`Muennighoff/xwinograd`) has the pronoun's place in the raw sentence.

use super::{Broken, Record, numbered_lines};
use serde_json::{Map, Value};
use std::ops::Range;

/// Rows of one language.
pub(super) fn records(content: &[u8], language: &str) -> Result<Vec<Record>, Broken> {
    let mut records = Vec::new();
    for (number, line) in numbered_lines(content) {
        let place = || format!("line {number}");
        let line = std::str::from_utf8(line).map_err(|_| Broken::at(place(), "not UTF-8"))?;
        let columns: Vec<&str> = line.split('\t').collect();
        let &[of, _, _, sentence, tokens, pronoun, candidates] = columns.as_slice() else {
            return Err(Broken::at(place(), format!("7 columns are expected, not {}", columns.len())));
        };
        if of == language {
            records.push(record(sentence, tokens, pronoun, candidates).map_err(|cause| Broken::at(place(), cause))?);
        }
    }
    Ok(records)
}

fn record(sentence: &str, tokens: &str, pronoun: &str, candidates: &str) -> Result<Record, String> {
    let tokens: Vec<String> = serde_json::from_str(tokens).map_err(|e| format!("tokens: {e}"))?;
    let (_, [from, to], _): (String, [usize; 2], Value) = serde_json::from_str(pronoun).map_err(|e| format!("pronoun: {e}"))?;
    let candidates: Vec<(String, Value, Value, bool)> = serde_json::from_str(candidates).map_err(|e| format!("candidates: {e}"))?;
    let [first, second] = candidates.as_slice() else { return Err(format!("{} candidates instead of 2", candidates.len())) };
    if first.3 == second.3 {
        return Err("not one of the two candidates is right".to_owned());
    }
    if from >= to || to > tokens.len() {
        return Err(format!("the pronoun is tokens {from} to {to} of {}", tokens.len()));
    }
    let places = aligned(sentence, &tokens)?;
    let gap = places[from].start..places[to - 1].end;
    Ok(Record(Map::from_iter([
        ("sentence".to_owned(), format!("{}_{}", &sentence[..gap.start], &sentence[gap.end..]).into()),
        ("option1".to_owned(), first.0.as_str().into()),
        ("option2".to_owned(), second.0.as_str().into()),
        ("answer".to_owned(), if first.3 { "1" } else { "2" }.into()),
    ])))
}

/// Where each token stands in the sentence. NLTK's tokens are the sentence's own characters but for quotation marks.
fn aligned(sentence: &str, tokens: &[String]) -> Result<Vec<Range<usize>>, String> {
    let mut at = 0;
    let mut places = Vec::with_capacity(tokens.len());
    for token in tokens {
        at += sentence[at..].len() - sentence[at..].trim_start().len();
        let quoted = ["``", "''"].contains(&token.as_str()).then_some("\"");
        let spelled = [Some(token.as_str()), quoted].into_iter().flatten().find(|spelled| sentence[at..].starts_with(spelled));
        let spelled = spelled.ok_or_else(|| format!("token {token:?} does not stand at byte {at} of {sentence:?}"))?;
        places.push(at..at + spelled.len());
        at += spelled.len();
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_pronoun_becomes_a_gap() {
        let file = "jp\ta\t?\tx\t[]\t[]\t[]\nen\ta\t?\t\"No\", said the dog to the cat;  it ran.\t\
            [\"``\", \"No\", \"''\", \",\", \"said\", \"the\", \"dog\", \"to\", \"the\", \"cat\", \";\", \"it\", \"ran\", \".\"]\t[\"it\", [11, 12], [\"it\"]]\t\
            [[\"the dog\", [5, 7], [], false], [\"the cat\", [8, 10], [], true]]\n";
        let records = records(file.as_bytes(), "en").expect("well-formed");
        let expected =
            json!({"sentence": "\"No\", said the dog to the cat;  _ ran.", "option1": "the dog", "option2": "the cat", "answer": "2"});
        assert_eq!(records.into_iter().map(|r| Value::Object(r.0)).collect::<Vec<_>>(), [expected]);
    }

    #[test]
    fn broken_rows_say_where() {
        let row = |tokens: &str, pronoun: &str, candidates: &str| format!("en\ta\t?\tIt ran.\t{tokens}\t{pronoun}\t{candidates}");
        let good = ("[\"It\", \"ran\", \".\"]", "[\"It\", [0, 1], []]", "[[\"a\", [], [], true], [\"b\", [], [], false]]");
        assert_eq!(records(row(good.0, good.1, good.2).as_bytes(), "en").expect("well-formed").len(), 1);
        for (line, cause) in [
            (row("[\"He\"]", good.1, good.2), "token \"He\" does not stand at byte 0"),
            (row(good.0, "[\"It\", [3, 4], []]", good.2), "tokens 3 to 4 of 3"),
            (row(good.0, good.1, "[[\"a\", [], [], true]]"), "1 candidates"),
            (row(good.0, good.1, "[[\"a\", [], [], true], [\"b\", [], [], true]]"), "not one of the two"),
            ("en\tx".to_owned(), "7 columns are expected, not 2"),
        ] {
            let broken = records(line.as_bytes(), "en").expect_err("broken");
            assert!(broken.place == "line 1" && broken.cause.contains(cause), "{broken:?}");
        }
    }
}
