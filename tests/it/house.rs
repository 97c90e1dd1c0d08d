//! The house rules of ARCHITECTURE.md, held: who imports whom, what may live where, sizes, what a task must bring, licences, and that the
//! commands of the documents parse. Each rule is also shown to fail on a bad example.

mod scan;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::{Path, PathBuf},
};
use swallow_eval::cli::layers::{self, Surroundings};

/// A room, the rooms it may import, and the wall in one sentence. Rooms that later issues build stand here already.
const ROOMS: &[(&str, &[&str], &str)] = &[
    ("text", &[], "text lies beneath every room and knows none"),
    ("dataset", &[], "dataset knows files and records, no task, no prompt, no model"),
    ("engine", &["text"], "an engine never sees a right answer, a task or a score"),
    ("metric", &["text"], "metric is formulas: no I/O, no tasks, no engines"),
    ("sandbox", &[], "sandbox knows programs and limits, no problems and no scores"),
    ("task", &["text", "dataset", "engine", "metric"], "task describes a benchmark; it fetches nothing and asks nobody"),
    ("prompt", &["text", "engine", "task"], "prompt makes requests; it scores nothing"),
    ("answer", &["text", "engine", "metric", "task"], "answer turns responses into answers; it does no I/O and gives no score"),
    ("judge", &["engine", "task"], "judge asks about answers and does not know whose they are"),
    ("results", &["engine", "metric", "task"], "results keeps formats on disk; it prints nothing and computes no statistics"),
    ("report", &["metric", "results", "task"], "report turns numbers into text; it opens no file and asks no engine"),
    ("compare", &["metric", "report", "results"], "compare judges differences; it chooses no exit code"),
    (
        "certify",
        &["text", "dataset", "engine", "metric", "sandbox", "task", "prompt", "answer", "judge"],
        "certify replays goldens through the rooms a run uses and has no rule of its own",
    ),
    (
        "run",
        &["text", "dataset", "engine", "metric", "sandbox", "task", "prompt", "answer", "judge", "results", "report", "compare"],
        "run is the order of things; formats for people and flags are cli's",
    ),
    (
        "cli",
        &[
            "text", "dataset", "engine", "metric", "sandbox", "task", "prompt", "answer", "judge", "results", "report", "compare",
            "certify", "run",
        ],
        "cli is the outermost room",
    ),
];

/// What may be named only in some places, tests apart: a path's beginning, the modules, and why.
const CONFINED: &[(&str, &[&str], &str)] = &[
    ("tokio", &["dataset::fetch", "dataset::hub", "engine::endpoint"], "async stays behind the synchronous functions of these modules"),
    ("reqwest", &["dataset::fetch", "dataset::hub", "engine::endpoint"], "only these open sockets"),
    ("std::net", &["dataset::fetch", "dataset::hub", "engine::endpoint"], "only these open sockets"),
    ("hf_hub", &["dataset::hub"], "a hub id becomes a directory in one place"),
    ("candle_core", &["engine::llama"], "tensors stay inside the in-process engine"),
    ("candle_nn", &["engine::llama"], "tensors stay inside the in-process engine"),
    ("polars", &["dataset::read", "results::frame"], "frames are for reading data and for comparing runs"),
    ("clap", &["cli"], "flags are cli's"),
    ("indicatif", &["cli"], "progress is drawn by cli"),
    ("std::process::Command", &["sandbox"], "only the sandbox starts processes"),
    ("std::fs::write", &["results", "dataset", "cli"], "only results writes under a run directory"),
    ("std::fs::File::create", &["results", "dataset", "cli"], "only results writes under a run directory"),
    ("std::fs::OpenOptions", &["results", "dataset", "cli"], "only results writes under a run directory"),
    ("std::fs::create_dir_all", &["results", "dataset", "cli"], "only results writes under a run directory"),
    ("std::io::stdout", &["cli"], "only cli prints"),
    ("std::io::stderr", &["cli"], "only cli prints"),
];

/// Rooms whose functions cannot fail because they do no I/O.
const PURE: [&str; 3] = ["metric", "answer", "report"];
const OUTSIDE_WORLD: [&str; 5] = ["std::fs", "std::net", "std::process", "std::env", "std::io"];

