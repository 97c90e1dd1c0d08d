//! What judging costs: tokens before the calls are made, money where a price is known.

use crate::engine::{Chat, Output, Response, Template};
use serde::Deserialize;
use std::collections::BTreeMap;

/// What a judge takes for its tokens.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// US dollars for a million tokens of the prompt.
    pub input: f64,
    /// US dollars for a million tokens of the answer.
    pub output: f64,
    /// US dollars for a million tokens of the prompt, in a batch.
    #[serde(default)]
    pub batch_input: Option<f64>,
    /// US dollars for a million tokens of the answer, in a batch.
    #[serde(default)]
    pub batch_output: Option<f64>,
    /// Where the price was read.
    pub source: String,
    /// When, `YYYY-MM-DD`.
    pub date: String,
}

impl Price {
    /// What the judge takes in a batch, where that is known.
    pub fn of_batches(&self) -> Option<Price> {
        let (input, output) = self.batch_input.zip(self.batch_output)?;
        Some(Price { input, output, ..self.clone() })
    }
}

/// Prices by model name: a file `--prices` names.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Prices(pub BTreeMap<String, Price>);

/// Why a price file cannot be used (exit code 2).
#[derive(Debug, thiserror::Error)]
#[error("price file {path} is not valid: {cause}")]
pub struct PriceError {
    path: String,
    cause: String,
}

impl Prices {
    /// Reads TOML: `[model-name]` with `input`, `output` (US dollars for a million tokens), `source` and `date`;
    /// `batch_input` and `batch_output` where the judge's batches have a price of their own.
    ///
    /// # Errors
    /// [`PriceError`] naming `path`; a negative or infinite price is one, and half a price of batches.
    pub fn parse(text: &str, path: &str) -> Result<Self, PriceError> {
        let wrong = |cause: String| PriceError { path: path.to_owned(), cause };
        let prices: Prices = toml::from_str(text).map_err(|e| wrong(e.to_string().trim_end().to_owned()))?;
        let numbers = |p: &Price| [Some(p.input), Some(p.output), p.batch_input, p.batch_output].into_iter().flatten();
        if let Some((model, _)) = prices.0.iter().find(|(_, p)| p.batch_input.is_some() != p.batch_output.is_some()) {
            return Err(wrong(format!("the price of '{model}' has one of batch_input and batch_output, and not the other")));
        }
        let bad = prices.0.iter().find(|(_, p)| !numbers(p).all(|n: f64| n.is_finite() && n >= 0.0));
        match bad {
            Some((model, _)) => Err(wrong(format!("the price of '{model}' is not a number of dollars"))),
            None => Ok(prices),
        }
    }
}

/// Tokens of prompts and answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Read by the judge.
    pub input: u64,
    /// Written by the judge.
    pub output: u64,
}

impl Tokens {
    /// Adds another count.
    pub fn add(&mut self, other: Tokens) {
        self.input += other.input;
        self.output += other.output;
    }

    /// US dollars.
    pub fn dollars(self, price: &Price) -> f64 {
        (self.input as f64 * price.input + self.output as f64 * price.output) / 1e6
    }
}

/// A generous estimate of what one call takes, for a limit on money that must hold: three ASCII characters or half a Japanese one a token
/// (judges' tokenizers need fewer), and an answer as long as its limit.
pub fn bound(chat: &Chat) -> Tokens {
    let system = match &chat.template {
        Template::Messages { system } => system.as_str(),
        _ => "",
    };
    let count = |text: &str| {
        let ascii = text.bytes().filter(u8::is_ascii).count();
        let others = text.chars().count() - ascii;
        (ascii.div_ceil(3) + others * 2) as u64
    };
    // Roles and separators of two messages.
    const FRAME: u64 = 16;
    Tokens { input: count(system) + count(&chat.prompt) + FRAME, output: chat.max_new_tokens.into() }
}

/// What a call took, as the judge counted; `None` where it did not.
pub fn spent(response: &Response) -> Option<Tokens> {
    let Output::Dialogue { turns } = &response.output else { return None };
    let mut tokens = Tokens::default();
    for turn in turns {
        tokens.add(Tokens { input: turn.raw.prompt_tokens?.into(), output: turn.raw.new_tokens?.into() });
    }
    Some(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Sampling;

    #[test]
    fn prices_are_read_with_their_source() {
        let text = "[judge-x]\ninput = 10.0\noutput = 30\nsource = \"price list\"\ndate = \"2026-01-01\"\n";
        let prices = Prices::parse(text, "p.toml").expect("valid");
        let tokens = Tokens { input: 1_000_000, output: 100_000 };
        assert_eq!(tokens.dollars(&prices.0["judge-x"]), 13.0);
        assert_eq!(prices.0["judge-x"].of_batches(), None);
        let halved = text.replace("source", "batch_input = 5\nbatch_output = 15\nsource");
        let of_batches = Prices::parse(&halved, "p.toml").expect("valid").0["judge-x"].of_batches().expect("given");
        assert_eq!(tokens.dollars(&of_batches), 6.5);
        for (from, to, expected) in [
            ("input", "inputs", "unknown field"),
            ("10.0", "-1.0", "not a number of dollars"),
            ("10.0", "nan", "not a number of dollars"),
            ("source", "batch_input = -5\nbatch_output = 5\nsource", "not a number of dollars"),
            ("source", "batch_input = 5\nsource", "one of batch_input and batch_output"),
        ] {
            let error = Prices::parse(&text.replacen(from, to, 1), "p.toml").expect_err(to).to_string();
            assert!(error.contains("p.toml") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_bound_counts_japanese_and_ascii_apart() {
        let chat = |prompt: &str| Chat {
            prompt: prompt.into(),
            follow_ups: vec![],
            sample: 0,
            max_new_tokens: 7,
            template: Template::Messages { system: String::new() },
            sampling: Sampling::GREEDY,
        };
        assert_eq!(bound(&chat("abcdef")), Tokens { input: 18, output: 7 });
        assert_eq!(bound(&chat("日本語")), Tokens { input: 22, output: 7 });
    }
}
