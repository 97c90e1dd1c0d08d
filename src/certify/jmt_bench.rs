//! Goldens of Japanese MT-Bench: what the judge is asked and what its words give, prompts of every template, post-processing of turns,
//! averages of ratings.

use super::report::Folder;
use super::source::{CertifyError, Row, Source, entries};
use crate::engine::chat::fastchat::Family;
use crate::engine::chat::turn;
use crate::engine::{Chat, RequestKind, Template};
use crate::judge::{prompts, rating};
use crate::metric::rating::Columns;
use crate::task::judged::JudgeRule;
use crate::task::{Task, load::TaskError};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Replays one folder of the kind. `task` is the benchmark's task file.
///
/// # Errors
/// When a file is missing or not of this kind's shape.
pub fn folder(folder: &Path, name: &str, task: &Task) -> Result<Folder, CertifyError> {
    let mut report = Folder::new("");
    let known: &[&str] = match name {
        "judge" => &["requests.jsonl", "scoring.jsonl", "summary.json", "fewshot.json"],
        "rating" => &["scoring.jsonl", "summary.json"],
        "chat" => &["requests.jsonl"],
        "answer_postprocess" => &["scoring.jsonl"],
        "aggregation" => return aggregation(folder, report),
        "char_ratio_v202411" => return outside(folder, report),
        _ => return Err(CertifyError::UnknownFolder { path: folder.to_owned() }),
    };
    let names = entries(folder)?;
    if let Some(other) = names.iter().find(|n| !known.contains(&n.as_str())) {
        return Err(CertifyError::UnknownFile { path: folder.join(other), kind: format!("jmt-bench/{name}") });
    }
    let judge = task.file.judge.as_ref().ok_or_else(|| TaskError::Meaning { path: task.name.clone(), what: "it has no [judge]".into() })?;
    for file in &names {
        let source = Source::new(folder, file);
        match (name, file.as_str()) {
            ("judge", "requests.jsonl") => judge_requests(&mut report, &source, judge)?,
            ("chat", "requests.jsonl") => chat_prompts(&mut report, &source)?,
            ("answer_postprocess", _) => conversations(&mut report, &source, task)?,
            (_, "scoring.jsonl") => ratings(&mut report, &source)?,
            (_, "summary.json") => summary(&mut report, &source, judge, &Source::new(folder, "scoring.jsonl"))?,
            _ => report.check_value(file, "", "shots", &serde_json::from_str(&source.text()?).unwrap_or_default(), &json!([])),
        }
    }
    Ok(report)
}

/// Figures of a later protocol: counted, not compared.
fn outside(folder: &Path, mut report: Folder) -> Result<Folder, CertifyError> {
    for name in entries(folder)? {
        let rows = if name.ends_with(".jsonl") { Source::new(folder, &name).rows()?.len() as u64 } else { 1 };
        report.outside.push((name, rows));
    }
    Ok(report)
}

fn texts<'v>(source: &Source, fields: &'v Map<String, Value>, key: &str, row: &Row) -> Result<Vec<&'v str>, CertifyError> {
    let list = source.array_of(fields, key, Some(row.line))?;
    list.iter().map(|v| v.as_str().ok_or_else(|| source.shape(Some(row.line), format!("'{key}' must list texts")))).collect()
}

