//! Generation settings that replace a task file's (`--gen-kwargs`): off-protocol, and the signature says so.

use crate::engine::{Request, RequestKind};
use serde_json::Value;

/// A generation setting that replaces the task file's: off-protocol.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Override {
    /// `temperature`
    Temperature(f64),
    /// `top_k`
    TopK(u32),
    /// `top_p`
    TopP(f64),
    /// `repetition_penalty`
    RepetitionPenalty(f64),
    /// `max_gen_toks` or `max_new_tokens`
    MaxNewTokens(u32),
    /// `seed`
    Seed(u64),
}

impl Override {
    /// Name in signatures and `run.json`.
    pub fn name(&self) -> &'static str {
        match self {
            Override::Temperature(_) => "temperature",
            Override::TopK(_) => "top_k",
            Override::TopP(_) => "top_p",
            Override::RepetitionPenalty(_) => "repetition_penalty",
            Override::MaxNewTokens(_) => "max_new_tokens",
            Override::Seed(_) => "seed",
        }
    }

    /// Its value.
    pub fn value(&self) -> Value {
        match *self {
            Override::Temperature(v) | Override::TopP(v) | Override::RepetitionPenalty(v) => v.into(),
            Override::TopK(v) | Override::MaxNewTokens(v) => v.into(),
            Override::Seed(v) => v.into(),
        }
    }

    /// One setting of lm-eval's `--gen_kwargs`.
    ///
    /// # Errors
    /// A sentence naming key, value and limit.
    pub fn parse(key: &str, value: &str) -> Result<Self, String> {
        let number = |low: f64, high: f64| match value.parse::<f64>() {
            Ok(v) if v >= low && v <= high => Ok(v),
            _ => Err(format!("{key} must be a number from {low} to {high}, not '{value}'")),
        };
        let whole = |low: u64, high: u64| match value.parse::<u64>() {
            Ok(v) if v >= low && v <= high => Ok(v),
            _ => Err(format!("{key} must be a whole number from {low} to {high}, not '{value}'")),
        };
        Ok(match key {
            "temperature" => Override::Temperature(number(0.0, 100.0)?),
            "top_p" => Override::TopP(number(1e-9, 1.0)?),
            "top_k" => Override::TopK(whole(0, u64::from(u32::MAX))? as u32),
            "repetition_penalty" => Override::RepetitionPenalty(number(1e-9, 100.0)?),
            "max_gen_toks" | "max_new_tokens" => Override::MaxNewTokens(whole(1, 1 << 20)? as u32),
            "seed" => Override::Seed(whole(0, u64::MAX)?),
            _ => {
                let known = "temperature, top_p, top_k, repetition_penalty, max_gen_toks, seed";
                return Err(format!("unknown generation setting '{key}'; known: {known}"));
            }
        })
    }
}

/// The same request with other settings.
pub fn apply(request: Request, overrides: &[Override]) -> Request {
    if overrides.is_empty() {
        return request;
    }
    let mut kind = request.kind;
    let (sampling, max_new_tokens) = match &mut kind {
        RequestKind::Generate(generate) => (&mut generate.sampling, &mut generate.max_new_tokens),
        RequestKind::Chat(chat) => (&mut chat.sampling, &mut chat.max_new_tokens),
        RequestKind::LogLikelihood(_) => return Request::new(kind),
    };
    for change in overrides {
        match *change {
            Override::Temperature(v) => sampling.temperature = v,
            Override::TopK(v) => sampling.top_k = v,
            Override::TopP(v) => sampling.top_p = v,
            Override::RepetitionPenalty(v) => sampling.repetition_penalty = v,
            Override::MaxNewTokens(v) => *max_new_tokens = v,
            Override::Seed(v) => sampling.seed = v,
        }
    }
    Request::new(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_settings_name_key_value_and_limit() {
        for (key, value, expected) in [
            ("temperature", "hot", "'hot'"),
            ("top_p", "0", "from 0.000000001 to 1"),
            ("max_gen_toks", "0", "from 1"),
            ("beams", "3", "unknown generation setting 'beams'"),
        ] {
            assert!(Override::parse(key, value).expect_err(key).contains(expected), "{key}");
        }
    }
}
