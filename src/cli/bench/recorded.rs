//! Recorded requests of the original harnesses, as `requests.jsonl` of the goldens has them, made into requests to an engine.
//!
//! A row is `{"doc_id", "request", "extra_requests"}`; other keys of a row are the harness's own. A request says everything that is asked, so
//! a key of it that is not known here is refused. The end token is the model's own: the texts under `stop_with_eos` and `stop_also` are that
//! of the recorded model.

use crate::engine::{Generate, LogLikelihood, Request, RequestKind, Sampling, TokenRules};
use serde::Deserialize;
use serde_json::Value;

/// One row of the input.
#[derive(Deserialize)]
pub(super) struct Row {
    #[serde(alias = "id")]
    doc_id: Option<Value>,
    request: Asked,
    #[serde(default)]
    extra_requests: Vec<Asked>,
}

impl Row {
    /// What it is called; its line where it has no name.
    pub(super) fn id(&self, line: usize) -> Value {
        self.doc_id.clone().unwrap_or_else(|| line.into())
    }

    /// Its requests, the main one first.
    pub(super) fn requests(&self) -> impl Iterator<Item = &Asked> {
        std::iter::once(&self.request).chain(&self.extra_requests)
    }
}

/// One recorded request.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Asked {
    Generate(Box<Generation>),
    #[serde(alias = "loglikelihood")]
    LogLikelihood(Scoring),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Generation {
    prompt: String,
    #[serde(default)]
    stop: Vec<String>,
    #[serde(rename = "stop_with_eos")]
    _stop_with_eos: Option<Vec<String>>,
    #[serde(rename = "stop_also")]
    _stop_also: Option<String>,
    max_new_tokens: Option<u32>,
    /// Prompt and answer together.
    max_total_tokens: Option<u32>,
    #[serde(default)]
    temperature: f64,
    /// Implied by the temperature; looked at only to see that it agrees.
    do_sample: Option<bool>,
    #[serde(default)]
    top_k: u32,
    #[serde(default = "one")]
    top_p: f64,
    #[serde(default = "one")]
    repetition_penalty: f64,
    #[serde(default)]
    seed: u64,
    n: Option<u32>,
    #[serde(default)]
    rules: TokenRules,
}

