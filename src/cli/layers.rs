//! From `argv` to settings: underscore spellings, then the layers under the flags, by one mechanism for every flag.
//!
//! A layer (the file of `--config`, the environment, `.env`, `swallow-eval.toml`) gives values for flags that nothing stronger set. They are
//! put into the command line as if typed, and that line is parsed: so a flag means the same wherever it is set, and no verb knows of layers.

use super::{
    args::Cli,
    exit::{Exit, Failure},
    setting_files::{self, SETTINGS_FILE, Value},
    settings::{self, DOTENV},
};
use crate::results::command_line::{CommandLine, redact};
use clap::{
    Arg, ArgAction, ArgMatches, CommandFactory, Parser,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as _,
    ffi::OsString,
    path::{Path, PathBuf},
};

const PREFIX: &str = "SWALLOW_EVAL_";

/// A parsed command line.
#[derive(Debug)]
pub struct Invocation {
    /// What is to be done.
    pub cli: Cli,
    /// The command line with every setting of the layers in it and every secret out of it: for `run.json`.
    pub command_line: CommandLine,
    /// What a person should know, such as a variable that sets nothing.
    pub notes: Vec<String>,
}

/// Why there is nothing to do.
#[derive(Debug)]
pub enum Stop {
    /// Help, version or a usage error, in clap's words.
    Clap(Box<clap::Error>),
    /// A layer is wrong.
    Failure(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failure(failure)
    }
}

impl From<clap::Error> for Stop {
    fn from(error: clap::Error) -> Self {
        Stop::Clap(Box::new(error))
    }
}

/// Where settings come from, apart from the flags.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The process environment.
    pub environment: BTreeMap<String, String>,
    /// The variables of `.env`.
    pub dotenv: BTreeMap<String, String>,
    /// `swallow-eval.toml`.
    pub settings_file: PathBuf,
}

impl Surroundings {
    /// This process and its working directory. [`settings::load`] comes first.
    pub(super) fn of_process() -> Self {
        let environment =
            std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
        Surroundings {
            environment: environment.filter(|(name, _)| name.starts_with(PREFIX)).collect(),
            dotenv: settings::dotenv().cloned().unwrap_or_default(),
            settings_file: PathBuf::from(SETTINGS_FILE),
        }
    }
}

/// A value that a layer gives to a flag.
struct Setting {
    /// Spelling of the flag without dashes; one of its long names.
    flag: String,
    value: Value,
    /// How an error names it: `in swallow-eval.toml:3: limit = "abc"`.
    place: String,
}

/// A setting that made it into the command line.
struct Injected {
    long: String,
    place: String,
}

/// Parses `argv`, the layers below it included.
///
/// # Errors
/// Help and usage errors as clap has them; exit 2 for a wrong layer, naming the layer.
pub fn parse(argv: impl IntoIterator<Item = OsString>, around: &Surroundings) -> Result<Invocation, Stop> {
    let argv = normalise(argv)?;
    let root = Cli::command();
    let matches = root.clone().try_get_matches_from(&argv)?;
    let (verbs, command, matches) = leaf(&root, &matches);

    let mut given: BTreeSet<&str> = command.get_arguments().map(|arg| arg.get_id().as_str()).filter(|id| typed(matches, id)).collect();
    let mut line = argv[..=verbs.len()].to_vec();
    let mut injected = Vec::new();
    for layer in layers(&root, command, &verbs, matches, around)? {
        let mut of_this_layer = Vec::new();
        for setting in layer {
            let Some((arg, words)) = words(command, &setting)? else { continue };
            let id = arg.get_id().as_str();
            if !given.contains(id) && !given.iter().any(|other| conflict(command, arg, other)) {
                injected.push(Injected { long: arg.get_long().unwrap_or(id).to_owned(), place: setting.place });
                line.extend(words);
                of_this_layer.push(id);
            }
        }
        given.extend(of_this_layer);
    }
    line.extend_from_slice(&argv[verbs.len() + 1..]);

    let cli = Cli::try_parse_from(&line).map_err(|error| explain(error, &injected))?;
    let command_line = CommandLine::redacted(line.iter().map(|word| word.to_string_lossy().into_owned()));
    Ok(Invocation { cli, command_line, notes: idle_variables(&root, around) })
}

/// Underscores of long flags become dashes, as far as the first bare `--`; a key on the command line is refused before anything echoes it.
fn normalise(argv: impl IntoIterator<Item = OsString>) -> Result<Vec<OsString>, Failure> {
    let mut plain = Vec::new();
    let mut flags_ended = false;
    for word in argv {
        flags_ended |= word == "--";
        let flag = word.to_str().filter(|word| !flags_ended && word.starts_with("--"));
        let Some(flag) = flag else {
            plain.push(word);
            continue;
        };
        let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
        let name = name.replace('_', "-");
        if name == "--api-key" {
            return Err(key_on_command_line("--api-key"));
        }
        plain.push(value.map_or_else(|| name.clone(), |value| format!("{name}={value}")).into());
    }
    if plain.len() > 1 && plain[1].to_str().is_some_and(|first| matches!(first, "--model" | "--tasks" | "--suite" | "--demo")) {
        return Err(
            Failure::new(Exit::Usage, "a verb is missing before the flags").hint("swallow-eval run --model ... (see swallow-eval --help)")
        );
    }
    Ok(plain)
}

