//! `/v1/completions` on the wire: a [`Generate`] becomes a body, a body becomes [`Generated`]. Pure functions; no connection, no retry.

use super::capabilities::{Capabilities, ServerKind, SpecialTokens};
use super::stops;
use crate::engine::{Bos, Finish, Generate, Generated, Note, Sampling};
use crate::text::stop::cut_at_stop;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Seeds are sent modulo this: llama.cpp's are 32 bits wide with all ones meaning "random", vLLM's are signed.
const SEED_MODULUS: u64 = 1 << 31;

/// The seed as servers get it.
pub(super) fn wire_seed(seed: u64) -> u64 {
    seed % SEED_MODULUS
}

/// Name of the repetition penalty, where the server has one.
pub(super) fn penalty_field(kind: ServerKind) -> Option<&'static str> {
    match kind {
        ServerKind::LlamaServer | ServerKind::LlamaCppPython => Some("repeat_penalty"),
        ServerKind::OpenAi | ServerKind::TransformersServe | ServerKind::Tgi => None,
        ServerKind::Vllm | ServerKind::Sglang | ServerKind::TensorrtLlm | ServerKind::Other => Some("repetition_penalty"),
    }
}

/// Every sampling field of that kind of server, spelled out: what a request leaves out, a server fills with defaults of its own
/// (vLLM: the model's generation_config.json, even at temperature 0; llama-server: top_k 40, min_p 0.05).
pub(super) fn sampling_fields(kind: ServerKind, sampling: &Sampling) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("temperature".into(), json!(sampling.temperature));
    fields.insert("top_p".into(), json!(sampling.top_p));
    if !matches!(kind, ServerKind::OpenAi | ServerKind::TransformersServe | ServerKind::Tgi) {
        // SGLang refuses 0 and writes "all" as -1.
        let all = if kind == ServerKind::Sglang { json!(-1) } else { json!(0) };
        fields.insert("top_k".into(), if sampling.top_k == 0 { all } else { json!(sampling.top_k) });
        fields.insert("min_p".into(), json!(0.0));
    }
    if let Some(name) = penalty_field(kind) {
        fields.insert(name.into(), json!(sampling.repetition_penalty));
    }
    if !matches!(kind, ServerKind::TransformersServe | ServerKind::Tgi) {
        fields.insert("presence_penalty".into(), json!(0.0));
        fields.insert("frequency_penalty".into(), json!(0.0));
    }
    // A seed beside temperature 0 has no meaning, and some servers refuse what has none.
    if sampling.temperature > 0.0 {
        fields.insert("seed".into(), json!(wire_seed(sampling.seed)));
    }
    fields
}

/// Stop strings of a request as they are sent to that server.
pub(super) fn stops_to_send<'r>(request: &'r Generate, capabilities: &Capabilities) -> Vec<&'r str> {
    stops::to_send(request.stop.iter().chain(&request.enough).map(String::as_str), capabilities.max_stops)
}

/// The body that asks for `n` samples of `request`.
pub(super) fn body(model: &str, request: &Generate, n: u32, capabilities: &Capabilities) -> Value {
    let mut body = Map::new();
    body.insert("model".into(), json!(model));
    body.insert("prompt".into(), json!(request.prompt));
    // vLLM refuses more than the model's length; what is missing at the end is noted as cut.
    let limit = capabilities.max_model_len.unwrap_or(u32::MAX);
    body.insert("max_tokens".into(), json!(request.max_new_tokens.min(limit)));
    let fields = sampling_fields(capabilities.kind, &request.sampling);
    body.extend(fields.into_iter().filter(|(name, _)| !capabilities.refused_fields.contains(name)));
    let stops = stops_to_send(request, capabilities);
    if !stops.is_empty() {
        body.insert("stop".into(), json!(stops));
    }
    if n > 1 {
        body.insert("n".into(), json!(n));
    }
    if request.rules.bos == Bos::Never && capabilities.special_tokens == SpecialTokens::Optional {
        body.insert("add_special_tokens".into(), json!(false));
    }
    Value::Object(body)
}

/// A completion as the server wrote it.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    /// In the order of their `index`.
    pub(super) choices: Vec<Choice>,
    pub(super) usage: Usage,
}

/// One choice.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Choice {
    pub(super) text: String,
    pub(super) finish_reason: Option<String>,
    /// What ended it, where the server says (vLLM `stop_reason`, SGLang `matched_stop`): a string, or a token id.
    pub(super) matched: Option<Value>,
}

/// Token counts. Absent where the server does not count.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Usage {
    pub(super) prompt_tokens: Option<u32>,
    pub(super) completion_tokens: Option<u32>,
    pub(super) prompt_tokens_details: Option<PromptDetails>,
}

/// Part of [`Usage`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct PromptDetails {
    pub(super) cached_tokens: Option<u32>,
}

impl Usage {
    /// Prompt tokens that the server did not compute again.
    pub(super) fn cached(&self) -> u32 {
        self.prompt_tokens_details.as_ref().and_then(|d| d.cached_tokens).unwrap_or(0)
    }
}

