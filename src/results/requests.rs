//! `requests.jsonl`: what is asked, in full, with shared shots stored once.
//!
//! Two kinds of lines. A text that prompts after it begin with: `{"v":1,"prefix":"<12 hex>","text":"..."}`. A document's request:
//! `{"v":1,"task":"jemhopqa","doc_id":"00000","reference":["YES"],"id":"<32 hex>","prefix":"<12 hex>","rest":"...","kind":"generate","sample":0,...}` with
//! every field of [`RequestKind`] but its text; that text (`prompt` of a generation, `context` of a log-likelihood) is the text of `prefix`
//! followed by `rest`. `prefix` is `null` where nothing is shared. Documents with equal requests have a line each, with equal `id`s.

use super::{ResultsError, jsonl};
use crate::engine::{Request, RequestId, RequestKind};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::Path,
};

/// Number of the `requests.jsonl` format.
pub const FORMAT: u32 = 1;

/// Sharing less than this is not worth a line.
const SHORTEST_PREFIX: usize = 64;

/// What is asked for one document.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedRequest {
    /// Task name.
    pub task: String,
    /// Document, unique in its task.
    pub doc_id: String,
    /// Group the document counts in, a path (`stem/abstract_algebra`); empty without groups.
    pub group: String,
    /// Accepted answers, so that a run can be scored again without its data set. No engine sees them.
    pub reference: Vec<String>,
    /// Position of the right one, where `reference` are choices.
    pub right: Option<usize>,
    /// What is asked.
    pub request: Request,
    /// New tokens that the original harness loses before it reads the answer; 0 where it loses none. What is left then depends on the answer
    /// that was generated beside it, which is the document's second request.
    pub lost_tokens: u32,
}

#[derive(Serialize, Deserialize)]
struct PrefixLine {
    prefix: String,
    text: String,
}

#[derive(Serialize, Deserialize)]
struct RequestLine {
    task: String,
    doc_id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    group: String,
    reference: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    right: Option<usize>,
    id: RequestId,
    prefix: Option<String>,
    rest: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    lost_tokens: u32,
    /// The request less its text. A map, so that a field added to a request is stored without a change here.
    #[serde(flatten)]
    kind: Map<String, Value>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// What tells the two kinds of lines apart.
#[derive(Deserialize)]
struct Kind {
    text: Option<IgnoredAny>,
}

/// Writes all requests, in the given order, which should keep prompts with the same shots together.
pub(super) fn write(mut out: impl Write, planned: &[PlannedRequest]) -> io::Result<()> {
    let mut start = 0;
    while start < planned.len() {
        let (len, prefix) = leading_group(&planned[start..]);
        let prefix_id = (!prefix.is_empty()).then(|| prefix_id(prefix));
        if let Some(id) = &prefix_id {
            jsonl::write_line(&mut out, FORMAT, &PrefixLine { prefix: id.clone(), text: prefix.to_owned() })?;
        }
        for PlannedRequest { task, doc_id, group, reference, right, request, lost_tokens } in &planned[start..start + len] {
            let line = RequestLine {
                task: task.clone(),
                doc_id: doc_id.clone(),
                group: group.clone(),
                reference: reference.clone(),
                right: *right,
                id: request.id.clone(),
                prefix: prefix_id.clone(),
                rest: request.kind.text()[prefix.len()..].to_owned(),
                lost_tokens: *lost_tokens,
                kind: fields_but_text(&request.kind),
            };
            jsonl::write_line(&mut out, FORMAT, &line)?;
        }
        start += len;
    }
    Ok(())
}

/// How many of the first requests share a prefix worth storing, and that prefix (empty where there is none).
///
/// A request joins while what all have in common stays above half of what it was: two questions may begin alike by chance, and then the
/// common part shrinks by a little; other shots shrink it to the instruction.
fn leading_group(planned: &[PlannedRequest]) -> (usize, &str) {
    let first = planned[0].request.kind.text();
    let mut shared = first;
    let mut len = 1;
    for next in &planned[1..] {
        let common = common_prefix(shared, next.request.kind.text());
        let fits = common.len() >= SHORTEST_PREFIX && (len == 1 || common.len() * 2 > shared.len());
        if !fits {
            break;
        }
        shared = common;
        len += 1;
    }
    if len == 1 { (1, "") } else { (len, shared) }
}

/// The longest text with which both begin.
fn common_prefix<'a>(a: &'a str, b: &str) -> &'a str {
    let same = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    &a[..a.floor_char_boundary(same)]
}

