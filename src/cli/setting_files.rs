//! Settings files: `swallow-eval.toml` and what `--config` names. Text to entries, each with the place it stands at; what the entries mean is
//! `layers`' business.

use super::exit::{Exit, Failure};
use crate::results::command_line::redact;
use std::path::Path;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Name of the file in the working directory.
pub(super) const SETTINGS_FILE: &str = "swallow-eval.toml";

/// One key of a settings file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// The verb's table it stands in; `None` at the top level.
    pub(super) verb: Option<String>,
    /// As written.
    pub(super) key: String,
    /// What it is set to.
    pub(super) value: Value,
    /// `FILE:LINE: key = value`, without secrets.
    pub(super) place: String,
}

/// What a setting is set to, before a flag takes it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A switch.
    Switch(bool),
    /// Text or a number, as text.
    One(String),
    /// A list.
    Many(Vec<String>),
    /// A table where no verb has that name: an object for `samples`, `model_args`, `gen_kwargs`, as JSON.
    Object(String),
}

/// The entries of a settings file; `None` where there is no such file.
///
/// # Errors
/// Exit 2: unreadable, not TOML (or JSON, for a name ending in `.json`), or a value that no setting can have.
pub(super) fn read(path: &Path, verbs: &[&str]) -> Result<Option<Vec<Entry>>, Failure> {
    let name = path.display().to_string();
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    if matches!(extension, "yaml" | "yml") {
        return Err(usage(format!("{name}: settings files are TOML or JSON, and YAML is not read"))
            .hint("the keys are the same: `limit: 10` is written `limit = 10` in TOML"));
    }
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(usage(format!("cannot read {name}: {e}"))),
    };
    if extension == "json" { of_json(&name, &text, verbs) } else { of_toml(&name, &text, verbs) }.map(Some)
}

fn of_toml(name: &str, text: &str, verbs: &[&str]) -> Result<Vec<Entry>, Failure> {
    let table = DeTable::parse(text).map_err(|e| {
        let line = e.span().map_or(String::new(), |span| format!(":{}", line_of(text, span.start)));
        usage(redact(&format!("{name}{line}: {}", e.message().replace('\n', ", "))))
    })?;
    let mut entries = Vec::new();
    for (key, value) in table.get_ref() {
        match value.get_ref() {
            DeValue::Table(inner) if verbs.contains(&key.get_ref().as_ref()) => {
                let verb = Some(key.get_ref().to_string());
                for (key, value) in inner {
                    entries.push(toml_entry(name, text, verb.clone(), key, value)?);
                }
            }
            _ => entries.push(toml_entry(name, text, None, key, value)?),
        }
    }
    Ok(entries)
}

fn toml_entry(
    name: &str,
    text: &str,
    verb: Option<String>,
    key: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
) -> Result<Entry, Failure> {
    let written = text[value.span()].lines().next().unwrap_or_default();
    let place = redact(&format!("{name}:{}: {} = {written}", line_of(text, key.span().start), key.get_ref()));
    let value = json_of(value.get_ref()).and_then(value_of).ok_or_else(|| usage(format!("in {place}: no setting has such a value")))?;
    Ok(Entry { verb, key: key.get_ref().to_string(), value, place })
}

/// The same value in JSON, which both kinds of file are read through; `None` for what JSON does not have (dates, infinities).
fn json_of(value: &DeValue<'_>) -> Option<serde_json::Value> {
    Some(match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix()).ok()?.into(),
        DeValue::Float(digits) => serde_json::Number::from_f64(digits.as_str().parse().ok()?)?.into(),
        DeValue::Boolean(switch) => (*switch).into(),
        DeValue::Datetime(_) => return None,
        DeValue::Array(items) => items.iter().map(|item| json_of(item.get_ref())).collect::<Option<Vec<_>>>()?.into(),
        DeValue::Table(table) => {
            let pairs = table.iter().map(|(key, value)| Some((key.get_ref().to_string(), json_of(value.get_ref())?)));
            pairs.collect::<Option<serde_json::Map<_, _>>>()?.into()
        }
    })
}

