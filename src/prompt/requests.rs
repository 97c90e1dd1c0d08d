//! Document and shots to requests.

use super::fit::{self, FitError};
use crate::engine::{Bos, Chat, Cleanup, Generate, LogLikelihood, ModelFacts, Request, RequestKind, Sampling, Template, TokenRules};
use crate::task::{
    Arrange, CleanupFrom, EosStop, PenaltyFrom, RequestKindName, RequestRule, Task, document::Document, judged::ChatRule, load::TaskError,
    template::TemplateName,
};
use crate::text::tokenizer::Special;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What the prompt template sees: the document's `input` and `subset`, and the `shots`, each with `input` and `output`.
#[derive(Serialize)]
struct Context<'d> {
    input: &'d str,
    subset: &'d str,
    shots: Vec<Shot<'d>>,
}

#[derive(Serialize)]
struct Shot<'d> {
    input: &'d str,
    output: &'d str,
}

/// Why a document has no request.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// A template fails.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The prompt cannot be fitted to the model.
    #[error(transparent)]
    Fit(#[from] FitError),
}

/// The prompt of one document, fitted to the model where the task says so.
///
/// # Errors
/// [`PromptError`].
pub fn prompt(task: &Task, document: &Document, shots: &[Document], facts: &ModelFacts) -> Result<String, PromptError> {
    let prompt = render(task, document, shots)?;
    match &task.file.arrange {
        Arrange::JpHarness { fit, .. } => Ok(fit::cut_sentences(prompt, document, fit, &task.file.request, facts)?),
        _ => Ok(prompt),
    }
}

/// The prompt template over one document and its shots.
///
/// # Errors
/// [`TaskError::Render`].
pub fn render(task: &Task, document: &Document, shots: &[Document]) -> Result<String, TaskError> {
    render_with(task, document, &document.input, shots)
}

/// The same with another question part.
fn render_with(task: &Task, document: &Document, input: &str, shots: &[Document]) -> Result<String, TaskError> {
    let shots = shots.iter().map(|s| Shot { input: &s.input, output: &s.output }).collect();
    task.render(TemplateName::Prompt, Context { input, subset: &document.subset, shots }, &format!("document {}", document.id))
}

/// Stop strings of a task for a model whose end token has this text.
pub fn stops(rule: &RequestRule, eos: Option<&str>) -> Vec<String> {
    let (first, last) = match rule.eos_stop {
        EosStop::No => (None, None),
        EosStop::First => (eos, None),
        EosStop::Last => (None, eos),
    };
    first.into_iter().chain(rule.stop.iter().map(String::as_str)).chain(last).map(str::to_owned).collect()
}

/// The requests of one document, in the order `answer` wants their responses.
///
/// # Errors
/// [`PromptError`].
pub fn requests(task: &Task, document: &Document, shots: &[Document], facts: &ModelFacts) -> Result<Vec<Request>, PromptError> {
    let rule = &task.file.request;
    let scored = |context: String, continuations: Vec<String>| {
        Request::new(RequestKind::LogLikelihood(LogLikelihood { context, continuations, rules: token_rules(rule, facts) }))
    };
    match rule.kind {
        RequestKindName::Generate => {
            let prompt = prompt(task, document, shots, facts)?;
            let also = (!rule.also.is_empty()).then(|| scored(prompt.clone(), rule.also.clone()));
            let first = generate(rule, prompt, facts)?;
            let sample = |sample: u32| {
                let sampling = Sampling { seed: first.sampling.seed + u64::from(sample), ..first.sampling.clone() };
                Request::new(RequestKind::Generate(Generate { sample, sampling, ..first.clone() }))
            };
            Ok((0..rule.samples).map(sample).chain(also).collect())
        }
        // Choices with the same question part are one request; where each choice has its own, each is a request.
        RequestKindName::Choose => document
            .choices
            .chunk_by(|a, b| a.input == b.input)
            .map(|choices| {
                let context = render_with(task, document, &choices[0].input, shots)?;
                Ok(scored(context, choices.iter().map(|choice| format!("{}{}", rule.delimiter, choice.output)).collect()))
            })
            .collect(),
        RequestKindName::Chat => {
            let chat = rule.chat.as_ref().expect("a task file with this kind has [request.chat], which its loader checks");
            Ok(conversations(chat, rule.max_new_tokens, document, prompt(task, document, shots, facts)?, facts))
        }
    }
}

