//! The marks of WikiHow articles in texts that were taken from there.

use super::python::strip;

/// The text without `[header]`, `[title]` and `[step]` (lm-eval v0.4.2 `lm_eval/tasks/hellaswag/utils.py:6-12`): white space at both ends
/// goes, ` [title]` becomes a full stop and a blank, everything in brackets goes, two blanks become one in a single pass from the left.
/// What the brackets leave at either end stays.
pub fn without_marks(text: &str) -> String {
    without_brackets(&strip(text).replace(" [title]", ". ")).replace("  ", " ")
}

/// Python's `re.sub(r"\[.*?\]", "", text)`: up to the nearest closing bracket on the same line.
fn without_brackets(text: &str) -> String {
    let (mut kept, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(open) = rest.find('[') {
        match rest[open..].find([']', '\n']).map(|at| open + at) {
            Some(close) if rest.as_bytes()[close] == b']' => {
                kept += &rest[..open];
                rest = &rest[close + 1..];
            }
            _ => {
                kept += &rest[..=open];
                rest = &rest[open + 1..];
            }
        }
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_go_blanks_may_stay() {
        for (text, expected) in [
            (" [header] A [title] B. [step] C  d [x", " A. B. C d [x"),
            ("a [title] b [title]c", "a. b. c"),
            ("a [b\nc] d", "a [b\nc] d"),
            ("a [[b] c] d", "a c] d"),
            ("[a\n[b]", "[a\n"),
            ("a   b", "a  b"),
            ("[]", ""),
        ] {
            assert_eq!(without_marks(text), expected, "{text:?}");
        }
    }
}