/// `judge/requests.jsonl`: the conversation a judge gets.
fn judge_requests(report: &mut Folder, source: &Source, rule: &JudgeRule) -> Result<(), CertifyError> {
    for row in source.rows()? {
        let line = Some(row.line);
        source.only_keys(&row.fields, &["doc_id", "doc", "request"], line)?;
        let doc = source.object_of(&row.fields, "doc", line)?;
        source.only_keys(doc, &["question", "answer_turns", "ref_turns", "judge_prompt"], line)?;
        let question = source.object_of(doc, "question", line)?;
        let category = source.text_of(question, "category", line)?;
        let references =
            if doc.get("ref_turns").is_some_and(Value::is_array) { texts(source, doc, "ref_turns", &row)? } else { Vec::new() };
        let (questions, answers) = (texts(source, question, "turns", &row)?, texts(source, doc, "answer_turns", &row)?);
        // `qID/turnN/choiceM`
        let number = |part: &str| row.id.split('/').find_map(|p| p.strip_prefix(part)?.parse::<u32>().ok());
        let (Some(turn), Some(choice)) = (number("turn").and_then(|n| n.checked_sub(1)), number("choice")) else {
            return Err(source.shape(line, "doc_id must be qID/turnN/choiceM"));
        };
        let judged = prompts::Judged { category, questions: &questions, answers: &answers, references: &references, choice };
        let name = &prompts::prompt(rule, category, turn as usize).name;
        report.check_text(&source.name, &row.id, "doc.judge_prompt", source.text_of(doc, "judge_prompt", line)?, name);
        let RequestKind::Chat(chat) = prompts::request(rule, judged, turn as usize).kind else { unreachable!("a judge is asked by chat") };
        judge_request(report, source, &row, &chat)?;
        report.rows += 1;
    }
    Ok(())
}

fn judge_request(report: &mut Folder, source: &Source, row: &Row, chat: &Chat) -> Result<(), CertifyError> {
    let Template::Messages { system } = &chat.template else { unreachable!("a judge gets messages") };
    for (key, expected) in source.object_of(&row.fields, "request", Some(row.line))? {
        let got = match key.as_str() {
            "kind" => json!("chat"),
            "messages" => json!(crate::engine::chat::fastchat::messages(system, &chat.users(), &[])),
            "n" => json!(1),
            "stop" => json!([]),
            // The name of the deployment that upstream asks; which judge answers is a flag here.
            "engine" => continue,
            "temperature" => json!(chat.sampling.temperature),
            "max_new_tokens" => json!(chat.max_new_tokens),
            _ => return Err(source.shape(Some(row.line), format!("request has an unknown field '{key}'"))),
        };
        report.check_value(&source.name, &row.id, &format!("request.{key}"), expected, &got);
    }
    Ok(())
}

/// A judge's words and the rating in them. Where the original stops with an error, there is no rating.
fn ratings(report: &mut Folder, source: &Source) -> Result<(), CertifyError> {
    for row in source.rows()? {
        let line = Some(row.line);
        source.only_keys(&row.fields, &["doc_id", "response", "extracted", "type", "error", "reference", "scores"], line)?;
        let got = rating::rating(source.text_of(&row.fields, "response", line)?);
        // The original writes a missing rating as -1.
        let minus_one = json!(got.value().unwrap_or(-1.0));
        let raised = row.fields.get("error").is_some_and(|e| !e.is_null());
        let outcome = |raised: bool| if raised { "unreadable" } else { "read" };
        let unreadable = got == rating::Rating::Unreadable;
        report.check_text(&source.name, &row.id, "error", outcome(raised), outcome(unreadable));
        if !raised {
            report.check_value(&source.name, &row.id, "extracted", source.value_of(&row.fields, "extracted", line)?, &minus_one);
        }
        for (name, expected) in source.object_of(&row.fields, "scores", line)? {
            report.check_value(&source.name, &row.id, &format!("scores.{name}"), expected, &minus_one);
        }
        report.rows += 1;
    }
    Ok(())
}

fn summary(report: &mut Folder, source: &Source, rule: &JudgeRule, scoring: &Source) -> Result<(), CertifyError> {
    let file = source.object()?;
    source.only_keys(&file, &["n", "metrics", "settings", "produced_with"], None)?;
    report.check_value(&source.name, "", "n", source.value_of(&file, "n", None)?, &json!(scoring.rows()?.len()));
    let Some(categories) = file.get("settings").and_then(|s| s.get("need_ref_categories")) else { return Ok(()) };
    // The fourth is no category of this benchmark.
    let ours: Vec<&Value> = categories.as_array().into_iter().flatten().filter(|c| **c != "arena-hard-200").collect();
    report.check_value(&source.name, "", "settings.need_ref_categories", &json!(ours), &json!(rule.with_reference));
    Ok(())
}

