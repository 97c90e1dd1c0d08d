//! Document and shots to requests.

use crate::engine::{Generate, Request, RequestKind, Sampling, TokenRules};
use crate::task::{RequestKindName, Task, TemplateName, document::Document, load::TaskError};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// What the prompt template sees: the document's `input` and the `shots`, each with `input` and `output`.
#[derive(Serialize)]
struct Context<'d> {
    input: &'d str,
    shots: Vec<Shot<'d>>,
}

#[derive(Serialize)]
struct Shot<'d> {
    input: &'d str,
    output: &'d str,
}

/// The prompt of one document.
///
/// # Errors
/// [`TaskError::Render`].
pub fn prompt(task: &Task, document: &Document, shots: &[Document]) -> Result<String, TaskError> {
    let shots = shots.iter().map(|s| Shot { input: &s.input, output: &s.output }).collect();
    task.render(TemplateName::Prompt, Context { input: &document.input, shots }, &format!("document {}", document.id))
}

/// The requests of one document, in the order `answer` wants their responses.
///
/// # Errors
/// [`TaskError::Render`].
pub fn requests(task: &Task, document: &Document, shots: &[Document]) -> Result<Vec<Request>, TaskError> {
    let rule = &task.file.request;
    let prompt = prompt(task, document, shots)?;
    match rule.kind {
        RequestKindName::Generate => Ok(vec![Request::new(RequestKind::Generate(Generate {
            prompt,
            sample: 0,
            max_new_tokens: rule.max_new_tokens,
            stop: rule.stop.clone(),
            enough: rule.enough.clone(),
            sampling: Sampling {
                temperature: rule.sampling.temperature,
                top_k: rule.sampling.top_k,
                top_p: rule.sampling.top_p,
                repetition_penalty: rule.sampling.repetition_penalty,
                seed: 0,
            },
            rules: TokenRules { bos: rule.bos, end: rule.end, decode: rule.decode, cleanup: rule.cleanup },
        }))]),
    }
}

/// SHA-256 over texts in order, each preceded by its length in bytes as 8 little-endian bytes; hexadecimal. The digest rule of
/// the recorded goldens (`summary.json: full_test_set`).
pub fn digest<'t>(texts: impl IntoIterator<Item = &'t str>) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::load;

    #[test]
    fn the_frame_is_byte_exact() {
        let tasks = load::embedded().expect("valid");
        let task = load::find(&tasks, "jemhopqa").expect("known");
        let document = |input: &str, output: &str| Document {
            id: "00000".into(),
            row: 0,
            fields: Default::default(),
            input: input.into(),
            output: output.into(),
            subset: String::new(),
            group: String::new(),
        };
        let shots = [document("質問：一？\n\nあ", "はい"), document("質問：二？", "NO")];
        let got = prompt(task, &document("質問：{{ 三 }}？", ""), &shots).expect("renders");
        let head = "以下は、タスクを説明する指示と、文脈のある入力の組み合わせです。要求を適切に満たす応答を書きなさい。\n\n### 指示:\n";
        let rest = "\n\n### 入力:\n質問：一？\n\nあ\n\n### 応答:\nはい\n\n### 入力:\n質問：二？\n\n### 応答:\nNO\n\n### 入力:\n質問：{{ 三 }}？\n\n### 応答:\n";
        assert!(got.starts_with(head) && got.ends_with(rest), "{got}");
        assert_eq!(got.matches("指示").count(), 2);
    }

    #[test]
    fn digest_separates_texts() {
        assert_ne!(digest(["ab", "c"]), digest(["a", "bc"]));
        assert_eq!(digest([]), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
