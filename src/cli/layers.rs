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
    /// The arguments with every setting of the layers among them and every secret out of them: for `run.json`.
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
    let command_line = CommandLine::redacted(line.iter().skip(1).map(|word| word.to_string_lossy().into_owned()));
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
    let settings: Vec<&str> = known.iter().filter_map(|name| name.strip_prefix(PREFIX)).collect();
    let set: BTreeSet<&str> = around.environment.keys().chain(around.dotenv.keys()).filter_map(|name| name.strip_prefix(PREFIX)).collect();
    // Variables of ours that are not flags; tests and scripts have more of them, which no setting's name comes near.
    let strangers =
        set.into_iter().filter(|name| !settings.contains(name) && !["HOME", "DATA", "GOLDEN", "API_KEY", "COMMIT"].contains(name));
    let near = |name| Some((name, nearest(name, settings.iter().copied())?));
    strangers.filter_map(near).map(|(name, near)| format!("{PREFIX}{name} sets nothing; did you mean {PREFIX}{near}?")).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{args::Command, run_args::RunArgs};

    /// Layers for one test: variables, `.env`, and a settings file in a folder of its own.
    fn around(environment: &[(&str, &str)], dotenv: &[(&str, &str)], toml: &str) -> (Surroundings, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let settings_file = folder.path().join(SETTINGS_FILE);
        std::fs::write(&settings_file, toml).unwrap();
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        (Surroundings { environment: map(environment), dotenv: map(dotenv), settings_file }, folder)
    }

    fn parse_line(line: &str, around: &Surroundings) -> Result<Invocation, Stop> {
        parse(line.split(' ').map(OsString::from), around)
    }

    fn run_args(line: &str, around: &Surroundings) -> RunArgs {
        match parse_line(line, around).expect(line).cli.command {
            Command::Run(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn message(line: &str, around: &Surroundings) -> String {
        match parse_line(line, around) {
            Err(Stop::Failure(failure)) => format!("{} | {}", failure.message, failure.hint.unwrap_or_default()),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_strongest_layer_wins() {
        let (env, dot, toml) =
            (("SWALLOW_EVAL_MODEL", "of-env"), ("SWALLOW_EVAL_MODEL", "of-dotenv"), "model = \"of-top\"\n[run]\nmodel = \"of-run\"\n");
        for (line, environment, dotenv, toml, expected) in [
            ("swallow-eval run --model typed", &[env][..], &[dot][..], toml, "typed"),
            ("swallow-eval run", &[env], &[dot], toml, "of-env"),
            ("swallow-eval run", &[], &[dot], toml, "of-dotenv"),
            ("swallow-eval run", &[("SWALLOW_EVAL_MODEL", "")], &[], toml, "of-run"),
            ("swallow-eval run", &[], &[], "model = \"of-top\"", "of-top"),
        ] {
            let (around, _folder) = around(environment, dotenv, toml);
            assert_eq!(run_args(line, &around).model.as_deref(), Some(expected), "{line} {environment:?} {dotenv:?}");
        }
    }

    #[test]
    fn a_named_file_stands_between_flags_and_environment() {
        let (around, folder) = around(&[("SWALLOW_EVAL_MODEL", "of-env"), ("SWALLOW_EVAL_LIMIT", "7")], &[], "");
        let named = folder.path().join("named.json");
        std::fs::write(&named, r#"{"model": "of-file", "tasks": ["a", "b"], "gen_kwargs": {"top_k": 3}}"#).unwrap();
        let args = run_args(&format!("swallow-eval run --tasks c -C {}", named.display()), &around);
        assert_eq!((args.model.as_deref(), args.tasks.as_slice()), (Some("of-file"), &["c".to_owned()][..]));
        assert_eq!(args.limit, Some(crate::results::spec::Limit::Count(7)));
        assert_eq!(args.gen_kwargs.as_deref(), Some(r#"{"top_k":3}"#));
        assert!(message("swallow-eval run -C no/such.toml", &around).contains("no/such.toml: there is no such file"));
    }

    #[test]
    fn every_kind_of_value_reaches_its_flag() {
        let toml = "tasks = [\"a\", \"b\"]\noffline = true\nquiet = false\nlog_samples = false\nmax_failures = 0.5\nmax-retries = 3\n\
                    model_args = { pretrained = \"m\" }\noutput_path = \"out\"\nthreads = 0x10\nsamples = { a = [1] }";
        let (around, _folder) = around(&[("SWALLOW_EVAL_SKIP_MISSING", "yes"), ("SWALLOW_EVAL_NUM_CONCURRENT", "9")], &[], toml);
        let args = run_args("swallow-eval run --base-url http://a/v1", &around);
        assert_eq!(args.tasks, ["a", "b"]);
        assert_eq!((args.offline, args.quiet, args.no_log_samples, args.skip_missing), (true, false, true, true));
        assert_eq!(args.max_failures, crate::run::MaxFailures::Ratio(0.5));
        assert_eq!((args.max_retries, args.max_connections.map(usize::from), args.threads.map(usize::from)), (Some(3), Some(9), Some(16)));
        assert_eq!(args.model_args, [r#"{"pretrained":"m"}"#]);
        assert_eq!(args.output, PathBuf::from("out"));
        assert_eq!(args.samples.unwrap().0["a"], [1]);
    }

    #[test]
    fn a_weaker_setting_gives_way_to_a_flag_that_excludes_it() {
        let (around, _folder) = around(&[("SWALLOW_EVAL_MODEL", "m")], &[], "demo = true\nlimit = 5");
        assert!(run_args("swallow-eval run --demo", &around).model.is_none());
        let args = run_args("swallow-eval run --samples {\"a\":[1]}", &around);
        assert_eq!((args.demo, args.model.as_deref(), args.limit), (false, Some("m"), None));
    }

    #[test]
    fn a_wrong_setting_names_its_place() {
        let toml_of = |text: &str| around(&[], &[], text);
        for (toml, parts) in [
            ("\nlimit = \"abc\"", &["swallow-eval.toml:2: limit = \"abc\": a limit is"][..]),
            ("[run]\nlimt = 3", &["swallow-eval.toml:2: limt = 3", "no setting \"limt\" of `run`", "did you mean limit?"]),
            ("[report]\nlimit = 3", &["no setting \"limit\" of `report`"]),
            ("zzz = 3", &["no setting \"zzz\" of any verb", "long flags"]),
            ("resume = \"r\"", &["no setting \"resume\""]),
            ("dtype = \"int8\"", &["dtype = \"int8\": it is one of auto, f32, bf16, f16"]),
            ("offline = \"perhaps\"", &["offline = \"perhaps\": it is a switch"]),
            ("limit = true", &["limit = true: it takes a value"]),
            ("limit = [1, 2]", &["limit = [1, 2]: it takes one value"]),
            ("demo = true\nmodel = \"m\"", &["swallow-eval.toml", "cannot be used with"]),
            ("api_key = \"sk-secret\"", &["swallow-eval.toml:1: api_key", "keys are not taken", "OPENAI_API_KEY"]),
            ("limit = ", &["swallow-eval.toml:1"]),
        ] {
            let (around, _folder) = toml_of(toml);
            let message = message("swallow-eval run", &around);
            parts.iter().for_each(|part| assert!(message.contains(part), "{toml}: {message}"));
            assert!(!message.contains("sk-secret"), "{message}");
        }
        let (env_only, _folder) = around(&[("SWALLOW_EVAL_LIMIT", "0")], &[], "");
        assert!(message("swallow-eval run", &env_only).starts_with("in the environment: SWALLOW_EVAL_LIMIT=0: a limit is"));
        let (dot_only, _folder) = around(&[], &[("SWALLOW_EVAL_SHARD", "3/2")], "");
        assert!(message("swallow-eval run", &dot_only).starts_with("in .env: SWALLOW_EVAL_SHARD=3/2: a shard is"));
    }

    #[test]
    fn other_verbs_take_only_their_own() {
        let (around, _folder) =
            around(&[("SWALLOW_EVAL_OUTPUT", "out"), ("SWALLOW_EVAL_FORMAT", "csv")], &[], "output = \"top\"\nlimit = 3");
        let Command::Report(args) = parse_line("swallow-eval report r", &around).unwrap().cli.command else { panic!("not report") };
        assert_eq!(args.output, None, "a folder for runs must not become the report's file");
        assert!(parse_line("swallow-eval tasks show jmmlu", &around).is_ok());
        assert_eq!(run_args("swallow-eval run", &around).output, PathBuf::from("out"));
    }

    #[test]
    fn underscores_keys_and_notes() {
        let (nothing, _folder) =
            around(&[("SWALLOW_EVAL_LIMTI", "3"), ("SWALLOW_EVAL_HOME", "h"), ("SWALLOW_EVAL_SOME_TEST_SERVER", "x")], &[], "");
        let args = run_args("swallow-eval run --num_fewshot=2 --output_path out_dir --gen_kwargs max_gen_toks=3", &nothing);
        assert_eq!(
            (args.num_fewshot, args.output, args.gen_kwargs.as_deref()),
            (Some(2), PathBuf::from("out_dir"), Some("max_gen_toks=3"))
        );
        for line in ["swallow-eval run --api_key sk-secret", "swallow-eval run --api-key=sk-secret"] {
            assert!(!message(line, &nothing).contains("sk-secret"), "{line}");
        }
        assert!(message("swallow-eval --model hf --tasks a", &nothing).contains("a verb is missing"));
        let invocation = parse_line("swallow-eval run --base-url http://u:sk-secret@h/v1", &nothing).unwrap();
        assert_eq!(invocation.command_line.arguments().last().map(String::as_str), Some("http://***@h/v1"));
        assert_eq!(invocation.notes, ["SWALLOW_EVAL_LIMTI sets nothing; did you mean SWALLOW_EVAL_LIMIT?"]);
    }

    #[test]
    fn the_command_line_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
