//! From a completion to the program that is executed.
//!
//! bigcode-evaluation-harness 0261c52: `bigcode_eval/tasks/humaneval.py:82-92` (candidate), `custom_metrics/code_eval.py:146` (program).

use crate::text::stop::cut_at_stop;

/// Prompt and completion, cut at the first stop string *of the completion*. Nothing is stripped or repaired.
pub fn candidate(prompt: &str, completion: &str, stops: &[String]) -> String {
    format!("{prompt}{}", cut_at_stop(completion, stops).0)
}

/// The completion in a whole decoded text. Upstream skips as many characters as the prompt has, whatever they are.
pub fn completion<'t>(decoded: &'t str, prompt: &str) -> &'t str {
    let skip = prompt.chars().count();
    decoded.char_indices().nth(skip).map_or("", |(at, _)| &decoded[at..])
}

/// Candidate and tests.
pub fn assemble(candidate: &str, tests: &str) -> String {
    format!("{candidate}\n{tests}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_completion_is_cut() {
        let stops = ["\ndef".to_owned(), "\n#".to_owned()];
        for (prompt, completion, expected) in [
            ("import x\ndef f():\n", "    return 1\n\ndef g():", "import x\ndef f():\n    return 1\n"),
            (
                "def f():\n",
                "# at the very beginning no line feed precedes it",
                "def f():\n# at the very beginning no line feed precedes it",
            ),
            ("def f():\n", "    # indented\n# not\n\ndef", "def f():\n    # indented"),
            ("def f():\n", "\ndefault = 1", "def f():\n"),
        ] {
            assert_eq!(candidate(prompt, completion, &stops), expected);
        }
    }

    #[test]
    fn the_prompt_is_skipped_by_its_length() {
        assert_eq!(completion("あいうx", "あいう"), "x");
        assert_eq!(completion("altered text", "before "), " text");
        assert_eq!(completion("短", "長い"), "");
    }
}