/// `chat/requests.jsonl`: template by model name, stop ids, prompts and messages of both turns.
fn chat_prompts(report: &mut Folder, source: &Source) -> Result<(), CertifyError> {
    for row in source.rows()? {
        let line = Some(row.line);
        let family = Family::of_model(source.text_of(&row.fields, "model", line)?).family();
        let turns = texts(source, &row.fields, "turns", &row)?;
        let answers = [source.text_of(&row.fields, "answer_1", line)?];
        let stop_ids = Some(family.stop_token_ids()).filter(|ids| !ids.is_empty());
        for (key, expected) in &row.fields {
            let got = match key.as_str() {
                "template" => json!(family.name()),
                "stop_token_ids" => json!(stop_ids),
                "stop_str" => json!(family.stop_str()),
                "system_message" => json!(family.system()),
                "prompt_turn1" => json!(family.prompt(&turns[..1], &[])),
                "prompt_turn2" => json!(family.prompt(&turns, &answers)),
                "openai_messages_turn1" => json!(family.messages(&turns[..1], &[])),
                "openai_messages_turn2" => json!(family.messages(&turns, &answers)),
                // Inputs, upstream's class name, and the name with the slash replaced.
                "doc_id" | "model" | "turns" | "answer_1" | "adapter" | "model_id" => continue,
                _ => return Err(source.shape(line, format!("'{key}' is not a field this kind of golden has"))),
            };
            report.check_value(&source.name, &row.id, key, expected, &got);
        }
        report.rows += 1;
    }
    Ok(())
}

/// Ids of special tokens, as the real tokenizers have them; in the goldens they stand as text.
const REAL_IDS: [(&str, u32); 6] = [
    ("<|begin_of_text|>", 128_000),
    ("<|end_of_text|>", 128_001),
    ("<|eot_id|>", 128_009),
    ("<|endoftext|>", 151_643),
    ("<|im_start|>", 151_644),
    ("<|im_end|>", 151_645),
];

/// A recorded output as the text before its first stop id: special tokens are one token each, everything else is none of them.
fn cut(family: Family, response: &str) -> &str {
    let stops = REAL_IDS.iter().filter(|(_, id)| turn::before_stop_id(family, &[*id]).is_empty());
    let end = stops.filter_map(|(text, _)| response.find(text)).min().unwrap_or(response.len());
    &response[..end]
}