const FILE_LINES: usize = 500;
/// Longer than a screen is told; this long fails.
const FUNCTION_LINES: (usize, usize) = (60, 100);

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Files below a folder with that extension, in order; none where the folder is not there.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    paths.sort();
    let inside = |path: PathBuf| if path.is_dir() { files(&path, extension) } else { vec![path] };
    paths.into_iter().flat_map(inside).filter(|path| path.extension().is_some_and(|e| e == extension)).collect()
}

/// A source file as the rules see it.
struct Source {
    /// From the repository root.
    name: String,
    module: Vec<String>,
    text: String,
    tests: Tests,
}

/// Which lines of a file are tests.
enum Tests {
    All,
    Lines(Vec<std::ops::RangeInclusive<usize>>),
}

impl Source {
    fn new(name: &str, text: &str) -> Self {
        let path = name.trim_start_matches("src/").trim_end_matches(".rs");
        let module = path.split('/').filter(|part| *part != "mod" && *part != "lib").map(str::to_owned).collect();
        Source { name: name.to_owned(), module, text: text.to_owned(), tests: Tests::Lines(scan::test_lines(text)) }
    }

    /// The room; `main.rs` counts as cli, `lib.rs` only lists the rooms.
    fn room(&self) -> &str {
        match self.module.first().map_or("", String::as_str) {
            "main" => "cli",
            room => room,
        }
    }

    fn paths(&self) -> Vec<scan::SourcePath> {
        scan::paths(&self.text, &self.module.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn in_test(&self, line: usize) -> bool {
        match &self.tests {
            Tests::All => true,
            Tests::Lines(ranges) => ranges.iter().any(|range| range.contains(&line)),
        }
    }
}

fn sources() -> Vec<Source> {
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        Source::new(&name, &std::fs::read_to_string(&path).unwrap())
    };
    let mut sources: Vec<Source> = files(&root().join("src"), "rs").into_iter().map(read).collect();
    let below = |source: &Source, name: String| source.module.iter().cloned().chain([name]).collect::<Vec<_>>();
    let tests: Vec<Vec<String>> =
        sources.iter().flat_map(|source| scan::test_modules(&source.text).into_iter().map(|name| below(source, name))).collect();
    for source in sources.iter_mut().filter(|source| tests.contains(&source.module)) {
        source.tests = Tests::All;
    }
    sources
}

fn room(name: &str) -> Option<&'static (&'static str, &'static [&'static str], &'static str)> {
    ROOMS.iter().find(|(room, ..)| *room == name)
}

/// Imports that go through a wall.
fn forbidden_imports(source: &Source) -> Vec<String> {
    let Some((own, allowed, wall)) = room(source.room()) else { return Vec::new() };
    let mut found = Vec::new();
    for path in source.paths().iter().filter(|path| path.parts.first().is_some_and(|part| part == "crate")) {
        let Some(target) = path.parts.get(1) else { continue };
        let into_room = room(target).is_some() || target == "*";
        if into_room && target != own && !allowed.contains(&target.as_str()) {
            found.push(format!("{}:{}: {own} may not import {target}: {wall}", source.name, path.line));
        }
    }
    found.dedup();
    found
}

/// Things named outside the modules they are confined to.
fn misplaced(source: &Source) -> Vec<String> {
    let module = source.module.join("::");
    let lies_in = |place: &str| source.room() == place || module == place || module.starts_with(&format!("{place}::"));
    let begins =
        |path: &scan::SourcePath, what: &str| what.split("::").enumerate().all(|(i, part)| path.parts.get(i).is_some_and(|p| p == part));
    let mut found = Vec::new();
    for path in source.paths().iter().filter(|path| !source.in_test(path.line)) {
        for (what, places, why) in CONFINED.iter().filter(|(what, ..)| begins(path, what)) {
            if !places.iter().any(|place| lies_in(place)) {
                found.push(format!("{}:{}: {what} belongs to {}: {why}", source.name, path.line, places.join(", ")));
            }
        }
        if PURE.contains(&source.room()) && OUTSIDE_WORLD.iter().any(|what| begins(path, what)) {
            found.push(format!("{}:{}: {} does no I/O, so that it cannot fail", source.name, path.line, source.room()));
        }
    }
    let macros = ["println", "print", "eprintln", "eprint"];
    for pair in scan::tokens(&source.text).windows(2) {
        if pair[1].text == "!" && macros.contains(&pair[0].text.as_str()) && source.room() != "cli" && !source.in_test(pair[0].line) {
            found.push(format!("{}:{}: {}! belongs to cli: only cli prints", source.name, pair[0].line, pair[0].text));
        }
    }
    found
}

