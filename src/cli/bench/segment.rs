//! `bench segment`: nagisa's words of given texts.

use super::{
    lines::{self, Line},
    tell,
};
use crate::{
    cli::{
        data_source,
        exit::{Exit, Failure, Verdict},
        run::tool_failure,
        threads::with_threads,
    },
    run::measure::measure,
    text::python::is_space,
};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::{num::NonZeroUsize, path::PathBuf};

/// Time nagisa's word segmentation of given texts.
#[derive(clap::Args, Clone, Debug)]
pub struct SegmentArgs {
    /// Texts, one JSON value a line: a string, or an object with the key "text"
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Write {"text", "words", "joined"} for each line here
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Threads; all cores unless given
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Open no connection
    #[arg(long)]
    pub offline: bool,
}

/// Segments every text once, its ends stripped as a task's texts are. `n` counts texts.
pub(super) fn run(args: &SegmentArgs) -> Verdict {
    let lines = lines::read(&args.input)?;
    let texts = lines.iter().map(|line| text(line, args)).collect::<Result<Vec<&str>, Failure>>()?;
    let store = data_source::files(data_source::network(args.offline), None);
    let words_of = data_source::nagisa(&store).map_err(|e| tool_failure(&e))?;
    let (measured, words) = with_threads(args.threads, || {
        measure("segment", texts.len(), || texts.par_iter().map(|text| words_of(text.trim_matches(is_space))).collect::<Vec<Vec<String>>>())
    })?;
    if let Some(path) = &args.output {
        let rows = texts.iter().zip(&words).map(|(text, words)| json!({"text": text, "words": words, "joined": words.join(" ")}));
        lines::write(path, rows)?;
    }
    tell(&measured)?;
    Ok(Exit::Ok)
}

fn text<'l>(line: &'l Line, args: &SegmentArgs) -> Result<&'l str, Failure> {
    let text = line.value.as_str().or_else(|| line.value.get("text").and_then(Value::as_str));
    text.ok_or_else(|| lines::wrong(&args.input, line.number, "must be a string, or an object whose \"text\" is one"))
}
