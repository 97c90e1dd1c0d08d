//! Prompts as lists of paragraphs, so that shots stand in the page once however many prompts show them.

use serde::Serialize;
use std::collections::BTreeMap;

/// The paragraphs that more than one document's prompt has.
#[derive(Debug, Default)]
pub(super) struct Shared<'p> {
    /// In order of first appearance.
    pub(super) texts: Vec<&'p str>,
    numbers: BTreeMap<&'p str, usize>,
}

/// A piece of a prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum Part<'p> {
    /// Number of a shared paragraph.
    Shared(usize),
    /// A text that only this document has; neighbours are joined.
    Own(&'p str),
}

/// A paragraph ends after a blank line, which belongs to it: the paragraphs of a text are the text.
fn paragraphs(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive("\n\n")
}

impl<'p> Shared<'p> {
    /// Finds what the prompts have in common. Each comes with the number of its document: a document that asks twice shares nothing with
    /// itself.
    pub(super) fn among(prompts: impl Iterator<Item = (usize, &'p str)>) -> Self {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut shared = Shared::default();
        for (document, prompt) in prompts {
            for paragraph in paragraphs(prompt) {
                let first = *seen.entry(paragraph).or_insert(document);
                if first != document && !shared.numbers.contains_key(paragraph) {
                    shared.numbers.insert(paragraph, shared.texts.len());
                    shared.texts.push(paragraph);
                }
            }
        }
        shared
    }

    /// The parts of a prompt, in order.
    pub(super) fn parts(&self, prompt: &'p str) -> Vec<Part<'p>> {
        let mut parts = Vec::new();
        // Where the text of the document's own begins that is still open.
        let (mut own, mut at) = (0, 0);
        for paragraph in paragraphs(prompt) {
            let end = at + paragraph.len();
            if let Some(number) = self.numbers.get(paragraph) {
                if own < at {
                    parts.push(Part::Own(&prompt[own..at]));
                }
                parts.push(Part::Shared(*number));
                own = end;
            }
            at = end;
        }
        if own < at {
            parts.push(Part::Own(&prompt[own..at]));
        }
        parts
    }
}

/// How many bytes at the beginning of `prompt` a reader may skip: what it has in common with the prompt before or after it, in whole paragraphs
/// (the instruction and the shots, where all documents see the same). Never the last two paragraphs, which hold the question.
pub(super) fn skippable(prompt: &str, neighbours: [Option<&str>; 2]) -> usize {
    let common = |other: &str| paragraphs(prompt).zip(paragraphs(other)).take_while(|(a, b)| a == b).map(|(a, _)| a.len()).sum::<usize>();
    let most = neighbours.into_iter().flatten().map(common).max().unwrap_or(0);
    let lengths: Vec<usize> = paragraphs(prompt).map(str::len).collect();
    let kept: usize = lengths.iter().rev().take(2).sum();
    most.min(prompt.len() - kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_prompt() {
        let prompts = ["指示\n\n例1\n\n問い甲\n\n答え:", "指示\n\n例1\n\n問い乙\n続き\n\n\n\n答え:", "", "別\n\n別\n\n", "問い甲"];
        let shared = Shared::among(prompts.iter().copied().enumerate());
        assert_eq!(shared.texts, ["指示\n\n", "例1\n\n", "答え:"]);
        for prompt in prompts {
            let text = |part: &Part| match *part {
                Part::Shared(number) => shared.texts[number].to_owned(),
                Part::Own(text) => text.to_owned(),
            };
            assert_eq!(shared.parts(prompt).iter().map(text).collect::<String>(), prompt);
        }
        assert_eq!(shared.parts(prompts[0]), [Part::Shared(0), Part::Shared(1), Part::Own("問い甲\n\n"), Part::Shared(2)]);
        assert_eq!(shared.parts(prompts[3]), [Part::Own("別\n\n別\n\n")], "what stands twice in one document is its own");
    }

    #[test]
    fn only_what_neighbours_share_is_skipped() {
        let (a, b) = ("head\n\nshot\n\nquestion a\n\nanswer:", "head\n\nshot\n\nquestion b\n\nanswer:");
        for (prompt, neighbours, expected) in [
            (a, [None, Some(b)], "head\n\nshot\n\n"),
            (a, [Some("head\n\nother\n\n"), None], "head\n\n"),
            (a, [Some(a), Some(b)], "head\n\nshot\n\n"),
            (a, [None, None], ""),
            ("one", [Some("one"), None], ""),
            ("", [Some(""), None], ""),
        ] {
            assert_eq!(&prompt[..skippable(prompt, neighbours)], expected);
        }
    }
}