/// Rooms that import each other in a ring, given who may import whom.
fn ring(table: &[(&str, &[&str], &str)]) -> Option<Vec<String>> {
    let mut left: BTreeMap<&str, BTreeSet<&str>> =
        table.iter().map(|(room, allowed, _)| (*room, allowed.iter().copied().collect())).collect();
    while !left.is_empty() {
        let Some(free) = left.iter().find(|(_, needs)| needs.iter().all(|need| !left.contains_key(need))).map(|(room, _)| *room) else {
            return Some(left.into_keys().map(str::to_owned).collect());
        };
        left.remove(free);
    }
    None
}

fn assert_none(found: Vec<String>) {
    assert!(found.is_empty(), "{} found:\n{}", found.len(), found.join("\n"));
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    assert_eq!(ring(ROOMS), None);
    assert_none(sources().iter().flat_map(forbidden_imports).collect());
}

#[test]
fn every_room_stands_in_the_table() {
    let lib = Source::new("src/lib.rs", &std::fs::read_to_string(root().join("src/lib.rs")).unwrap());
    let tokens = scan::tokens(&lib.text);
    let listed: BTreeSet<&str> = tokens.windows(2).filter(|pair| pair[0].text == "mod").map(|pair| pair[1].text.as_str()).collect();
    assert!(!listed.is_empty());
    assert_none(
        listed.into_iter().filter(|name| room(name).is_none()).map(|name| format!("room {name} is not in the import table")).collect(),
    );
}

#[test]
fn things_stay_in_their_place() {
    assert_none(sources().iter().flat_map(misplaced).collect());
}

#[test]
fn the_walls_are_seen_when_they_are_crossed() {
    for (file, text, sentence) in [
        ("src/metric/bleu.rs", "use crate::task::Task;", "src/metric/bleu.rs:1: metric may not import task: metric is formulas"),
        (
            "src/engine/llama/mod.rs",
            "\nuse crate::{text, metric::{self, Score}};",
            "src/engine/llama/mod.rs:2: engine may not import metric",
        ),
        ("src/engine/mod.rs", "fn f() { super::task::load() }", "engine may not import task"),
        ("src/engine/llama/model.rs", "use super::super::super::dataset;", "engine may not import dataset"),
        ("src/text/mod.rs", "use super::*;", "text may not import *"),
        ("src/report/mod.rs", "mod tests { use super::super::run::plan; }", "report may not import run"),
        ("src/run/mod.rs", "use crate::certify;", "run may not import certify"),
    ] {
        let found = forbidden_imports(&Source::new(file, text));
        assert!(found.len() == 1 && found[0].contains(sentence), "{file}: {found:?}");
    }
    for (file, text, sentence) in [
        ("src/task/load.rs", "async fn f() { tokio::time::sleep(d).await }", "tokio belongs to"),
        ("src/engine/replay.rs", "use reqwest::Client;", "reqwest belongs to"),
        ("src/engine/chat.rs", "use candle_core::{Device, Tensor};", "candle_core belongs to engine::llama"),
        ("src/run/ask.rs", "fn f() { println!(\"x\") }", "println! belongs to cli"),
        ("src/run/ask.rs", "use std::{fs::{self, OpenOptions}, io};", "only results writes under a run directory"),
        ("src/certify/mod.rs", "use std::process::{Command, Stdio};", "only the sandbox starts processes"),
        ("src/metric/mod.rs", "use std::fs;", "metric does no I/O"),
    ] {
        let found = misplaced(&Source::new(file, text));
        assert!(found.iter().any(|line| line.contains(sentence)), "{file}: {found:?}");
    }
    let inside = Source::new("src/engine/endpoint/mod.rs", "use tokio::net; use crate::text; mod tests { fn f() { println!() } }");
    assert_none(misplaced(&inside).into_iter().chain(forbidden_imports(&inside)).collect());
    assert_eq!(ring(&[("a", &["b"], ""), ("b", &["a"], ""), ("c", &[], "")]), Some(vec!["a".to_owned(), "b".to_owned()]));
}