fn of_json(name: &str, text: &str, verbs: &[&str]) -> Result<Vec<Entry>, Failure> {
    let table: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text)
        .map_err(|e| usage(format!("{name}: not a JSON object of settings: line {}, column {}", e.line(), e.column())))?;
    let mut entries = Vec::new();
    let mut add = |verb: Option<&str>, key: String, value: serde_json::Value| {
        let place = redact(&format!("{name}: {key} = {value}"));
        let value = value_of(value).ok_or_else(|| usage(format!("in {place}: no setting has such a value")))?;
        entries.push(Entry { verb: verb.map(str::to_owned), key, value, place });
        Ok::<_, Failure>(())
    };
    for (key, value) in table {
        match value {
            serde_json::Value::Object(inner) if verbs.contains(&key.as_str()) => {
                inner.into_iter().try_for_each(|(inner_key, value)| add(Some(&key), inner_key, value))?;
            }
            // lm-eval's own files spell an absent setting so.
            serde_json::Value::Null => {}
            value => add(None, key, value)?,
        }
    }
    Ok(entries)
}

fn value_of(value: serde_json::Value) -> Option<Value> {
    use serde_json::Value as Json;
    let plain = |value: &Json| match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    };
    match &value {
        Json::Bool(switch) => Some(Value::Switch(*switch)),
        Json::Array(items) => items.iter().map(plain).collect::<Option<_>>().map(Value::Many),
        Json::Object(_) => Some(Value::Object(value.to_string())),
        other => plain(other).map(Value::One),
    }
}

fn line_of(text: &str, byte: usize) -> usize {
    text.as_bytes()[..byte.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(Exit::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(verb: Option<&str>, key: &str, value: Value, place: &str) -> Entry {
        Entry { verb: verb.map(str::to_owned), key: key.to_owned(), value, place: place.to_owned() }
    }

    #[test]
    fn toml_and_json_give_the_same_entries() {
        let toml = "limit = 0.5\noffline = true\ntasks = [\"a\", 1]\n[run]\nmodel_args = { pretrained = \"m\" }\n";
        let json = r#"{"limit": 0.5, "offline": true, "tasks": ["a", 1], "seed": null, "run": {"model_args": {"pretrained": "m"}}}"#;
        let expected = [
            ("limit", Value::One("0.5".into())),
            ("offline", Value::Switch(true)),
            ("tasks", Value::Many(vec!["a".into(), "1".into()])),
            ("model_args", Value::Object(r#"{"pretrained":"m"}"#.into())),
        ];
        for mut entries in [of_toml("f", toml, &["run"]).unwrap(), of_json("f", json, &["run"]).unwrap()] {
            entries.sort_by_key(|e| expected.iter().position(|(key, _)| *key == e.key));
            assert_eq!(entries.iter().map(|e| (e.key.as_str(), e.value.clone())).collect::<Vec<_>>(), expected);
            assert_eq!(entries[3].verb.as_deref(), Some("run"));
        }
        assert_eq!(
            of_toml("f.toml", "\n\nbase_url = \"http://u:p@h/v1\"", &[]).unwrap(),
            [entry(None, "base_url", Value::One("http://u:p@h/v1".into()), "f.toml:3: base_url = \"http://***@h/v1\"")]
        );
    }

    #[test]
    fn what_is_not_a_settings_file_is_refused_with_its_place() {
        for (text, place) in
            [("a = 1\nlimit = ", "f:2"), ("limit = 2020-01-01", "f:1: limit"), ("a = [[1]]", "f:1: a"), ("a = inf", "f:1: a")]
        {
            let failure = of_toml("f", text, &[]).expect_err(text);
            assert!(failure.message.contains(place), "{text}: {}", failure.message);
        }
        assert!(of_json("f", "[1]", &[]).is_err());
        assert!(read(Path::new("config.yaml"), &[]).unwrap_err().message.contains("YAML"));
        assert_eq!(read(Path::new("no/such/file.toml"), &[]).unwrap(), None);
    }
}
