//! The last number of a text, as the Japanese harness reads MGSM's answers.
//!
//! swallow-evaluation v202407 `lm-evaluation-harness-jp/lm_eval/tasks/ja/mgsm.py:24,76-106`: the last match of `(\-?[0-9\.\,]+)`, periods
//! stripped from both ends, commas deleted, `float()`, then `int()` of a value that is an integer. A lone comma or an ellipsis behind the
//! right number is the last match, and invalid; so the protocol has it.

use regex::Regex;
use std::sync::LazyLock;

/// What stands for an answer without a usable number; no gold is equal to it.
const INVALID: &str = "[invalid]";

static NUMBER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"-?[0-9.,]+").expect("a constant pattern"));

/// Decimal digits of the last number (ASCII digits alone count), with a minus sign where it is negative; `[invalid]` where there is none or it
/// is no integer. Beyond 2^53 the digits are those of the nearest double.
pub fn last_number(text: &str) -> String {
    let last = NUMBER.find_iter(text).last().map_or("", |found| found.as_str());
    let digits = last.trim_matches('.').replace(',', "");
    match digits.parse::<f64>() {
        // 0.0 is added because Python's int(-0.0) is 0.
        Ok(value) if value.is_finite() && value.fract() == 0.0 => format!("{:.0}", value + 0.0),
        _ => INVALID.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_the_harness_reads_them() {
        for (text, expected) in [
            ("", "[invalid]"),
            ("20.です", "20"),
            ("1,234", "1234"),
            ("18.0", "18"),
            ("18.5", "[invalid]"),
            ("１８", "[invalid]"),
            ("-5", "-5"),
            ("\u{2212}5", "5"),
            ("-0", "0"),
            ("-", "[invalid]"),
            ("-.", "[invalid]"),
            ("1e3", "3"),
            ("1.2.3", "[invalid]"),
            ("答えは18…", "18"),
            ("答えは18, ですか,", "[invalid]"),
            ("18個と2人", "2"),
            (",5,.", "5"),
            ("9007199254740993", "9007199254740992"),
            ("123456789012345678901234567890", "123456789012345677877719597056"),
        ] {
            assert_eq!(last_number(text), expected, "{text:?}");
        }
        assert_eq!(last_number(&"9".repeat(400)), INVALID);
    }
}