/// Reads requests back exactly as they were.
///
/// # Errors
/// When the file cannot be read, a line is corrupt, of a later format, names a prefix that no line before it defines, or its id is not the
/// hash of its content.
pub fn read(path: &Path) -> Result<Vec<PlannedRequest>, ResultsError> {
    let bytes = fs::read(path).map_err(ResultsError::io("read", path))?;
    let mut prefixes = BTreeMap::new();
    let mut planned = Vec::new();
    for (number, line) in jsonl::numbered_lines(&bytes) {
        if jsonl::parse_line::<Kind>(path, number, line, FORMAT)?.text.is_some() {
            let PrefixLine { prefix, text } = jsonl::parse_line(path, number, line, FORMAT)?;
            prefixes.insert(prefix, text);
        } else {
            let line = jsonl::parse_line(path, number, line, FORMAT)?;
            planned.push(restore(line, &prefixes).map_err(|message| ResultsError::corrupt(path, Some(number), message))?);
        }
    }
    Ok(planned)
}

/// The request a line stands for, or what is wrong with it.
fn restore(line: RequestLine, prefixes: &BTreeMap<String, String>) -> Result<PlannedRequest, String> {
    let RequestLine { task, doc_id, group, reference, right, id, prefix, rest, lost_tokens, mut kind } = line;
    let text = match &prefix {
        None => rest,
        Some(prefix) => {
            prefixes.get(prefix).ok_or_else(|| format!("no line before this one defines the prefix {prefix:?}"))?.clone() + &rest
        }
    };
    let field = if kind.get("kind").and_then(Value::as_str) == Some("log_likelihood") { "context" } else { "prompt" };
    kind.insert(field.to_owned(), Value::String(text));
    kind.remove("v");
    let kind: RequestKind = serde_json::from_value(Value::Object(kind)).map_err(|e| e.to_string())?;
    let request = Request::new(kind);
    if request.id != id {
        return Err(format!("the id {id} is not the hash of the request, which is {}", request.id));
    }
    Ok(PlannedRequest { task, doc_id, group, reference, right, request, lost_tokens })
}

/// Everything of a request but its [`RequestKind::text`].
pub fn fields_but_text(kind: &RequestKind) -> Map<String, Value> {
    let field = match kind {
        RequestKind::Generate(_) | RequestKind::Chat(_) => "prompt",
        RequestKind::LogLikelihood(_) => "context",
    };
    let Ok(Value::Object(mut fields)) = serde_json::to_value(kind) else { unreachable!("a request is an object in JSON") };
    fields.shift_remove(field);
    fields
}