/// `answer_postprocess/scoring.jsonl`: recorded outputs through two turns of each choice.
fn conversations(report: &mut Folder, source: &Source, task: &Task) -> Result<(), CertifyError> {
    let known = [
        "doc_id",
        "model",
        "tokenizer",
        "question",
        "special_tokens_map",
        "response",
        "choices",
        "seeds",
        "generate_kwargs",
        "leading_bos_tokens",
    ];
    for row in source.rows()? {
        let line = Some(row.line);
        source.only_keys(&row.fields, &known, line)?;
        let family = Family::of_model(source.text_of(&row.fields, "model", line)?).family();
        let map = source.object_of(&row.fields, "special_tokens_map", line)?;
        let specials: Vec<&str> =
            map.values().flat_map(|v| v.as_array().map_or(vec![v], |list| list.iter().collect())).filter_map(Value::as_str).collect();
        let question = source.object_of(&row.fields, "question", line)?;
        let turns = texts(source, question, "turns", &row)?;
        let responses = texts(source, &row.fields, "response", &row)?;
        let choices = source.array_of(&row.fields, "choices", line)?;
        for (index, (choice, outputs)) in choices.iter().zip(responses.chunks(turns.len())).enumerate() {
            let mut answers: Vec<String> = Vec::new();
            let mut prompts = Vec::new();
            for (at, output) in outputs.iter().enumerate() {
                let before: Vec<&str> = answers.iter().map(String::as_str).collect();
                prompts.push(family.prompt(&turns[..=at], &before));
                answers.push(match *output {
                    "RAISE" => turn::RAISED.to_owned(),
                    _ => turn::answer(family, cut(family, output), specials.iter().copied()),
                });
            }
            let field = |name: &str| format!("choices[{index}].{name}");
            report.check_value(&source.name, &row.id, &field("turns"), &choice["turns"], &json!(answers));
            report.check_value(&source.name, &row.id, &field("prompts"), &choice["prompts"], &json!(prompts));
        }
        settings(report, source, &row, task, question)?;
        if let (Some(expected), Some(prompt)) = (row.fields.get("leading_bos_tokens"), family.prompt(&turns[..1], &[])) {
            let bos = map.get("bos_token").and_then(Value::as_str);
            // The tokenizer's own, and those the text begins with.
            let own = usize::from(bos.is_some());
            let in_text = bos.map_or(0, |bos| (0..).take_while(|n| prompt.starts_with(&bos.repeat(n + 1))).count());
            report.check_value(&source.name, &row.id, "leading_bos_tokens", expected, &json!(own + in_text));
        }
        report.rows += 1;
    }
    Ok(())
}

/// Seeds and generation settings, as the requests of the task have them.
fn settings(report: &mut Folder, source: &Source, row: &Row, task: &Task, question: &Map<String, Value>) -> Result<(), CertifyError> {
    let line = Some(row.line);
    let mut document = task.document(question.clone(), &row.id)?;
    source.text_of(question, "category", line)?.clone_into(&mut document.group);
    let requests = crate::prompt::requests::requests(task, &document, &[], &crate::engine::ModelFacts::default())
        .map_err(|e| source.shape(line, e.to_string()))?;
    let seeds = source.array_of(&row.fields, "seeds", line)?;
    let chats: Vec<&Chat> = requests.iter().filter_map(|r| if let RequestKind::Chat(c) = &r.kind { Some(c) } else { None }).collect();
    let greedy = chats.iter().all(|c| c.sampling.temperature == 0.0);
    // Greedy choices are one request; the seed before them decides nothing.
    let got: Vec<u64> = chats.iter().enumerate().take(seeds.len()).map(|(i, c)| if greedy { i as u64 } else { c.sampling.seed }).collect();
    report.check_value(&source.name, &row.id, "seeds", &json!(seeds), &json!(got));
    let Some(chat) = chats.first() else { return Err(source.shape(line, "the task makes no conversation")) };
    let ours = json!({"do_sample": !greedy, "temperature": chat.sampling.temperature, "max_new_tokens": chat.max_new_tokens});
    for (call, expected) in source.array_of(&row.fields, "generate_kwargs", line)?.iter().enumerate() {
        report.check_value(&source.name, &row.id, &format!("generate_kwargs[{call}]"), expected, &ours);
    }
    Ok(())
}

/// Category heads of `expected-*.json`, by the block of ten that a question's number falls in.
const CATEGORIES: [&str; 8] = ["Coding", "Extraction", "Humanities", "Math", "Reasoning", "Roleplay", "STEM", "Writing"];
/// Order of the comma lists under `result`.
const LISTED: [&str; 9] = ["overall", "Writing", "Roleplay", "Reasoning", "Math", "Coding", "Extraction", "STEM", "Humanities"];

/// A recorded row of ratings.
struct Rated {
    model: String,
    category: &'static str,
    turn: u64,
    ratings: Vec<Option<f64>>,
}

