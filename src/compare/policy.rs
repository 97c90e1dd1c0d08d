//! The policy of a gate: which loss is tolerated, and how sure one must be of it. TOML, described in `docs/gate.md`.

use serde::Deserialize;
use std::collections::BTreeMap;

/// A whole policy file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// For tasks without a table of their own, and for keys that such a table leaves out.
    #[serde(default)]
    pub default: Rules,
    /// By task name.
    #[serde(default)]
    pub task: BTreeMap<String, Rules>,
}

/// What a table of a policy may say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Loss that is tolerated, in the score's own unit (0.01 is one point of a score from 0 to 1).
    pub max_drop: Option<f64>,
    /// Level of the test: how often two equal models may be told apart.
    pub alpha: Option<f64>,
    /// Fewer documents than this decide nothing.
    pub min_n: Option<u64>,
    /// Whether the candidate must have the task.
    pub required: Option<bool>,
}

/// The rules in force for one task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// See [`Rules::max_drop`]; 0 unless given.
    pub max_drop: f64,
    /// See [`Rules::alpha`]; 0.05 unless given.
    pub alpha: f64,
    /// See [`Rules::min_n`]; 1 unless given.
    pub min_n: u64,
    /// See [`Rules::required`]; false unless given.
    pub required: bool,
}

/// Why a policy cannot be used. Always exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Not TOML, an unknown key, or a value of the wrong kind.
    #[error("{0}")]
    Syntax(String),
    /// A value out of its range.
    #[error("[{table}] {key} = {value}: it must be {range}")]
    Range {
        /// `default` or `task.NAME`.
        table: String,
        /// Key.
        key: &'static str,
        /// As given.
        value: f64,
        /// What is allowed.
        range: &'static str,
    },
    /// A table for a task that neither run has and that is not required.
    #[error("[task.{name}] names no task of these runs; they have: {known}")]
    UnknownTask {
        /// As given.
        name: String,
        /// Tasks of both runs.
        known: String,
    },
}

impl Policy {
    /// Reads a policy and checks its ranges.
    ///
    /// # Errors
    /// [`PolicyError::Syntax`] with line and column, [`PolicyError::Range`].
    pub fn parse(text: &str) -> Result<Policy, PolicyError> {
        let policy: Policy = toml::from_str(text).map_err(|e| PolicyError::Syntax(located(text, &e)))?;
        let tables = policy.task.iter().map(|(name, rules)| (format!("task.{name}"), rules));
        for (table, rules) in [("default".to_owned(), &policy.default)].into_iter().chain(tables) {
            let fault = |key, value, range| PolicyError::Range { table: table.clone(), key, value, range };
            match (rules.max_drop, rules.alpha) {
                (Some(drop), _) if !(drop >= 0.0 && drop.is_finite()) => return Err(fault("max_drop", drop, "0 or more")),
                (_, Some(alpha)) if !(alpha > 0.0 && alpha < 1.0) => return Err(fault("alpha", alpha, "between 0 and 1")),
                _ => {}
            }
        }
        Ok(policy)
    }

    /// The rules for a task.
    pub fn rule(&self, task: &str) -> Rule {
        let (own, default) = (self.task.get(task).copied().unwrap_or_default(), self.default);
        Rule {
            max_drop: own.max_drop.or(default.max_drop).unwrap_or(0.0),
            alpha: own.alpha.or(default.alpha).unwrap_or(0.05),
            min_n: own.min_n.or(default.min_n).unwrap_or(1),
            required: own.required.or(default.required).unwrap_or(false),
        }
    }

    /// Checks that every table names one of `known`, or a required task, whose absence the gate tells itself.
    ///
    /// # Errors
    /// [`PolicyError::UnknownTask`]: a misspelt name must not be a rule that never applies.
    pub fn check_names(&self, known: &[&str]) -> Result<(), PolicyError> {
        let stray = self.task.iter().find(|(name, rules)| !known.contains(&name.as_str()) && rules.required != Some(true));
        match stray {
            Some((name, _)) => Err(PolicyError::UnknownTask { name: name.clone(), known: known.join(", ") }),
            None => Ok(()),
        }
    }
}

/// The first line of the TOML parser's message, with the line it is about.
fn located(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let message = error.message().replace('\n', " ");
    line.map_or_else(|| message.clone(), |line| format!("line {line}: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_inherits_from_the_default() {
        let text = "[default]\nmax_drop = 0.01\nmin_n = 100\n\n[task.jemhopqa]\nmax_drop = 0.03\nrequired = true\n";
        let policy = Policy::parse(text).expect("valid");
        assert_eq!(policy.rule("niilc"), Rule { max_drop: 0.01, alpha: 0.05, min_n: 100, required: false });
        assert_eq!(policy.rule("jemhopqa"), Rule { max_drop: 0.03, alpha: 0.05, min_n: 100, required: true });
        assert_eq!(Policy::parse("").expect("valid").rule("x"), Rule { max_drop: 0.0, alpha: 0.05, min_n: 1, required: false });
    }

    #[test]
    fn faults_are_named_with_line_or_table() {
        for (text, expected) in [
            ("[default]\nmax_dorp = 1\n", "line 2: unknown field `max_dorp`, expected one of `max_drop`"),
            ("[default]\nalpha = \"x\"\n", "line 2: invalid type"),
            ("[default\n", "line 1: "),
            ("[tasks.a]\n", "unknown field `tasks`"),
            ("[task.a]\nalpha = 1.0\n", "[task.a] alpha = 1: it must be between 0 and 1"),
            ("[default]\nmax_drop = -0.1\n", "[default] max_drop = -0.1: it must be 0 or more"),
            ("[default]\nmax_drop = nan\n", "[default] max_drop = NaN"),
            ("[default]\nmin_n = -1\n", "line 2: "),
        ] {
            let message = Policy::parse(text).expect_err(text).to_string();
            assert!(message.contains(expected), "{text:?}: {message}");
        }
        let policy = Policy::parse("[task.a]\nmax_drop = 0.1\n[task.b]\nrequired = true\n").expect("valid");
        assert!(policy.check_names(&["a"]).is_ok());
        let message = policy.check_names(&["c", "d"]).expect_err("no such task").to_string();
        assert_eq!(message, "[task.a] names no task of these runs; they have: c, d");
    }
}
