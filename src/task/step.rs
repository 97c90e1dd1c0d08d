//! The closed list of named clean-up steps. What each does is `answer::steps`.

use regex::Regex;
use serde::{Deserialize, Deserializer, de};
use std::ops::Deref;

/// A named clean-up step.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// The part before the first two consecutive line feeds.
    BeforeBlankLine,
    /// Unicode normalisation form KC.
    Nfkc,
    /// The last number of the text as the digits of an integer, or `[invalid]`.
    LastNumber,
    /// One leading U+0020 goes.
    WithoutLeadingBlank,
    /// The first group of a match that is not empty, stripped; `[invalid]` where nothing matches.
    Find {
        /// With at least one group.
        pattern: Pattern,
        /// Which match.
        take: Take,
    },
    /// Every match goes.
    Remove {
        /// What goes.
        pattern: Pattern,
    },
    /// A period at the end, or before a line feed at the end, goes.
    WithoutFinalPeriod,
    /// The 32 ASCII punctuation characters go.
    WithoutPunctuation,
    /// Lower case as `numpy.char.lower` gives it: as many code points as before, trailing NUL characters lost.
    NumpyLower,
    /// Trailing NUL characters go, as in an array of numpy.
    NumpyText,
}

/// Which of several matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Take {
    /// The first.
    First,
    /// The last.
    Last,
}

/// A regular expression, compiled when its task file is read: a mistake is found before the first request.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Deref for Pattern {
    type Target = Regex;

    fn deref(&self) -> &Regex {
        &self.0
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pattern = String::deserialize(deserializer)?;
        Regex::new(&pattern).map(Pattern).map_err(|e| de::Error::custom(format!("pattern {pattern:?} is not valid: {e}")))
    }
}
