//! `tasks list|show|preview`: what is asked, byte for byte.

use super::{
    args::{PreviewArgs, TasksCommand},
    data_source,
    exit::{Exit, Failure, Verdict},
    output::print,
    report::look_of_stdout,
    run::{load_tasks, plan_failure},
};
use crate::{
    dataset::store::Store,
    engine::llama::encode::scored_pair,
    engine::{Bos, ModelFacts, RequestKind},
    report::{
        table::{Cell, Column, Footnote, Row, RowKind, Table},
        terminal,
    },
    results::{requests::PlannedRequest, spec::Defects},
    run::plan::{self, Selection, SkipMissing},
    task::{Task, load},
    text::tokenizer::{Special, Tokenizer},
};
use serde::Serialize;
use std::{fmt::Write as _, path::Path, sync::Arc};

/// Runs the verb.
///
/// # Errors
/// Exit 2: unknown task, suite or document; exit 4: data missing.
pub(super) fn run(command: &TasksCommand) -> Verdict {
    match command {
        TasksCommand::List { suite, include_path } => print(&list(&load_tasks(include_path.as_deref())?, suite.as_slice())?)?,
        TasksCommand::Show { task, include_path } => {
            let tasks = load_tasks(include_path.as_deref())?;
            print(&load::find(&tasks, task).map_err(data_source::task_failure)?.source)?;
        }
        TasksCommand::Preview(args) => print(&preview(args)?)?,
    }
    Ok(Exit::Ok)
}

/// A row a task.
fn list(tasks: &[Task], suites: &[String]) -> Result<String, Failure> {
    let mut of_suites = Vec::new();
    for name in if suites.is_empty() { load::suite_names() } else { suites.to_vec() } {
        let columns = load::suite(&name).map_err(data_source::task_failure)?.columns;
        of_suites.extend(columns.into_iter().map(|c| (c.task, name.clone())));
    }
    let (mut rows, mut aliases) = (Vec::new(), Vec::new());
    for task in tasks {
        let suite = of_suites.iter().find(|(name, _)| *name == task.name).map(|(_, suite)| suite.as_str());
        if suite.is_none() && !suites.is_empty() {
            continue;
        }
        let file = &task.file;
        let others: Vec<&str> = file.aliases.iter().map(String::as_str).filter(|a| *a != task.name).collect();
        let text = |text: &str| Cell::Text(text.to_owned());
        let cells =
            vec![text(&task.name), text(suite.unwrap_or("none")), text(&file.title), Cell::Count(file.shots.into()), text(&file.headline)];
        aliases.extend(others.into_iter().map(|other| Footnote::Text(format!("{other} is {}", task.name))));
        rows.push(Row { kind: RowKind::Ours, cells });
    }
    let columns = ["task", "suite", "column", "shots", "metric"];
    let column = |name| if name == "shots" { Column::number(name, name) } else { Column::text(name, name) };
    let table = Table {
        title: format!("{} tasks", rows.len()),
        demo: false,
        columns: columns.into_iter().map(column).collect(),
        lead: 1,
        rows,
        footnotes: aliases,
    };
    Ok(terminal::render(&table, look_of_stdout()))
}

/// The exact prompt of one document and what is asked with it.
fn preview(args: &PreviewArgs) -> Result<String, Failure> {
    let tasks = load_tasks(args.include_path.as_deref())?;
    let task = load::find(&tasks, &args.task).map_err(data_source::task_failure)?.clone();
    let position = args.doc.rsplit('/').next().unwrap_or_default().parse::<usize>().map_err(|_| {
        Failure::new(Exit::Usage, format!("--doc {:?} is not a document id", args.doc))
            .hint("ids are positions such as 0, or as in samples.jsonl, 00000")
    })?;
    let tokenizer = args.tokenizer.as_ref().map(|dir| Tokenizer::from_dir(Path::new(dir))).transpose();
    let tokenizer =
        tokenizer.map_err(|e| Failure::new(Exit::Usage, e.to_string()).hint("--tokenizer names a directory with tokenizer.json"))?;
    let selection = Selection {
        suite: load::suite("ja").map_err(data_source::task_failure)?,
        samples: [(task.name.clone(), vec![position])].into(),
        tasks: vec![task],
        limit: None,
        shard: None,
        num_fewshot: args.num_fewshot,
        generation: Vec::new(),
        defects: Defects::default(),
        facts: ModelFacts { tokenizer: tokenizer.clone().map(Arc::new), ..ModelFacts::default() },
    };
    let store = if args.demo { Store::samples() } else { data_source::files(data_source::network(args.offline), args.data_url.as_ref()) };
    let plan = data_source::with_source(&store, |source| plan::plan(&selection, source, SkipMissing::No)).map_err(plan_failure)?;
    Ok(plan.tasks[0].asked.iter().map(|asked| shown(asked, tokenizer.as_ref())).collect())
}