#[derive(Deserialize)]
struct RawAnswer {
    choices: Option<Vec<RawChoice>>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct RawChoice {
    index: Option<usize>,
    text: Option<String>,
    finish_reason: Option<String>,
    stop_reason: Option<Value>,
    matched_stop: Option<Value>,
}

/// Reads an answer of status 200. Choices are put in the order of their `index` and may be fewer than asked for.
///
/// # Errors
/// What is wrong with it, quoting the body where that helps.
pub(super) fn parse(body: &[u8]) -> Result<Answer, String> {
    // More of it would not be shown.
    let start = String::from_utf8_lossy(&body[..body.len().min(1000)]);
    let unreadable = |e| if start.trim().is_empty() { "an empty body".to_owned() } else { format!("{e} in `{start}`") };
    let raw: RawAnswer = serde_json::from_slice(body).map_err(unreadable)?;
    let mut choices = raw.choices.filter(|c| !c.is_empty()).ok_or_else(|| format!("no choices in `{start}`"))?;
    for (position, choice) in choices.iter_mut().enumerate() {
        choice.index.get_or_insert(position);
    }
    choices.sort_by_key(|c| c.index);
    if let Some(at) = choices.iter().enumerate().position(|(position, c)| c.index != Some(position)) {
        return Err(format!("the indices of {} choices are not 0 to {}: the one at {at} is wrong", choices.len(), choices.len() - 1));
    }
    let choices = choices.into_iter().map(|c| match c.text {
        None => Err("a choice without text".to_owned()),
        Some(_) if matches!(c.finish_reason.as_deref(), Some("abort" | "error")) => {
            Err(format!("finish_reason `{}`", c.finish_reason.unwrap_or_default()))
        }
        Some(text) => Ok(Choice { text, finish_reason: c.finish_reason, matched: c.stop_reason.or(c.matched_stop) }),
    });
    Ok(Answer { choices: choices.collect::<Result<_, _>>()?, usage: raw.usage.unwrap_or_default() })
}

/// The answer to `request`: stop strings cut, counts and notes added. `usage` belongs to this choice alone.
pub(super) fn generated(choice: Choice, usage: &Usage, request: &Generate, capabilities: &Capabilities) -> Generated {
    let all: Vec<&str> = request.stop.iter().chain(&request.enough).map(String::as_str).collect();
    let (text, cut) = cut_at_stop(&choice.text, &all);
    let sent_any = !stops_to_send(request, capabilities).is_empty();
    let finish = match choice.finish_reason.as_deref() {
        Some("content_filter") => Finish::ContentFilter,
        _ if cut => Finish::Stop,
        Some("length") => Finish::Length,
        Some("eos_token") => Finish::EndToken,
        Some("stop_sequence") => Finish::Stop,
        Some(_) => match choice.matched {
            Some(Value::String(_)) => Finish::Stop,
            Some(_) => Finish::EndToken,
            // vLLM names what it stopped at, unless that is the end token. Others do not say: either may be true.
            None if capabilities.kind != ServerKind::Vllm && sent_any => Finish::Stop,
            None => Finish::EndToken,
        },
        None if usage.completion_tokens.is_some_and(|n| n >= request.max_new_tokens) => Finish::Length,
        None => Finish::EndToken,
    };
    let too_few = usage.completion_tokens.is_some_and(|n| n < request.max_new_tokens);
    let no_room =
        usage.prompt_tokens.zip(capabilities.max_model_len).is_some_and(|(p, len)| p.saturating_add(request.max_new_tokens) > len);
    let notes = if finish == Finish::Length && (too_few || no_room) { vec![Note::CutByServer] } else { Vec::new() };
    let (prompt_tokens, new_tokens) = (usage.prompt_tokens, usage.completion_tokens);
    Generated { text: text.to_owned(), token_ids: None, finish, prompt_tokens, new_tokens, notes }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::capabilities::*;
    use super::*;
    use crate::engine::TokenRules;

    pub(in super::super) fn capabilities(kind: ServerKind) -> Capabilities {
        Capabilities {
            kind,
            version: None,
            model_name: ModelName::Checked,
            max_model_len: Some(512),
            refused_fields: vec![],
            top_p: Effect::Seen,
            top_k: Effect::Seen,
            repetition_penalty: Effect::Seen,
            sampling_defaults: Defaults::NoneSeen,
            max_stops: 4,
            stop_text: StopText::Trimmed,
            seeds: Effect::Seen,
            choices: Choices::SeedPlusIndex,
            max_choices: 8,
            greedy: Repeatable::Yes,
            special_tokens: SpecialTokens::Optional,
            prompt_ids: PromptIds::Unproven,
            scoring: Scoring::None,
            scoring_missing: None,
        }
    }

    pub(in super::super) fn request(stop: &[&str], enough: &[&str]) -> Generate {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        let rules = TokenRules::default();
        let (prompt, sampling) = ("Q".to_owned(), Sampling::GREEDY);
        Generate { prompt, sample: 0, max_new_tokens: 8, stop: owned(stop), enough: owned(enough), sampling, rules }
    }

    #[test]
    fn neutral_sampling_is_spelled_out_for_each_kind() {
        for (kind, expected) in [
            (
                ServerKind::Vllm,
                json!({"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}),
            ),
            (
                ServerKind::LlamaServer,
                json!({"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}),
            ),
            (
                ServerKind::Sglang,
                json!({"temperature": 0.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}),
            ),
            (ServerKind::TransformersServe, json!({"temperature": 0.0, "top_p": 1.0})),
            (ServerKind::OpenAi, json!({"temperature": 0.0, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0})),
        ] {
            assert_eq!(Value::Object(sampling_fields(kind, &Sampling::GREEDY)), expected, "{kind:?}");
        }
    }

    #[test]
    fn bodies_hold_what_the_server_can_take() {
        let mut request = request(&["a", "b", "c"], &["d", "e"]);
        request.rules.bos = Bos::Never;
        request.max_new_tokens = 1000;
        request.sampling = Sampling { temperature: 0.5, seed: u64::MAX, top_k: 7, ..Sampling::GREEDY };
        let mut capabilities = capabilities(ServerKind::Vllm);
        capabilities.refused_fields = vec!["min_p".into()];
        let sent = body("m", &request, 3, &capabilities);
        let expected = json!({"model": "m", "prompt": "Q", "max_tokens": 512, "temperature": 0.5, "top_p": 1.0, "top_k": 7,
            "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": 2_147_483_647u32,
            "stop": ["a", "b", "c", "d"], "n": 3, "add_special_tokens": false});
        assert_eq!(sent, expected);
        capabilities.max_stops = 0;
        request.rules.bos = Bos::Tokenizer;
        let sent = body("m", &request, 1, &capabilities);
        assert!(["stop", "n", "add_special_tokens"].iter().all(|f| sent.get(f).is_none()), "{sent}");
    }

    #[test]
    fn choices_are_ordered_and_bad_answers_named() {
        let answer = parse(br#"{"choices":[{"index":1,"text":"b"},{"index":0,"text":"a","finish_reason":"stop"}]}"#).unwrap();
        assert_eq!(answer.choices.iter().map(|c| c.text.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(answer.usage, Usage::default());
        for (body, message) in [
            ("", "an empty body"),
            ("<html>502</html>", "in `<html>502</html>`"),
            (r#"{"choices":[{"te"#, "EOF"),
            (r#"{"choices":[]}"#, "no choices"),
            (r#"{"object":"error"}"#, "no choices"),
            (r#"{"choices":null}"#, "no choices"),
            (r#"{"choices":[{"text":null}]}"#, "without text"),
            (r#"{"choices":[{"text":5}]}"#, "invalid type"),
            (r#"{"choices":[{"text":"a","finish_reason":"abort"}]}"#, "`abort`"),
            (r#"{"choices":[{"index":0,"text":"a"},{"index":0,"text":"a"}]}"#, "not 0 to 1"),
            (r#"{"choices":[{"index":4,"text":"a"}]}"#, "not 0 to 0"),
        ] {
            let error = parse(body.as_bytes()).unwrap_err();
            assert!(error.contains(message), "{body}: {error}");
        }
    }

    #[test]
    fn the_full_list_cuts_and_the_end_is_named() {
        use Finish::{ContentFilter, EndToken, Length, Stop};
        let (vllm, llama) = (ServerKind::Vllm, ServerKind::LlamaServer);
        // max_new_tokens is 8, the model's length 512.
        for (kind, text, reason, matched, counts, expected) in [
            (vllm, "a5b", "length", Value::Null, (9, 8), ("a", Stop, &[][..])),
            (vllm, "axb", "length", Value::Null, (9, 8), ("axb", Length, &[])),
            (vllm, "axb", "length", Value::Null, (509, 3), ("axb", Length, &[Note::CutByServer])),
            (vllm, "axb", "length", Value::Null, (505, 8), ("axb", Length, &[Note::CutByServer])),
            (vllm, "a", "stop", json!("1"), (9, 2), ("a", Stop, &[])),
            (vllm, "a", "stop", json!(901), (9, 2), ("a", EndToken, &[])),
            (vllm, "a", "stop", Value::Null, (9, 2), ("a", EndToken, &[])),
            (llama, "a", "stop", Value::Null, (9, 2), ("a", Stop, &[])),
            (llama, "ax1rest", "stop", Value::Null, (9, 2), ("ax", Stop, &[])),
            (llama, "a", "eos_token", Value::Null, (9, 2), ("a", EndToken, &[])),
            (llama, "a6", "content_filter", Value::Null, (9, 2), ("a", ContentFilter, &[])),
        ] {
            let choice = Choice { text: text.into(), finish_reason: Some(reason.into()), matched: Some(matched).filter(|m| !m.is_null()) };
            let usage = Usage { prompt_tokens: Some(counts.0), completion_tokens: Some(counts.1), prompt_tokens_details: None };
            let got = generated(choice, &usage, &request(&["1", "2", "3", "4", "5"], &["6"]), &capabilities(kind));
            assert_eq!((got.text.as_str(), got.finish, &got.notes[..]), expected, "{kind:?} {text} {reason}");
            assert_eq!((got.prompt_tokens, got.new_tokens), (Some(counts.0), Some(counts.1)));
        }
    }
}
