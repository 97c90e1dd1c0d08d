//! The rating in a judge's words: `[[8]]`, else `[8]`, the first match anywhere in the text.
//!
//! `fastchat/llm_judge/common.py:41-42, 205-213` of swallow-llm/swallow-evaluation, tag v202407. There is no range check: `[[11]]` is 11.

use regex::Regex;
use std::sync::LazyLock;

/// What a judge's text gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rating {
    /// A number.
    Given(f64),
    /// Neither pattern stands in the text.
    Absent,
    /// The pattern stands there, but its digits are no Python number (`[[８]]`, `[[08]]`): the original stops with a SyntaxError there, and
    /// the whole judging with it.
    Unreadable,
}

impl Rating {
    /// The number, where there is one.
    pub fn value(self) -> Option<f64> {
        match self {
            Rating::Given(value) => Some(value),
            Rating::Absent | Rating::Unreadable => None,
        }
    }
}

/// Both patterns in the order in which they are tried. `\d` means every decimal digit of Unicode, here as in Python.
static PATTERNS: LazyLock<[Regex; 2]> = LazyLock::new(|| {
    [r"\[\[(\d+\.?\d*)\]\]", r"\[(\d+\.?\d*)\]"].map(|pattern| Regex::new(pattern).expect("a constant pattern that a test compiles"))
});

/// Reads the rating in a judge's text.
pub fn rating(text: &str) -> Rating {
    match PATTERNS.iter().find_map(|pattern| pattern.captures(text)) {
        None => Rating::Absent,
        Some(captures) => python_number(&captures[1]).map_or(Rating::Unreadable, Rating::Given),
    }
}

/// What `ast.literal_eval` makes of digits with at most one point: an integer has no leading zero (unless it is zero), a float may have.
fn python_number(digits: &str) -> Option<f64> {
    let ascii = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let zeros_first = !digits.contains('.') && digits.starts_with('0') && digits.bytes().any(|b| b != b'0');
    if !ascii || zeros_first {
        return None;
    }
    digits.parse().ok().filter(|n: &f64| n.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratings_are_read_as_python_reads_them() {
        use Rating::{Absent, Given, Unreadable};
        for (text, expected) in [
            ("Rating: [[8]]", Given(8.0)),
            ("[3] 参照。Rating: [[9]]", Given(9.0)),
            ("[[8.]]", Given(8.0)),
            ("[[7.5]]", Given(7.5)),
            ("[[11]]", Given(11.0)),
            ("[1](リンク)", Given(1.0)),
            ("[8]]", Given(8.0)),
            ("[[00]]", Given(0.0)),
            ("[[08.5]]", Given(8.5)),
            ("[[08]]", Unreadable),
            ("[[８]]", Unreadable),
            ("[５] [4]", Unreadable),
            ("［［８］］", Absent),
            ("[[ 8 ]]", Absent),
            ("[[8/10]]", Absent),
            ("", Absent),
        ] {
            assert_eq!(rating(text), expected, "{text}");
        }
    }
}
