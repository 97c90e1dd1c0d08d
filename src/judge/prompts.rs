//! What a judge is asked: the prompt of a turn, filled with question, answers and, for some categories, reference answers.
//!
//! `fastchat/llm_judge/common.py:160-205` and `gen_judgment.py:153-166, 272-304` of swallow-llm/swallow-evaluation, tag v202407. The texts
//! are data of the task file.

use crate::engine::{Chat, Request, RequestKind, Sampling, Template};
use crate::task::judged::{JudgePrompt, JudgeRule};

/// One question of a judged benchmark, with one model's answers to it.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'j> {
    /// Decides whether the judge sees reference answers.
    pub category: &'j str,
    /// What the user said, turn by turn.
    pub questions: &'j [&'j str],
    /// What the model answered, turn by turn.
    pub answers: &'j [&'j str],
    /// Reference answers, turn by turn; empty where there are none.
    pub references: &'j [&'j str],
    /// Which of the answers to the same question this is. Part of the request, so that equal answers are judged each on its own, as upstream
    /// does.
    pub choice: u32,
}

/// The prompt for a turn (counted from 0): the first turn is judged alone, a later one with the conversation before it.
pub fn prompt<'r>(rule: &'r JudgeRule, category: &str, turn: usize) -> &'r JudgePrompt {
    let with_reference = rule.with_reference.iter().any(|c| c == category);
    match (turn, with_reference) {
        (0, false) => &rule.single,
        (0, true) => &rule.single_reference,
        (_, false) => &rule.multi,
        (_, true) => &rule.multi_reference,
    }
}

/// The request that asks for a judgement of one turn (counted from 0).
pub fn request(rule: &JudgeRule, judged: Judged<'_>, turn: usize) -> Request {
    let prompt = prompt(rule, judged.category, turn);
    let numbered = |name: &str, list: &[&str]| -> Option<String> {
        let index: usize = name.parse().ok()?;
        list.get(index.checked_sub(1)?).map(|text| (*text).to_owned())
    };
    let value = |name: &str| match name {
        "question" => judged.questions.first().map(|text| (*text).to_owned()),
        "answer" => judged.answers.first().map(|text| (*text).to_owned()),
        _ => None
            .or_else(|| numbered(name.strip_prefix("question_")?, judged.questions))
            .or_else(|| numbered(name.strip_prefix("answer_")?, judged.answers))
            .or_else(|| numbered(name.strip_prefix("ref_answer_")?, judged.references)),
    };
    Request::new(RequestKind::Chat(Chat {
        prompt: fill(&prompt.template, value),
        follow_ups: Vec::new(),
        sample: judged.choice,
        max_new_tokens: rule.max_new_tokens,
        template: Template::Messages { system: prompt.system.clone() },
        sampling: Sampling { temperature: rule.temperature, ..Sampling::GREEDY },
    }))
}

/// Python's `str.format` with named fields: every `{name}` of the template becomes its value, once; braces in values stay as they are. A name
/// without a value stays too (a test over the task files sees to it that there is none).
fn fill(template: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        let field = after.split_once('}').and_then(|(name, behind)| Some((value(name)?, behind)));
        match field {
            Some((text, behind)) => {
                filled.push_str(&text);
                rest = behind;
            }
            None => {
                filled.push('{');
                rest = after;
            }
        }
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::load;

    fn rule() -> JudgeRule {
        let tasks = load::embedded().expect("valid");
        load::find(&tasks, "japanese_mt_bench").expect("known").file.judge.clone().expect("a judged task")
    }

    fn ask(category: &str, turn: usize) -> (String, String) {
        let judged = Judged {
            category,
            questions: &["問{answer}", "続き"],
            answers: &["{question_2}答", "再答"],
            references: &["模範", "模範二"],
            choice: 3,
        };
        match request(&rule(), judged, turn).kind {
            RequestKind::Chat(chat) => {
                let Template::Messages { system } = chat.template else { panic!("{:?}", chat.template) };
                (system, chat.prompt)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn values_are_not_parsed_again() {
        let (system, prompt) = ask("stem", 0);
        assert_eq!(system, "You are a helpful assistant.");
        assert!(
            prompt
                .ends_with("[Question]\n問{answer}\n\n[The Start of Assistant's Answer]\n{question_2}答\n[The End of Assistant's Answer]")
        );
        assert!(!prompt.contains("模範"));
    }

    #[test]
    fn turn_and_category_choose_the_prompt() {
        for (category, turn, expected) in [
            ("writing", 0, "single-v1"),
            ("math", 0, "single-math-v1"),
            ("writing", 1, "single-v1-multi-turn"),
            ("coding", 1, "single-math-v1-multi-turn"),
            ("reasoning", 1, "single-math-v1-multi-turn"),
        ] {
            assert_eq!(prompt(&rule(), category, turn).name, expected, "{category} {turn}");
        }
        let (_, text) = ask("math", 1);
        assert!(text.contains("### Reference answer:\n模範二\n") && text.contains("### Assistant A:\n再答\n"), "{text}");
        assert_eq!(text.matches('{').count(), 3, "only the braces of the values are left: {text}");
    }

    #[test]
    fn equal_answers_are_judged_each_on_its_own() {
        let judged = |choice| Judged { category: "stem", questions: &["q"], answers: &["a"], references: &[], choice };
        assert_ne!(request(&rule(), judged(0), 0).id, request(&rule(), judged(1), 0).id);
    }
}
