//! Text: tokenizer, decode clean-up, stop strings, Python's string semantics, WikiHow's marks. Knows no model and no task.

pub mod cleanup;
pub mod python;
pub mod stop;
pub mod tokenizer;
pub mod wikihow;