/// A document's first generation.
fn generate(rule: &RequestRule, prompt: String, facts: &ModelFacts) -> Result<Generate, PromptError> {
    let eos = facts.tokenizer.as_ref().and_then(|t| t.special_token("eos_token"));
    let repetition_penalty = match rule.sampling.repetition_penalty_from {
        PenaltyFrom::Task => rule.sampling.repetition_penalty,
        PenaltyFrom::Model => facts.repetition_penalty.unwrap_or(Sampling::GREEDY.repetition_penalty),
    };
    Ok(Generate {
        sample: 0,
        max_new_tokens: max_new_tokens(rule, &prompt, facts)?,
        stop: stops(rule, eos),
        enough: rule.enough.clone(),
        sampling: Sampling {
            temperature: rule.sampling.temperature,
            top_k: rule.sampling.top_k,
            top_p: rule.sampling.top_p,
            repetition_penalty,
            seed: if rule.sampling.temperature > 0.0 { seed(&prompt) } else { 0 },
        },
        rules: token_rules(rule, facts),
        prompt,
    })
}

fn token_rules(rule: &RequestRule, facts: &ModelFacts) -> TokenRules {
    let cleanup = match (rule.cleanup_from, facts.tokenizer.as_ref().and_then(|tokenizer| tokenizer.cleanup_setting())) {
        (CleanupFrom::Task, _) => rule.cleanup,
        (CleanupFrom::Tokenizer, Some(false)) => Cleanup::Off,
        (CleanupFrom::Tokenizer, Some(true) | None) => Cleanup::On,
    };
    TokenRules { bos: rule.bos, end: rule.end, decode: rule.decode, cleanup, truncation: rule.truncation, ..TokenRules::default() }
}

/// Tokens an answer may have. Where the limit counts the prompt too, a prompt that fills it leaves one. Without the model's tokenizer, which
/// a run has before it asks, the prompt counts nothing.
fn max_new_tokens(rule: &RequestRule, prompt: &str, facts: &ModelFacts) -> Result<u32, PromptError> {
    let Some(limit) = rule.max_total_tokens else { return Ok(rule.max_new_tokens) };
    let Some(tokenizer) = &facts.tokenizer else { return Ok(limit) };
    let special = if rule.bos == Bos::Never { Special::None } else { Special::Add };
    let prompt = tokenizer.encode(prompt, special).map_err(FitError::from)?.len();
    Ok(limit.saturating_sub(u32::try_from(prompt).unwrap_or(u32::MAX)).max(1))
}

/// Seed of a prompt's first sample: of its own, so that an answer depends neither on the order of requests nor on what else is asked. Small
/// enough for every server.
fn seed(prompt: &str) -> u64 {
    let digest = Sha256::digest(prompt);
    u64::from(u32::from_le_bytes([digest[0], digest[1], digest[2], 0]))
}

/// `gen_model_answer.py:92-96`: of a category without a temperature.
const DEFAULT_TEMPERATURE: f64 = 0.7;
/// `gen_model_answer.py:118-121`: temperatures below this are greedy.
const GREEDY_BELOW: f64 = 1e-4;
/// `GenerationConfig` of transformers has this top-k where generation_config.json has none.
const TRANSFORMERS_TOP_K: u32 = 50;

/// The conversations of one document, one a choice. Settings that the protocol leaves to the model are the model's own.
///
/// `torch.manual_seed(i)` before choice `i` (`gen_model_answer.py:106`) does not reach a greedy one: those are equal, one request, asked once.
fn conversations(rule: &ChatRule, max_new_tokens: u32, document: &Document, prompt: String, facts: &ModelFacts) -> Vec<Request> {
    let turns: Vec<&str> =
        document.fields.get(&rule.turns).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let temperature = rule.temperature.get(&document.group).copied().unwrap_or(DEFAULT_TEMPERATURE);
    let greedy = temperature < GREEDY_BELOW;
    let conversation = |choice: u32| {
        let choice = if greedy { 0 } else { choice };
        Request::new(RequestKind::Chat(Chat {
            prompt: prompt.clone(),
            follow_ups: turns.iter().skip(1).map(|turn| (*turn).to_owned()).collect(),
            sample: choice,
            max_new_tokens,
            template: facts.template.clone().unwrap_or(Template::Model),
            sampling: Sampling {
                temperature: if greedy { 0.0 } else { temperature },
                top_k: facts.top_k.unwrap_or(TRANSFORMERS_TOP_K),
                top_p: facts.top_p.unwrap_or(1.0),
                repetition_penalty: facts.repetition_penalty.unwrap_or(1.0),
                seed: choice.into(),
            },
        }))
    };
    (0..rule.choices).map(conversation).collect()
}

/// SHA-256 over texts in order, joined by a zero byte; hexadecimal. The digest rule of the goldens recorded from the JP harness.
pub fn digest_joined<'t>(texts: impl IntoIterator<Item = &'t str>) -> String {
    let mut hash = Sha256::new();
    for (position, text) in texts.into_iter().enumerate() {
        if position > 0 {
            hash.update([0]);
        }
        hash.update(text.as_bytes());
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
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
        let document =
            |input: &str, output: &str| Document { id: "00000".into(), input: input.into(), output: output.into(), ..Document::default() };
        let shots = [document("質問：一？\n\nあ", "はい"), document("質問：二？", "NO")];
        let got = render(task, &document("質問：{{ 三 }}？", ""), &shots).expect("renders");
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