fn one() -> f64 {
    1.0
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scoring {
    /// The context of every continuation; `null` where each has its own.
    prompt: Option<String>,
    prompts: Option<Vec<String>>,
    continuations: Vec<String>,
    #[serde(default)]
    rules: TokenRules,
}

/// How many tokens a text has as a prompt; `None` where the engine does not say.
pub(super) type CountTokens<'c> = &'c dyn Fn(&str) -> Option<u32>;

impl Asked {
    /// The engine's requests: one a sample, or one a context.
    ///
    /// # Errors
    /// What makes no sense, as the end of a sentence that begins with the line.
    pub(super) fn requests(&self, count: CountTokens<'_>) -> Result<Vec<Request>, String> {
        match self {
            Asked::Generate(generation) => generation.requests(count),
            Asked::LogLikelihood(scoring) => scoring.requests(),
        }
    }
}

impl Generation {
    fn requests(&self, count: CountTokens<'_>) -> Result<Vec<Request>, String> {
        if self.do_sample.is_some_and(|sample| sample != (self.temperature != 0.0)) {
            return Err(format!("says do_sample {} at temperature {}", !(self.temperature != 0.0), self.temperature));
        }
        let max_new_tokens = match (self.max_new_tokens, self.max_total_tokens) {
            (Some(new), None) => new,
            (None, Some(total)) => {
                let prompt = count(&self.prompt).ok_or("has max_total_tokens, and the engine does not count tokens")?;
                total.saturating_sub(prompt)
            }
            _ => return Err("must have max_new_tokens or max_total_tokens".to_owned()),
        };
        let one = |sample| {
            Request::new(RequestKind::Generate(Generate {
                prompt: self.prompt.clone(),
                sample,
                max_new_tokens,
                stop: self.stop.clone(),
                enough: Vec::new(),
                sampling: Sampling {
                    temperature: self.temperature,
                    top_k: self.top_k,
                    top_p: self.top_p,
                    repetition_penalty: self.repetition_penalty,
                    seed: self.seed,
                },
                rules: self.rules.clone(),
            }))
        };
        Ok((0..self.n.unwrap_or(1)).map(one).collect())
    }
}

impl Scoring {
    fn requests(&self) -> Result<Vec<Request>, String> {
        let one = |context: &String, continuations: &[String]| {
            let (context, continuations) = (context.clone(), continuations.to_vec());
            Request::new(RequestKind::LogLikelihood(LogLikelihood { context, continuations, rules: self.rules.clone() }))
        };
        match (&self.prompt, &self.prompts) {
            (Some(context), None) => Ok(vec![one(context, &self.continuations)]),
            (None, Some(contexts)) if contexts.len() == self.continuations.len() => Ok(contexts
                .iter()
                .zip(&self.continuations)
                .map(|(context, one_each)| one(context, std::slice::from_ref(one_each)))
                .collect()),
            _ => Err("must have a prompt, or as many prompts as continuations".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn requests(row: Value) -> Result<Vec<Request>, String> {
        let row: Row = serde_json::from_value(row).map_err(|e| e.to_string())?;
        let mut all = Vec::new();
        for asked in row.requests() {
            all.extend(asked.requests(&|prompt| Some(prompt.len() as u32))?);
        }
        Ok(all)
    }

    #[test]
    fn a_generation_is_one_request_a_sample() {
        let row = json!({"doc_id": "a", "doc": {}, "request": {"kind": "generate", "prompt": "abc", "stop": ["\n"], "stop_also": "</s>",
            "max_total_tokens": 10, "temperature": 0.2, "top_p": 0.95, "top_k": 0, "n": 3}});
        let made = requests(row).unwrap();
        let [first, _, third] = made.as_slice() else { panic!("{made:?}") };
        let RequestKind::Generate(first) = &first.kind else { panic!("{first:?}") };
        assert_eq!((first.max_new_tokens, first.sample, first.stop.as_slice()), (7, 0, &["\n".to_owned()][..]));
        assert_eq!((first.sampling.temperature, first.sampling.top_p), (0.2, 0.95));
        assert!(matches!(&third.kind, RequestKind::Generate(third) if third.sample == 2));
    }

    #[test]
    fn each_context_of_its_own_is_a_request() {
        let row = json!({"request": {"kind": "loglikelihood", "prompt": null, "prompts": ["a", "b"], "continuations": ["x", "y"]},
            "extra_requests": [{"kind": "loglikelihood", "prompt": "c", "continuations": ["x", "y"]}]});
        let made = requests(row).unwrap();
        let pairs: Vec<(&str, usize)> = made
            .iter()
            .map(|r| match &r.kind {
                RequestKind::LogLikelihood(scored) => (scored.context.as_str(), scored.continuations.len()),
                _ => panic!("{r:?}"),
            })
            .collect();
        assert_eq!(pairs, [("a", 1), ("b", 1), ("c", 2)]);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (request, expected) in [
            (json!({"kind": "generate", "prompt": "a", "max_new_tokens": 1, "min_p": 0.1}), "min_p"),
            (json!({"kind": "generate", "prompt": "a"}), "max_new_tokens or max_total_tokens"),
            (json!({"kind": "generate", "prompt": "a", "max_new_tokens": 1, "do_sample": true}), "do_sample true at temperature 0"),
            (json!({"kind": "chat", "messages": []}), "chat"),
            (json!({"kind": "loglikelihood", "prompts": ["a"], "continuations": ["x", "y"]}), "as many prompts"),
        ] {
            let error = requests(json!({"request": request})).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