/// Keys have their own way in.
pub(super) fn key_on_command_line(what: &str) -> Failure {
    Failure::new(Exit::Usage, format!("{what}: keys are not taken from flags, where process lists and shell histories show them"))
        .hint("export OPENAI_API_KEY (or SWALLOW_EVAL_API_KEY), or write it into .env")
}

/// The innermost verb that was given, with its names from the outside in.
fn leaf<'a>(root: &'a clap::Command, matches: &'a ArgMatches) -> (Vec<&'a str>, &'a clap::Command, &'a ArgMatches) {
    let (mut names, mut command, mut matches) = (Vec::new(), root, matches);
    while let Some((name, inner)) = matches.subcommand() {
        let Some(found) = command.find_subcommand(name) else { break };
        names.push(name);
        (command, matches) = (found, inner);
    }
    (names, command, matches)
}

/// The layers that bear on this verb, strongest first.
fn layers(
    root: &clap::Command,
    command: &clap::Command,
    verbs: &[&str],
    matches: &ArgMatches,
    around: &Surroundings,
) -> Result<Vec<Vec<Setting>>, Failure> {
    let named = command.get_arguments().any(|arg| arg.get_id() == "config").then(|| matches.get_one::<PathBuf>("config")).flatten();
    let mut layers = Vec::new();
    if let Some(path) = named {
        let missing = || Failure::new(Exit::Usage, format!("--config {}: there is no such file", path.display()));
        layers.push(file_layer(root, verbs, path)?.ok_or_else(missing)?);
    }
    layers.push(variable_layer(command, &around.environment, "the environment"));
    layers.push(variable_layer(command, &around.dotenv, DOTENV));
    layers.push(file_layer(root, verbs, &around.settings_file)?.unwrap_or_default());
    Ok(layers)
}

fn variable_layer(command: &clap::Command, variables: &BTreeMap<String, String>, layer: &str) -> Vec<Setting> {
    let mut settings = Vec::new();
    for flag in command.get_arguments().flat_map(long_names).filter(|flag| everywhere(command, flag)) {
        let name = variable(&flag);
        if let Some(value) = variables.get(&name).filter(|value| !value.is_empty()) {
            let place = redact(&format!("in {layer}: {name}={value}"));
            settings.push(Setting { flag, value: Value::One(value.clone()), place });
        }
    }
    settings
}

/// Settings of a file that bear on this verb. Every key is checked, those of other verbs too: a misspelt key must not wait for its verb.
fn file_layer(root: &clap::Command, verbs: &[&str], path: &Path) -> Result<Option<Vec<Setting>>, Failure> {
    let names: Vec<&str> = root.get_subcommands().map(clap::Command::get_name).collect();
    let Some(entries) = setting_files::read(path, &names)? else { return Ok(None) };
    let command = verbs.iter().try_fold(root, |command, verb| command.find_subcommand(verb)).unwrap_or(root);
    let mut settings = Vec::new();
    for entry in entries {
        let flag = entry.key.replace('_', "-");
        let scope = entry.verb.as_deref().and_then(|verb| root.find_subcommand(verb)).unwrap_or(root);
        let known = all_flags(scope);
        if !known.contains(&flag) {
            return Err(unknown_key(&entry, &flag, known));
        }
        let bears = match entry.verb.as_deref() {
            Some(verb) => verbs.first() == Some(&verb),
            None => everywhere(command, &flag),
        };
        if bears {
            settings.push((entry.verb.is_none(), Setting { flag, value: entry.value, place: format!("in {}", entry.place) }));
        }
    }
    // A verb's own table is stronger than the top level of the same file.
    settings.sort_by_key(|(top_level, _)| *top_level);
    let mut seen = BTreeSet::new();
    Ok(Some(settings.into_iter().map(|(_, setting)| setting).filter(|setting| seen.insert(setting.flag.clone())).collect()))
}

fn unknown_key(entry: &setting_files::Entry, flag: &str, known: BTreeSet<String>) -> Failure {
    if flag == "api-key" {
        return key_on_command_line(&format!("in {}", entry.place.split(" = ").next().unwrap_or_default()));
    }
    let whose = entry.verb.as_ref().map_or_else(|| "any verb".to_owned(), |verb| format!("`{verb}`"));
    let failure = Failure::new(Exit::Usage, format!("in {}: there is no setting {:?} of {whose}", entry.place, entry.key));
    match nearest(flag, known.iter().map(String::as_str)) {
        Some(near) => failure.hint(format!("did you mean {}?", near.replace('-', "_"))),
        None => failure.hint("the settings are the long flags that `swallow-eval VERB --help` shows"),
    }
}