/// `aggregation/`: recorded ratings to every figure of the original's summary. Rows that stand twice count twice, as upstream counts them.
fn aggregation(folder: &Path, mut report: Folder) -> Result<Folder, CertifyError> {
    for name in entries(folder)? {
        if let Some(case) = name.strip_prefix("judgment-").and_then(|n| n.strip_suffix(".jsonl")) {
            let rows = judgements(&Source::new(folder, &name))?;
            report.rows += rows.len() as u64;
            expected(&mut report, &Source::new(folder, &format!("expected-{case}.json")), &rows)?;
        } else if !(name.starts_with("expected-") && name.ends_with(".json")) {
            return Err(CertifyError::UnknownFile { path: folder.join(name), kind: "jmt-bench/aggregation".into() });
        }
    }
    Ok(report)
}

fn judgements(source: &Source) -> Result<Vec<Rated>, CertifyError> {
    let read = |row: Row| {
        let line = Some(row.line);
        source.only_keys(&row.fields, &["question_id", "model", "judge", "score", "turn"], line)?;
        let number =
            |key: &str| row.fields.get(key).and_then(Value::as_u64).ok_or_else(|| source.shape(line, format!("'{key}' must be a number")));
        let block = usize::try_from((number("question_id")?.saturating_sub(1) / 10) % 8).unwrap_or(0);
        let ratings = source.array_of(&row.fields, "score", line)?.iter().map(|v| v.as_f64().filter(|n| *n != -1.0)).collect();
        let model = source.text_of(&row.fields, "model", line)?.to_owned();
        Ok(Rated { model, category: CATEGORIES[block], turn: number("turn")?, ratings })
    };
    source.rows()?.into_iter().map(read).collect()
}

/// Mean and deviation over the rows of a category (`overall`: all) and of a turn (`None`: both).
fn figures(rows: &[&Rated], category: &str, turn: Option<u64>) -> (Option<f64>, Option<f64>) {
    let mut columns = Columns::default();
    let chosen = rows.iter().filter(|r| category == "overall" || r.category == category).filter(|r| turn.is_none_or(|t| r.turn == t));
    chosen.for_each(|r| columns.add(r.ratings.iter().copied()));
    (columns.mean(), columns.deviation())
}

fn expected(report: &mut Folder, source: &Source, rows: &[Rated]) -> Result<(), CertifyError> {
    let file = source.object()?;
    source.only_keys(&file, &["model", "judge_json", "columns", "produced_with"], None)?;
    let judged = source.object_of(&file, "judge_json", None)?;
    let Some((model, of_model)) = judged.iter().next().and_then(|(model, parts)| Some((model, parts.as_object()?))) else {
        return Err(source.shape(None, "'judge_json' names no model"));
    };
    // A judgement file holds the rows of every model judged so far.
    let rows: Vec<&Rated> = rows.iter().filter(|r| r.model == *model).collect();
    let rows = rows.as_slice();
    for (name, parts) in of_model {
        for (turn, wanted) in [("first_turn", Some(1)), ("second_turn", Some(2)), ("average", None)] {
            let (mean, deviation) = figures(rows, name, wanted);
            let got = match name.as_str() {
                "result" => {
                    let list = |figure: &dyn Fn(&str) -> Option<f64>| {
                        LISTED.map(|c| figure(c).map_or("nan".to_owned(), |f| format!("{f:.4}"))).join(",")
                    };
                    let mean = list(&|c| figures(rows, c, wanted).0.map(|m| m / 10.0));
                    json!({"score": mean, "new_variance": list(&|c| figures(rows, c, wanted).1)})
                }
                _ => json!({"score": mean, "new_variance": deviation}),
            };
            for figure in ["score", "new_variance"] {
                report.check_value(&source.name, name, &format!("{turn}.{figure}"), &parts[turn][figure], &got[figure]);
            }
        }
    }
    for (column, value) in source.object_of(&file, "columns", None)? {
        let category = LISTED.into_iter().find(|c| c.eq_ignore_ascii_case(column)).unwrap_or("overall");
        let got = figures(rows, category, None).0.map(|m| m / 10.0);
        report.check_value(&source.name, column, "columns", value, &json!(got));
    }
    Ok(())
}
