//! Runs as one self-contained page: tables with a verdict a cell, charts, facts, and every document with its full prompt.
//!
//! The page asks for nothing: style, script and data stand in the file, and its content security policy allows only the two inline blocks whose
//! hashes it names, so that no text of a model can run or load anything even if an escape were missing. Tables, charts and facts are plain
//! markup and read without script; the documents are compressed blocks that the script unpacks when they are looked at.
//!
//! Not here: reading runs, and statistics.

pub mod board;
mod charts;
mod documents;
mod facts;
mod pack;
mod paragraphs;
mod tables;

use crate::results::{
    recorded::Recorded,
    reference::{self, ReferenceRow},
    spec::Tool,
};
use minijinja::{Environment, context};
use sha2::{Digest, Sha256};
use std::ops::Deref;

const PAGE: &str = include_str!("assets/page.html");
const STYLE: &str = include_str!("assets/style.css");
/// In the order they stand in the page; one script, so that they share their names.
const SCRIPTS: [&str; 4] =
    [include_str!("assets/data.js"), include_str!("assets/filter.js"), include_str!("assets/document.js"), include_str!("assets/page.js")];

/// A run and what it is held against.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The run.
    pub recorded: Recorded,
    /// The published row beside it.
    pub published: Option<ReferenceRow>,
}

impl Deref for Subject {
    type Target = Recorded;

    fn deref(&self) -> &Recorded {
        &self.recorded
    }
}

/// The whole page. Runs of one suite share a table; the first is what the others' documents are compared with.
pub fn render(runs: &[Subject]) -> String {
    let (style, script) = (STYLE.to_owned(), SCRIPTS.concat());
    let suites: Vec<tables::Suite> = suites(runs).into_iter().map(|suite| tables::Suite::of(suite, runs)).collect();
    let mut environment = Environment::new();
    environment.add_template("page.html", PAGE).expect("the template is part of the program and a test renders it");
    let page = environment.get_template("page.html").expect("added above");
    let rendered = page.render(context! {
        title => title(runs),
        demo => runs.iter().any(|run| run.scores.demo),
        demo_says => super::table::DEMO,
        mark_says => super::table::MARK_EXPLAINED,
        policy => format!("default-src 'none'; style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'", hash(&style), hash(&script)),
        style,
        script,
        suites,
        facts => runs.iter().map(facts::Facts::of).collect::<Vec<_>>(),
        data => documents::pack(runs),
        tool => Tool::current(),
    });
    rendered.expect("the template names only what it is given, a test renders it")
}

fn title(runs: &[Subject]) -> String {
    let mut models: Vec<&str> = Vec::new();
    for run in runs {
        if !models.contains(&run.scores.model.as_str()) {
            models.push(&run.scores.model);
        }
    }
    models.join(", ")
}

/// The suites of the runs: those with a published table in the card's order, then the others as they come.
fn suites(runs: &[Subject]) -> Vec<&str> {
    let mut suites: Vec<&str> = reference::SUITES.into_iter().filter(|suite| runs.iter().any(|run| run.scores.suite == *suite)).collect();
    for run in runs {
        if !suites.contains(&run.scores.suite.as_str()) {
            suites.push(&run.scores.suite);
        }
    }
    suites
}

/// As a content security policy names an inline block: `sha256-` and the digest in base64.
fn hash(block: &str) -> String {
    format!("sha256-{}", pack::base64(&Sha256::digest(block)))
}