/// The words that say a setting on the command line, and the flag they set; `None` where this verb does not have it, or they say nothing.
fn words<'a>(command: &'a clap::Command, setting: &Setting) -> Result<Option<(&'a Arg, Vec<OsString>)>, Failure> {
    let find = |long: &str| command.get_arguments().find(|arg| long_names(arg).iter().any(|name| name == long));
    let Some(arg) = find(&setting.flag) else { return Ok(None) };
    let long = arg.get_long().unwrap_or_default();
    let wrong = |what: &str| Failure::new(Exit::Usage, format!("{}: {what}", setting.place));
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        let on = match &setting.value {
            Value::Switch(on) => Some(*on),
            Value::One(text) => switch(text),
            Value::Many(_) | Value::Object(_) => None,
        };
        return match on.ok_or_else(|| wrong("it is a switch: true or false"))? {
            true => Ok(Some((arg, vec![format!("--{long}").into()]))),
            // `log_samples = false` is `--no-log-samples`; a switch that is off already needs no word.
            false => Ok(find(&format!("no-{long}")).map(|opposite| (opposite, vec![format!("--no-{long}").into()]))),
        };
    }
    let text = match &setting.value {
        Value::Switch(_) => return Err(wrong("it takes a value, not true or false")),
        Value::One(text) | Value::Object(text) => text.clone(),
        Value::Many(items) if arg.get_value_delimiter().is_some() || long == "model-args" => items.join(","),
        Value::Many(_) => return Err(wrong("it takes one value, not a list")),
    };
    Ok(Some((arg, vec![format!("--{long}={text}").into()])))
}

fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// A usage error that a layer caused is told in the layer's words; one of the typed line stays clap's.
fn explain(error: clap::Error, injected: &[Injected]) -> Stop {
    let named = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        Some(ContextValue::Strings(texts)) => texts.first().map(String::as_str),
        _ => None,
    };
    let of = |text: &str| {
        let long = text.strip_prefix("--")?.split([' ', '=']).next()?;
        injected.iter().rev().find(|setting| setting.long == long)
    };
    let blamed = [ContextKind::InvalidArg, ContextKind::PriorArg].into_iter().filter_map(named).find_map(of);
    let Some(setting) = blamed else { return error.into() };
    let why = match (error.kind(), error.source(), error.get(ContextKind::ValidValue)) {
        (ErrorKind::ArgumentConflict, ..) => error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned(),
        (_, Some(why), _) => why.to_string(),
        (_, _, Some(ContextValue::Strings(values))) => format!("it is one of {}", values.join(", ")),
        _ => "it is not a value of that setting".to_owned(),
    };
    Failure::new(Exit::Usage, format!("{}: {why}", setting.place)).into()
}

/// Variables with our prefix that look like a misspelt setting.
fn idle_variables(root: &clap::Command, around: &Surroundings) -> Vec<String> {
    let known: BTreeSet<String> = all_flags(root).iter().map(|flag| variable(flag)).collect();
    // Variables of ours that are not flags; tests and scripts have more of them, which no setting's name comes near.
    let own = ["HOME", "DATA", "GOLDEN", "API_KEY"].map(|name| format!("{PREFIX}{name}"));
    let names: BTreeSet<&String> = around.environment.keys().chain(around.dotenv.keys()).filter(|name| name.starts_with(PREFIX)).collect();
    let strangers = names.into_iter().filter(|name| !known.contains(*name) && !own.contains(name));
    strangers
        .filter_map(|name| nearest(name, known.iter().map(String::as_str)).map(|near| format!("{name} sets nothing; did you mean {near}?")))
        .collect()
}

/// The name closest to a misspelt one, if it is close.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    use rapidfuzz::distance::osa::normalized_similarity;
    let rated = known.into_iter().map(|other| (normalized_similarity(name.chars(), other.chars()), other));
    rated.filter(|(likeness, _)| *likeness >= 0.7).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, other)| other)
}

/// Whether a value for all verbs bears on this one: `--output` is a folder of `run` and a file elsewhere, where only the verb's own table sets it.
fn everywhere(command: &clap::Command, flag: &str) -> bool {
    flag != "output" || command.get_name() == "run"
}

fn conflict(command: &clap::Command, arg: &Arg, other: &str) -> bool {
    let declared = |a: &Arg, b: &str| command.get_arg_conflicts_with(a).iter().any(|c| c.get_id() == b);
    declared(arg, other) || command.get_arguments().any(|o| o.get_id() == other && declared(o, arg.get_id().as_str()))
}

fn typed(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
}

fn all_flags(command: &clap::Command) -> BTreeSet<String> {
    let own = command.get_arguments().flat_map(long_names);
    own.chain(command.get_subcommands().flat_map(all_flags)).collect()
}

/// Every spelling of a flag that a layer may set; a settings file does not name another one.
fn long_names(arg: &Arg) -> Vec<String> {
    let names = arg.get_long().into_iter().chain(arg.get_all_aliases().into_iter().flatten());
    names.filter(|name| !matches!(*name, "help" | "version" | "config" | "resume")).map(str::to_owned).collect()
}

fn variable(flag: &str) -> String {
    format!("{PREFIX}{}", flag.replace('-', "_").to_ascii_uppercase())
}
