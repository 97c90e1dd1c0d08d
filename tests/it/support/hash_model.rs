//! A "language model" over token ids whose log-probabilities are a hash of everything before, and a server that tells them in the ways
//! real servers do, or lies about them.

use super::faults::{Act, Asked};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use swallow_eval::engine::demo;
use swallow_eval::text::tokenizer::{Special, Specials, Tokenizer};

/// The model.
pub(crate) struct HashModel {
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// Text of each token.
    texts: Vec<String>,
    /// Whether no other token has its text, so that a server's words name it.
    plain: Vec<bool>,
}

impl HashModel {
    /// With the tokenizer of the demo model.
    pub(crate) fn new() -> Self {
        let file = |name| demo::FILES.into_iter().find(|(n, _)| *n == name).unwrap().1;
        let special = demo::FILES.into_iter().find(|(n, _)| *n == "special_tokens_map.json").map(|(_, bytes)| bytes);
        let tokenizer = Tokenizer::from_bytes(file("tokenizer.json"), Some(file("tokenizer_config.json")), special).unwrap();
        let texts: Vec<String> = (0..tokenizer.vocabulary()).map(|id| tokenizer.decode(&[id as u32], Specials::Keep)).collect();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        texts.iter().for_each(|t| *counts.entry(t).or_default() += 1);
        let plain = texts.iter().map(|t| counts[t.as_str()] == 1 && !t.contains('\u{fffd}') && !t.starts_with("<|")).collect();
        HashModel { tokenizer: Arc::new(tokenizer), texts, plain }
    }

    /// Log-probability of every token after `prefix`.
    pub(crate) fn next(&self, prefix: &[u32]) -> Vec<f64> {
        let mix = |h: u64, v: u64| (h ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        let state = prefix.iter().fold(0x1234_5678, |h, id| mix(h, u64::from(*id) + 1));
        let logit = |(id, plain): (usize, &bool)| {
            let noise = mix(mix(state, id as u64), 7) >> 40;
            noise as f64 / f64::from(1 << 24) * 9.0 - if *plain { 0.0 } else { 20.0 }
        };
        let logits: Vec<f64> = self.plain.iter().enumerate().map(logit).collect();
        let total = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
        logits.into_iter().map(|l| l - total).collect()
    }

    /// Log-probability of the token at each position, none for the first, and whether it is the best one.
    pub(crate) fn score(&self, ids: &[u32]) -> Vec<Option<(f64, bool)>> {
        let of = |at: usize| {
            let next = self.next(&ids[..at]);
            let own = next[ids[at] as usize];
            Some((own, next.iter().all(|v| *v <= own)))
        };
        (0..ids.len()).map(|at| if at == 0 { None } else { of(at) }).collect()
    }

    fn best(&self, prefix: &[u32]) -> (u32, f64) {
        let next = self.next(prefix);
        let best = next.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
        (best.0 as u32, *best.1)
    }
}

/// How a server tells log-probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Voice {
    PromptLogprobs,
    Echo,
    Sglang,
    /// llama-server: the next token's most probable ones, with ids.
    TopById,
    /// OpenAI: five of them, by text.
    TopByText,
}

/// What is wrong with them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Lie {
    No,
    /// Only the new token's, with status 200.
    IgnoresEcho,
    /// Every value is 0.
    Zeros,
    /// Every value stands one position late.
    Late,
    /// Every value stands one position early.
    Early,
    /// A BOS is put before token ids, and not counted.
    SilentBos,
    /// A BOS is put before token ids, and counted.
    CountedBos,
    /// So many decimals.
    Rounds(i32),
    /// Other tokens than those sent.
    OtherTokens,
}

