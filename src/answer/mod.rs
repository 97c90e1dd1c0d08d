//! From a response to what is scored: the decoder's clean-up and stop cut ([`decoded`]), then the task's named steps ([`steps`]). Where a
//! harness loses tokens, what is left of them comes first ([`lost_tokens`]).
//! Total functions: no I/O, no errors, no scores.

pub mod lost_tokens;
pub mod number;
pub mod program;
pub mod steps;

use crate::engine::{Cleanup, Generate, Generated};
use crate::metric::Reference;
use crate::task::{Step, Task, document::Document};
use crate::text::{cleanup::clean_up_tokenization, stop::cut_at_stop};
use serde_json::Value;

/// An extracted answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A text to compare with references.
    Text(String),
}

/// The text a protocol's harness had after decoding: clean-up over the whole text where the tokenizer was asked for it, then the stop cut.
pub fn decoded(request: &Generate, response: &Generated) -> String {
    cleaned_and_cut(&response.text, request.rules.cleanup, &request.stop)
}

/// The same for any decoded text.
pub fn cleaned_and_cut(text: &str, cleanup: Cleanup, stops: &[String]) -> String {
    match cleanup {
        Cleanup::On => cut_at_stop(&clean_up_tokenization(text), stops).0.to_owned(),
        Cleanup::Off => cut_at_stop(text, stops).0.to_owned(),
    }
}

/// The answer in a decoded text.
pub fn extract(task: &Task, text: &str) -> Answer {
    Answer::Text(steps::apply(&task.file.answer, text))
}

/// The ways to read an answer, the headline's first; each with the name that its numbers carry behind the metric's.
pub fn readings(task: &Task) -> Vec<(Option<&str>, &[Step])> {
    let others = task.file.readings.iter().map(|reading| (Some(reading.name.as_str()), reading.answer.as_slice()));
    [(None, task.file.answer.as_slice())].into_iter().chain(others).collect()
}

/// A text as it is compared: answers and references both.
pub fn comparable(task: &Task, text: &str) -> String {
    steps::apply(&task.file.compare, text)
}

/// What a right answer to the document looks like, before [`comparable`]. Where a judge decides, these are the reference answers it sees, turn
/// by turn.
pub fn reference(task: &Task, document: &Document) -> Reference {
    if let Some(judge) = &task.file.judge {
        let turns =
            document.fields.get("reference_turns").and_then(Value::as_array).filter(|_| judge.with_reference.contains(&document.group));
        return Reference::of(turns.into_iter().flatten().filter_map(Value::as_str));
    }
    if document.choices.is_empty() {
        return Reference::of(document.golds.iter().map(|gold| steps::apply(&task.file.document.reference, gold)));
    }
    Reference { texts: document.choices.iter().map(|choice| choice.label.clone()).collect(), right: document.right }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Finish, Sampling, TokenRules};

    #[test]
    fn clean_up_comes_before_the_stop_cut() {
        let mut request = Generate {
            prompt: String::new(),
            sample: 0,
            max_new_tokens: 8,
            stop: vec!["\n".into()],
            enough: vec![],
            sampling: Sampling::GREEDY,
            rules: TokenRules { cleanup: Cleanup::On, ..TokenRules::default() },
        };
        let response = Generated {
            text: "It 's here .\nNext".into(),
            token_ids: None,
            finish: Finish::Length,
            prompt_tokens: None,
            new_tokens: None,
            notes: vec![],
        };
        assert_eq!(decoded(&request, &response), "It's here.");
        request.rules.cleanup = Cleanup::Off;
        assert_eq!(decoded(&request, &response), "It 's here .");
    }
}