#[test]
fn files_and_functions_are_of_a_size_to_read() {
    let mut found = Vec::new();
    for path in files(&root().join("src"), "rs").into_iter().chain(files(&root().join("tests"), "rs")) {
        let (name, text) = (path.strip_prefix(root()).unwrap().display().to_string(), std::fs::read_to_string(&path).unwrap());
        let lines = text.lines().count();
        if lines > FILE_LINES {
            found.push(format!("{name}: {lines} lines; a file has at most {FILE_LINES}"));
        }
        for function in scan::functions(&text).into_iter().filter(|f| f.lines > FUNCTION_LINES.0) {
            let told =
                format!("{name}:{}: fn {} has {} lines; {} fit a screen", function.line, function.name, function.lines, FUNCTION_LINES.0);
            if function.lines > FUNCTION_LINES.1 { found.push(told) } else { eprintln!("warning: {told}") }
        }
    }
    assert_none(found);
}

/// What a task file lacks beside it.
fn lacking(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for path in files(&root.join("tasks"), "toml").into_iter().filter(|path| path.file_name().is_some_and(|n| n != "suite.toml")) {
        let file: toml::Table = toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let name = path.strip_prefix(root).unwrap().display();
        let dataset = file["dataset"].as_str().unwrap();
        let golden = file["aliases"][0].as_str().unwrap();
        for needed in [format!("datasets/{dataset}.toml"), format!("samples/{dataset}.jsonl")] {
            if !root.join(&needed).is_file() {
                found.push(format!("{name} has no {needed}: add it (see CONTRIBUTING.md, add a task)"));
            }
        }
        let kinds = std::fs::read_dir(root.join("tests/golden")).into_iter().flatten().map(|kind| kind.unwrap().path().join(golden));
        // A judged benchmark is a kind of its own, whose conversations with the judge are a folder of it.
        let judged = root.join("tests/golden").join(golden).join("judge");
        if !kinds
            .chain([judged])
            .into_iter()
            .any(|folder| folder.join("requests.jsonl").is_file() && folder.join("scoring.jsonl").is_file())
        {
            found.push(format!(
                "{name} has no tests/golden/KIND/{golden}/ with requests.jsonl and scoring.jsonl: add it (see CONTRIBUTING.md)"
            ));
        }
    }
    found
}

#[test]
fn every_task_brings_manifest_sample_and_golden() {
    assert!(!files(&root().join("tasks"), "toml").is_empty());
    assert_none(lacking(&root()));
}

#[test]
fn a_task_alone_is_told_what_it_lacks() {
    let house = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(house.path().join("tasks/p/ja")).unwrap();
    std::fs::write(house.path().join("tasks/p/ja/new.toml"), "dataset = \"d\"\naliases = [\"a\"]").unwrap();
    let found = lacking(house.path());
    for part in ["datasets/d.toml", "samples/d.jsonl", "tests/golden/KIND/a/"] {
        assert!(found.iter().any(|line| line.contains(part)), "{part}: {found:?}");
    }
}

/// Commands of a document's code blocks: lines that begin with the program's name or with `cargo run`, variables before them left out.
fn commands(markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    for block in markdown.split("```").skip(1).step_by(2) {
        for line in block.replace("\\\n", " ").lines() {
            let line = line.split("  #").next().unwrap_or_default().trim();
            let words = line.split(' ').skip_while(|word| word.contains('=') && !word.starts_with('-')).collect::<Vec<_>>().join(" ");
            if let Some(rest) = ["swallow-eval ", "cargo run --release -- "].into_iter().find_map(|start| words.strip_prefix(start)) {
                found.push(rest.to_owned());
            }
        }
    }
    found
}

/// Words as a shell takes them apart, quotes removed.
fn shell_words(line: &str) -> Vec<OsString> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words.into_iter().map(OsString::from).collect()
}