fn prefix_id(text: &str) -> String {
    Sha256::digest(text)[..6].iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Bos, Cleanup, Decode, EndTokens, Generate, LogLikelihood, Sampling, TokenRules};
    use proptest::{collection::vec, prelude::*};

    fn any_rules() -> impl Strategy<Value = TokenRules> {
        use prop::sample::select;
        (
            select(vec![Bos::Tokenizer, Bos::Never]),
            select(vec![EndTokens::Tokenizer, EndTokens::GenerationConfig]),
            select(vec![Decode::AfterPrompt, Decode::Alone]),
            select(vec![Cleanup::Off, Cleanup::On]),
        )
            .prop_map(|(bos, end, decode, cleanup)| TokenRules { bos, end, decode, cleanup, ..TokenRules::default() })
    }

    /// Prompts with and without long common beginnings.
    fn any_text() -> impl Strategy<Value = String> {
        let shots = prop::sample::select(vec![
            String::new(),
            "例題と解答。".repeat(30),
            format!("{}違う", "例題と解答。".repeat(25)),
            "x".repeat(200),
        ]);
        (shots, any::<String>()).prop_map(|(shots, rest)| shots + &rest)
    }

    fn any_kind() -> impl Strategy<Value = RequestKind> {
        let sampling = (0.0..2.0f64, any::<u32>(), 0.0..=1.0f64, 1.0..2.0f64, any::<u64>()).prop_map(
            |(temperature, top_k, top_p, repetition_penalty, seed)| Sampling { temperature, top_k, top_p, repetition_penalty, seed },
        );
        let strings = || vec(any::<String>(), 0..3);
        let generate = (any_text(), any::<u32>(), any::<u32>(), strings(), strings(), sampling, any_rules()).prop_map(
            |(prompt, sample, max_new_tokens, stop, enough, sampling, rules)| {
                RequestKind::Generate(Generate { prompt, sample, max_new_tokens, stop, enough, sampling, rules })
            },
        );
        let scored = (any_text(), strings(), any_rules())
            .prop_map(|(context, continuations, rules)| RequestKind::LogLikelihood(LogLikelihood { context, continuations, rules }));
        prop_oneof![generate, scored]
    }

    fn write_and_read(planned: &[PlannedRequest]) -> (String, Vec<PlannedRequest>) {
        let mut bytes = Vec::new();
        write(&mut bytes, planned).expect("memory");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("requests.jsonl");
        fs::write(&path, &bytes).expect("written");
        (String::from_utf8(bytes).expect("UTF-8"), read(&path).expect("reads"))
    }

    fn planned(task: &str, doc: usize, prompt: &str) -> PlannedRequest {
        let kind = RequestKind::Generate(Generate {
            prompt: prompt.to_owned(),
            sample: 0,
            max_new_tokens: 15,
            stop: vec!["\n\n".into()],
            enough: vec![],
            sampling: Sampling::GREEDY,
            rules: TokenRules::default(),
        });
        let (task, doc_id) = (task.to_owned(), format!("{doc:05}"));
        PlannedRequest {
            task,
            doc_id,
            group: "stem".into(),
            reference: vec!["正解".into()],
            right: None,
            request: Request::new(kind),
            lost_tokens: 0,
        }
    }

    proptest! {
        #[test]
        fn reading_gives_the_exact_requests(kinds in vec(any_kind(), 0..10), tasks in 1..3usize) {
            let named = |(i, kind): (usize, RequestKind)| PlannedRequest {
                task: format!("t{}", i % tasks),
                doc_id: i.to_string(),
                group: "g".repeat(i % 2),
                reference: vec![i.to_string(); i % 3],
                right: (i % 3).checked_sub(1),
                request: Request::new(kind),
                lost_tokens: i as u32 % 2,
            };
            let planned: Vec<PlannedRequest> = kinds.into_iter().enumerate().map(named).collect();
            prop_assert_eq!(write_and_read(&planned).1, planned);
        }
    }

    #[test]
    fn shots_are_stored_once_a_task() {
        // Both begin with the same instruction, long enough to be a prefix of its own.
        let shots = ["甲の例題。", "乙の例題。"].map(|shot| "指示。".repeat(20) + &shot.repeat(40));
        let all: Vec<PlannedRequest> = (0..40).map(|i| planned(["a", "b"][i / 20], i, &format!("{}質問{i}", shots[i / 20]))).collect();
        let (text, back) = write_and_read(&all);
        assert_eq!(back, all);
        for (line, shots) in [(0, &shots[0]), (21, &shots[1])] {
            let line = text.lines().nth(line).expect("42 lines");
            assert!(line.contains("\"text\":") && line.contains(shots.as_str()), "{line}");
        }
        assert_eq!((text.lines().count(), text.matches("甲の例題。甲").count()), (42, 20), "the shots stand in one line");
    }

    #[test]
    fn damage_is_named() {
        let shots = "例題。".repeat(40);
        let all = [planned("a", 0, &format!("{shots}甲")), planned("a", 1, &format!("{shots}乙"))];
        let (text, _) = write_and_read(&all);
        let without_prefix = text.split_once('\n').expect("lines").1.to_owned();
        for (damaged, expected) in [
            (without_prefix, ":1: no line before this one defines the prefix"),
            (text.replace("乙", "丙"), ":3: the id "),
            (text.replace("\"max_new_tokens\":15,", ""), ":2: missing field `max_new_tokens`"),
            (text.replace("\"v\":1", "\"v\":9"), ":1: format 9 is newer"),
        ] {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let path = dir.path().join("requests.jsonl");
            fs::write(&path, damaged).expect("written");
            let message = read(&path).expect_err(expected).to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