fn shown(asked: &PlannedRequest, tokenizer: Option<&Tokenizer>) -> String {
    let PlannedRequest { task, doc_id, group, reference, right, request, lost_tokens } = asked;
    let group = if group.is_empty() { String::new() } else { format!(", group {group}") };
    let mut text = format!("{task} {doc_id}{group}, request {}\n", request.id);
    match &request.kind {
        RequestKind::Generate(generate) => {
            let _ = writeln!(text, "── prompt ──\n{}── end of prompt ──", generate.prompt);
            let _ = writeln!(text, "new tokens: at most {}", generate.max_new_tokens);
            let _ = writeln!(text, "stop strings: {}", quoted(&generate.stop));
            if !generate.enough.is_empty() {
                let _ = writeln!(text, "enough once the answer has: {}", quoted(&generate.enough));
            }
            text += &settings("sampling", &generate.sampling);
            text += &settings("token rules", &generate.rules);
            if let Some(tokenizer) = tokenizer {
                text += &token_ids(tokenizer, &generate.prompt, generate.rules.bos);
            }
        }
        RequestKind::Chat(chat) => {
            for said in chat.users() {
                let _ = writeln!(text, "── the user says ──\n{said}");
            }
            let _ = writeln!(text, "── end ──\nnew tokens: at most {} a turn", chat.max_new_tokens);
            text += &settings("sampling", &chat.sampling);
        }
        RequestKind::LogLikelihood(scored) => {
            let _ = writeln!(text, "── context ──\n{}── end of context ──", scored.context);
            for continuation in &scored.continuations {
                let _ = writeln!(text, "log-likelihood of {continuation:?}");
                match tokenizer.map(|tokenizer| scored_pair(tokenizer, scored, continuation)) {
                    Some(Ok((_, ids))) => drop(writeln!(text, "{} tokens: {ids:?}", ids.len())),
                    Some(Err(why)) => drop(writeln!(text, "no token ids: {why}")),
                    None => {}
                }
            }
            text += &settings("token rules", &scored.rules);
        }
    }
    if *lost_tokens > 0 {
        let _ = writeln!(text, "the harness loses the first {lost_tokens} new tokens of this batch");
    }
    let _ = match right {
        None => writeln!(text, "reference {reference:?}"),
        Some(right) => writeln!(text, "choices {reference:?}, right is {right}"),
    };
    text
}

fn quoted(strings: &[String]) -> String {
    if strings.is_empty() { "none".to_owned() } else { strings.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ") }
}

/// What a request says of sampling or of token ids, by the names that task files and journals give it.
fn settings(name: &str, of: &impl Serialize) -> String {
    let fields = serde_json::to_value(of).ok().and_then(|value| value.as_object().cloned()).unwrap_or_default();
    let fields: Vec<String> = fields.iter().map(|(key, value)| format!("{key} {value}")).collect();
    format!("{name}: {}\n", fields.join(", "))
}

/// Ids of the prompt as the model gets it, and whether it begins with BOS.
fn token_ids(tokenizer: &Tokenizer, prompt: &str, bos: Bos) -> String {
    let special = match bos {
        Bos::Tokenizer => Special::Add,
        Bos::Never => Special::None,
    };
    match tokenizer.encode(prompt, special) {
        Ok(ids) => {
            let begins = tokenizer.bos_id().is_some_and(|id| ids.first() == Some(&id));
            format!("{} prompt tokens, {} BOS: {ids:?}\n", ids.len(), if begins { "beginning with" } else { "without" })
        }
        Err(e) => format!("no token ids: {e}\n"),
    }
}