/// What the server answers to a request about tokens; `None` leaves it to the scripted model.
pub(crate) fn answer(model: &HashModel, voice: Voice, lie: Lie, asked: &Asked) -> Option<Act> {
    let body = &asked.body;
    let sglang = asked.path.ends_with("/generate");
    if sglang != (voice == Voice::Sglang && sglang) || (!sglang && body["model"] != "scripted") {
        return sglang.then(|| Act::Say(404, "", r#"{"detail":"Not Found"}"#.into()));
    }
    let one = body["max_tokens"] == 1 && body["temperature"].as_f64() == Some(0.0) && body.get("stop").is_none();
    let prompt = if sglang { body.get("input_ids").or(body.get("text"))? } else { &body["prompt"] };
    let ids: Vec<u32> = match prompt {
        Value::Array(ids) => ids.iter().map(|id| id.as_u64().unwrap() as u32).collect(),
        Value::String(text) if one || sglang => {
            let special = if body.get("add_special_tokens") == Some(&json!(false)) { Special::None } else { Special::Add };
            model.tokenizer.encode(text, special).unwrap()
        }
        _ => return None,
    };
    let adds = prompt.is_array() && matches!(lie, Lie::SilentBos | Lie::CountedBos);
    let seen = if adds { [&[model.tokenizer.bos_id().unwrap()], &ids[..]].concat() } else { ids.clone() };
    let counted = ids.len() + usize::from(adds && lie == Lie::CountedBos);
    let told = Told { model, lie, seen: &seen, counted };
    Some(Act::Say(200, "", told.body(voice, body).to_string()))
}

/// One answer.
struct Told<'t> {
    model: &'t HashModel,
    lie: Lie,
    /// What the model read.
    seen: &'t [u32],
    /// What the server says it read.
    counted: usize,
}

impl Told<'_> {
    fn body(&self, voice: Voice, asked: &Value) -> Value {
        let has = |field: &str| asked.get(field).is_some_and(|v| *v != json!(false));
        let (best, value) = self.model.best(self.seen);
        let usage = json!({"prompt_tokens": self.counted, "completion_tokens": 1});
        let choice = |more: Value| {
            let mut choice = json!({"index": 0, "text": self.model.texts[best as usize], "finish_reason": "length", "logprobs": null});
            choice.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"choices": [choice], "usage": usage})
        };
        let tells = self.lie != Lie::IgnoresEcho;
        match voice {
            Voice::Sglang if asked.get("sampling_params").is_some() => self.sglang(asked),
            Voice::PromptLogprobs if has("prompt_logprobs") && tells => choice(json!({"prompt_logprobs": self.prompt_logprobs()})),
            Voice::Echo if has("echo") && tells => choice(json!({"logprobs": self.echo()})),
            Voice::TopById if has("logprobs") => {
                choice(json!({"logprobs": {"content": [self.content(asked["logprobs"].as_u64().unwrap() as usize)]}}))
            }
            Voice::TopByText if asked["logprobs"].as_u64() > Some(5) => json!({"error": {"message": "logprobs must be at most 5"}}),
            _ if has("logprobs") => {
                let top: BTreeMap<_, _> = self.tops(if voice == Voice::TopByText { 5 } else { 1 }).into_iter().collect();
                let top: BTreeMap<_, _> = top.iter().map(|(id, v)| (&self.model.texts[*id as usize], v)).collect();
                let text = &self.model.texts[best as usize];
                choice(json!({"logprobs": {"tokens": [text], "token_logprobs": [self.round(value)], "top_logprobs": [top]}}))
            }
            _ => choice(json!({})),
        }
    }

    fn round(&self, value: f64) -> f64 {
        match self.lie {
            Lie::Rounds(decimals) => (value * 10f64.powi(decimals)).round() / 10f64.powi(decimals),
            _ => value,
        }
    }

    /// The values as told: as many as there are tokens that are counted.
    fn values(&self) -> Vec<Option<(f64, bool)>> {
        let mut values = self.model.score(self.seen);
        values.drain(..values.len() - self.counted);
        values[0] = None;
        match self.lie {
            Lie::Zeros => values.iter_mut().skip(1).for_each(|v| *v = Some((0.0, true))),
            Lie::Late => values[1..].rotate_right(1),
            Lie::Early => values[1..].rotate_left(1),
            _ => {}
        }
        values.into_iter().map(|v| v.map(|(value, best)| (self.round(value), best))).collect()
    }

    /// The tokens as told.
    fn ids(&self) -> Vec<u32> {
        let ids = &self.seen[self.seen.len() - self.counted..];
        ids.iter().map(|id| if self.lie == Lie::OtherTokens { id ^ 1 } else { *id }).collect()
    }

    fn prompt_logprobs(&self) -> Value {
        let one = |(id, value): (u32, Option<(f64, bool)>)| {
            value.map(|(v, best)| json!({id.to_string(): {"logprob": v, "rank": if best { 1 } else { 2 }, "decoded_token": "?"}}))
        };
        self.ids().into_iter().zip(self.values()).map(one).collect()
    }

    fn echo(&self) -> Value {
        let (best, value) = self.model.best(self.seen);
        let (mut tokens, mut values, mut tops) = (vec![], vec![], vec![]);
        for (id, told) in self.ids().into_iter().zip(self.values()).chain([(best, Some((self.round(value), true)))]) {
            tokens.push(json!(self.model.texts[id as usize]));
            values.push(told.map(|(v, _)| v));
            let better = told.filter(|(_, best)| !best).map(|(v, _)| json!({"better": v / 2.0, "own": v}));
            tops.push(told.map(|(v, _)| better.unwrap_or_else(|| json!({"own": v}))));
        }
        json!({"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": []})
    }

    fn sglang(&self, asked: &Value) -> Value {
        let (best, value) = self.model.best(self.seen);
        let mut about = json!({"prompt_tokens": self.counted, "completion_tokens": 1,
            "output_token_logprobs": [[self.round(value), best, null]]});
        if let (Some(start), true) = (asked.get("logprob_start_len").and_then(Value::as_u64), self.lie != Lie::IgnoresEcho) {
            let start = start as usize;
            let (ids, values) = (self.ids(), self.values());
            let rows = (start..ids.len()).map(|i| (ids[i], values[i].filter(|_| i > start)));
            about["input_token_logprobs"] = rows.clone().map(|(id, v)| json!([v.map(|(v, _)| v), id, null])).collect();
            let top = |(id, v): (u32, Option<(f64, bool)>)| v.map(|(v, best)| json!([[v, if best { id } else { id ^ 1 }, null]]));
            about["input_top_logprobs"] = rows.map(top).collect();
        }
        json!({"text": "?", "output_ids": [best], "meta_info": about})
    }

    fn tops(&self, most: usize) -> Vec<(u32, f64)> {
        let mut all: Vec<(u32, f64)> = self.model.next(self.seen).into_iter().enumerate().map(|(id, v)| (id as u32, v)).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all.truncate(most);
        all.into_iter().map(|(id, v)| (id, self.round(v))).collect()
    }

    fn content(&self, most: usize) -> Value {
        let tops = self.tops(most);
        let entry = |(id, v): &(u32, f64)| json!({"id": id, "token": self.model.texts[*id as usize], "logprob": v});
        let mut first = entry(&tops[0]);
        first["top_logprobs"] = tops.iter().map(entry).collect();
        first
    }
}