fn parses(command: &str) -> Result<(), String> {
    let argv = [OsString::from("swallow-eval")].into_iter().chain(shell_words(command));
    layers::parse(argv, &Surroundings::default()).map(drop).map_err(|stop| format!("{command}: {stop:?}"))
}

#[test]
fn commands_of_the_documents_parse() {
    for document in ["README.md", "CONTRIBUTING.md"] {
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        let commands = commands(&text);
        assert!(!commands.is_empty(), "{document} shows no command");
        assert_none(commands.iter().filter_map(|command| parses(command).err()).collect());
    }
    let bad = "```\nA=1 swallow-eval run --suit ja  # note\n```\nprose: swallow-eval nothing\n```\ncargo run --release -- run --against \"a b\"\n```";
    assert_eq!(commands(bad), ["run --suit ja", "run --against \"a b\""]);
    assert!(parses("run --suit ja").is_err());
    assert_eq!(shell_words("a \"b c\" 'd' e=\"f g\""), ["a", "b c", "d", "e=f g"]);
}

const LICENCES: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Zlib",
];

/// Whether an SPDX expression leaves a choice of allowed licences. `AND` binds closer than `OR`; `/` is the old way to write `OR`.
fn allowed(expression: &str) -> bool {
    let text = expression.replace('/', " OR ");
    let words = text.replace('(', " ( ").replace(')', " ) ").split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut at = 0;
    let verdict = any_of(&words, &mut at);
    verdict && at == words.len()
}

fn any_of(words: &[String], at: &mut usize) -> bool {
    let mut verdict = all_of(words, at);
    while words.get(*at).is_some_and(|word| word == "OR") {
        *at += 1;
        verdict |= all_of(words, at);
    }
    verdict
}

fn all_of(words: &[String], at: &mut usize) -> bool {
    let mut verdict = one(words, at);
    while words.get(*at).is_some_and(|word| word == "AND") {
        *at += 1;
        verdict &= one(words, at);
    }
    verdict
}

fn one(words: &[String], at: &mut usize) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if word == "(" {
        let verdict = any_of(words, at);
        *at += 1;
        return verdict;
    }
    let mut name = word.clone();
    if words.get(*at).is_some_and(|word| word == "WITH") {
        name = [word.as_str(), "WITH", words.get(*at + 1).map_or("", String::as_str)].join(" ");
        *at += 2;
    }
    LICENCES.contains(&name.as_str())
}

/// What cargo prints; nothing where it fails.
#[expect(clippy::disallowed_methods, reason = "a test may ask cargo")]
fn cargo(words: &[&str]) -> String {
    let asked = std::process::Command::new(env!("CARGO")).args(words).current_dir(root()).output().unwrap();
    if asked.status.success() { String::from_utf8(asked.stdout).unwrap() } else { String::new() }
}

#[test]
fn dependencies_have_licences_that_suit_ours() {
    // A machine that builds only for itself may not have the crates of other systems: then its own are looked at.
    let host = cargo(&["-vV"]).lines().find_map(|line| line.strip_prefix("host: ").map(str::to_owned)).expect("cargo names its host");
    let question = ["metadata", "--format-version", "1", "--offline", "--locked"];
    let mut answer = cargo(&question);
    if answer.is_empty() {
        answer = cargo(&[&question[..], &["--filter-platform", &host]].concat());
    }
    let metadata: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "{} packages", packages.len());
    let licence = |package: &serde_json::Value| package["license"].as_str().unwrap_or("none").to_owned();
    let refused = packages.iter().filter(|package| !allowed(&licence(package)));
    assert_none(refused.map(|package| format!("{} {}: licence {}", package["name"], package["version"], licence(package))).collect());
}

#[test]
fn licence_expressions_are_understood() {
    for (expression, verdict) in [
        ("MIT", true),
        ("MIT/Apache-2.0", true),
        ("(MIT OR GPL-3.0) AND Unicode-3.0", true),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
        ("GPL-3.0-only", false),
        ("MIT AND LGPL-2.1", false),
        ("MIT OR", true),
        ("none", false),
        ("", false),
        ("AGPL-3.0 OR SSPL-1.0", false),
        ("MIT GPL-3.0", false),
    ] {
        assert_eq!(allowed(expression), verdict, "{expression}");
    }
}
