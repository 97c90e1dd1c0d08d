//! Goldens of the tasks that ran through the JP Language Model Evaluation Harness: order, draws, prompts, answers, scores.

use super::Inputs;
use super::asked;
use super::llm_jp::Data;
use super::report::Folder;
use super::source::{CertifyError, Row, Source, entries};
use crate::answer::{self, Answer, lost_tokens};
use crate::dataset::Record;
use crate::engine::ModelFacts;
use crate::metric::{Evidence, Need, Resources, Score, bleu::Counts};
use crate::prompt::{
    fewshot::{self, Drawn},
    fit, neighbours, requests,
};
use crate::task::{Task, document::Document};
use crate::text::tokenizer::{Special, Tokenizer};
use serde_json::{Map, Value, json};
use std::{path::Path, sync::Arc};

mod scores;

/// The real articles of XL-Sum could not be recorded: its goldens are over invented ones, which are a data set of their own.
const RECORDED_OVER: [(&str, &str); 1] = [("xlsum_ja", "xlsum-synthetic")];

/// A row's score and BLEU's counts, as far as its resources are at hand.
type Scored = (Option<Score>, Option<Counts>);

/// Everything of one folder that its files are compared with.
struct Replay<'r> {
    task: Task,
    drawn: Drawn,
    pool: Vec<Document>,
    tokenizer: &'r Tokenizer,
    facts: ModelFacts,
    resources: &'r Resources<'r>,
    /// Prompt and batch of every document of the full run.
    prompts: Vec<String>,
    batches: Vec<neighbours::Batch>,
}

/// Folder, beside those of the tasks, of the tokenizer that stands in for the evaluated model's.
pub const TOKENIZER: &str = "tokenizer";

/// Replays one task folder.
///
/// # Errors
/// When a file is missing, is not of this kind's shape, or the data is not at hand.
pub fn task_folder(folder: &Path, task: &Task, inputs: &Inputs<'_>) -> Result<Folder, CertifyError> {
    let beside = folder.parent().unwrap_or(folder).join(TOKENIZER);
    let tokenizer = Arc::new(Tokenizer::from_dir(&beside).map_err(|e| CertifyError::Data(e.to_string()))?);
    let tokens = |text: &str| tokenizer.encode(text, Special::None).unwrap_or_default();
    let resources = Resources { tokens: Some(&tokens), segment: inputs.segment };
    let mut report = Folder::new("");
    for name in entries(folder)? {
        if !["requests.jsonl", "scoring.jsonl", "summary.json", "fewshot.json"].contains(&name.as_str()) {
            return Err(CertifyError::UnknownFile { path: folder.join(name), kind: "ja-harness".into() });
        }
    }
    let summary = Source::new(folder, "summary.json");
    let file = summary.object()?;
    let replay = Replay::new(task, &summary, summary.object_of(&file, "settings", None)?, inputs.data, &tokenizer, &resources)?;
    replay.fewshot_file(&mut report, &Source::new(folder, "fewshot.json"))?;
    replay.requests_file(&mut report, &Source::new(folder, "requests.jsonl"))?;
    let scores = replay.scoring_file(&mut report, &Source::new(folder, "scoring.jsonl"))?;
    replay.summary_file(&mut report, &summary, &file, &scores)?;
    Ok(report)
}

impl<'r> Replay<'r> {
    fn new(
        task: &Task,
        source: &Source,
        settings: &Map<String, Value>,
        data: Option<Data<'_>>,
        tokenizer: &'r Arc<Tokenizer>,
        resources: &'r Resources<'r>,
    ) -> Result<Self, CertifyError> {
        let number = |key: &str| {
            let value = source.value_of(settings, key, None)?.as_u64().and_then(|n| u32::try_from(n).ok());
            value.ok_or_else(|| source.shape(None, format!("settings.{key} must be a whole number")))
        };
        let mut task = task.clone();
        task.file.request.max_new_tokens = number("max_gen_toks")?;
        let facts = ModelFacts { tokenizer: Some(tokenizer.clone()), max_positions: Some(number("max_length")?), ..ModelFacts::default() };
        let data = data.ok_or_else(|| CertifyError::Data(format!("the goldens of '{}' need its data", task.name)))?;
        let mut sets = Vec::new();
        for split in fewshot::splits(&task) {
            sets.push(task.documents(&split, records(&task, &split, data)?)?);
        }
        let pool = sets.last().cloned().unwrap_or_default();
        let drawn =
            fewshot::draw(&task, sets, task.file.shots as usize, &facts).map_err(|e| CertifyError::Data(format!("{}: {e}", task.name)))?;
        let documents = drawn.documents.iter().zip(&drawn.shots);
        let prompts: Vec<String> =
            documents.map(|(document, shots)| requests::prompt(&task, document, shots, &facts)).collect::<Result<_, _>>()?;
        let counts: Vec<usize> = prompts.iter().map(|p| count(tokenizer, p)).collect::<Result<_, _>>()?;
        let texts: Vec<&str> = prompts.iter().map(String::as_str).collect();
        let batches = neighbours::batches(&texts, &counts);
        Ok(Replay { task, drawn, pool, tokenizer, facts, resources, prompts, batches })
    }

    /// Position of a row's document in evaluation order.
    fn position(&self, source: &Source, row: &str, line: Option<usize>) -> Result<usize, CertifyError> {
        let n = self.drawn.documents.len();
        let position = row.parse().ok().filter(|p| *p < n);
        position.ok_or_else(|| source.shape(line, format!("doc_id must be a position below {n}, not '{row}'")))
    }

    /// Pool and every draw.
    fn fewshot_file(&self, report: &mut Folder, source: &Source) -> Result<(), CertifyError> {
        let file = source.object()?;
        source.only_keys(&file, &["selection", "pool_size", "documents", "note", "draws", "pool"], None)?;
        let pool_size = source.value_of(&file, "pool_size", None)?;
        report.check_value(&source.name, "", "pool_size", pool_size, &json!(self.pool.len()));
        let documents = source.value_of(&file, "documents", None)?;
        report.check_value(&source.name, "", "documents", documents, &json!(self.drawn.documents.len()));
        if let Some(pool) = file.get("pool").filter(|p| !p.is_null()) {
            let got: Vec<&Map<String, Value>> = self.pool.iter().map(|d| &d.fields).collect();
            report.check_value(&source.name, "", "pool", pool, &json!(got));
        }
        for (index, entry) in source.array_of(&file, "draws", None)?.iter().enumerate() {
            let entry = entry.as_object().ok_or_else(|| source.shape(None, format!("draws[{index}] must be an object")))?;
            source.only_keys(entry, &["doc_id", "rnd_sample_indices"], None)?;
            let id = source.text_of(entry, "doc_id", None)?;
            report.rows += 1;
            let got = &self.drawn.draws[self.position(source, id, None)?];
            let expected = source.value_of(entry, "rnd_sample_indices", None)?;
            report.check_value(&source.name, id, "rnd_sample_indices", expected, &json!(got));
        }
        Ok(())
    }

    /// Every document at its place, and what is asked of it.
    fn requests_file(&self, report: &mut Folder, source: &Source) -> Result<(), CertifyError> {
        for row in source.rows()? {
            source.only_keys(&row.fields, &["doc_id", "doc", "request"], Some(row.line))?;
            let position = self.position(source, &row.id, Some(row.line))?;
            report.rows += 1;
            let recorded = self.task.document(source.object_of(&row.fields, "doc", Some(row.line))?.clone(), &row.id)?;
            let document = &self.drawn.documents[position];
            report.check_text(&source.name, &row.id, "doc", &recorded.input, &document.input);
            report.check_text(&source.name, &row.id, "doc (gold)", &recorded.gold, &document.gold);
            let got = asked::generate(&self.task, document, &self.drawn.shots[position], &self.facts)?;
            asked::check(report, source, &row, source.object_of(&row.fields, "request", Some(row.line))?, &got, &|_| None)?;
        }
        Ok(())
    }

    /// Answers and scores, row by row; gives the headline's scores and BLEU's counts in row order.
    fn scoring_file(&self, report: &mut Folder, source: &Source) -> Result<Vec<Scored>, CertifyError> {
        let mut all = Vec::new();
        let scorable = self.headline().needs().iter().all(|need| match need {
            Need::ModelTokenizer => self.resources.tokens.is_some(),
            Need::Nagisa => self.resources.segment.is_some(),
        });
        for row in source.rows()? {
            let known = ["doc_id", "response", "extracted", "reference", "scores", "token_level", "mecab_variant"];
            source.only_keys(&row.fields, &known, Some(row.line))?;
            let position = self.position(source, &row.id, Some(row.line))?;
            report.rows += 1;
            let completion = self.completion(report, source, &row, position)?;
            let reference = answer::reference(&self.task, &self.drawn.documents[position]);
            let gold = reference.texts.first().map(String::as_str).unwrap_or_default();
            report.check_text(
                &source.name,
                &row.id,
                "reference",
                &text_of(source.value_of(&row.fields, "reference", Some(row.line))?),
                gold,
            );
            let Answer::Text(extracted) = answer::extract(&self.task, &completion);
            let segmented = self.segmented(&completion, gold);
            let texts = scores::Texts { completion: &completion, extracted: &extracted, gold, segmented };
            self.extracted(report, source, &row, &texts)?;
            let score = scorable.then(|| self.headline().score(self.resources, &reference, &[Evidence::Text(extracted.clone())]));
            self.scores(report, source, &row, &texts, score.as_ref())?;
            all.push((score, texts.counts()));
        }
        let outside = source.rows()?.iter().filter(|r| r.fields.contains_key("mecab_variant")).count() as u64;
        if outside > 0 {
            report.outside.push((format!("{} mecab_variant", source.name), outside));
        }
        Ok(all)
    }

    /// What the harness read of a response: where tokens were lost, what was left of them; cleaned up and cut.
    fn completion(&self, report: &mut Folder, source: &Source, row: &Row, position: usize) -> Result<String, CertifyError> {
        let response = source.text_of(&row.fields, "response", Some(row.line))?;
        let stops = requests::stops(&self.task.file.request, self.tokenizer.special_token("eos_token"));
        let cleanup = self.task.file.request.cleanup;
        let Some(facts) = row.fields.get("token_level") else { return Ok(answer::cleaned_and_cut(response, cleanup, &stops)) };
        let facts = facts.as_object().ok_or_else(|| source.shape(Some(row.line), "'token_level' must be an object"))?;
        source.only_keys(facts, &["batch", "padded_context_tokens", "input_tokens", "new_tokens"], Some(row.line))?;
        let batch = self.batches[position];
        let room = fit::prompt_length(&self.task.file.request, &self.facts);
        let mut ids: Vec<usize> = batch.partner.into_iter().chain([position]).collect();
        ids.sort_by_key(|at| (count(self.tokenizer, &self.prompts[*at]).unwrap_or_default(), &self.prompts[*at]));
        let ids: Vec<String> = ids.iter().map(usize::to_string).collect();
        let input = batch.padded.min(room);
        for (key, got) in [("batch", json!(ids)), ("padded_context_tokens", json!(batch.padded)), ("input_tokens", json!(input))] {
            let expected = source.value_of(facts, key, Some(row.line))?;
            report.check_value(&source.name, &row.id, &format!("token_level.{key}"), expected, &got);
        }
        let new_tokens = source.value_of(facts, "new_tokens", Some(row.line))?.as_u64();
        let new_tokens = new_tokens.ok_or_else(|| source.shape(Some(row.line), "'new_tokens' must be a whole number"))? as usize;
        let filler = self.tokenizer.eos_id().unwrap_or_default();
        let ids = self.tokenizer.encode(response, Special::None).map_err(|e| CertifyError::Data(e.to_string()))?;
        let rest = lost_tokens::rest(&ids, new_tokens, batch.padded - input, filler, self.tokenizer);
        Ok(answer::cleaned_and_cut(&rest, cleanup, &stops))
    }

    /// Settings and the digest over every prompt of the full run.
    fn settings(&self, report: &mut Folder, source: &Source, settings: &Map<String, Value>) -> Result<(), CertifyError> {
        // The rest describes how the goldens were made, or what was scored over rows that are not in the folder.
        let told = ["data", "version", "max_length", "max_gen_toks", "batch_size", "subset", "segmenter", "rouge_tokenizer"];
        let held_back = ["sha256_of_requests_json", "full_run_metric_card_scale", "mecab_variant"];
        for (key, expected) in settings {
            let got = match key.as_str() {
                "task" => json!(self.task.name),
                "num_fewshot" => json!(self.task.file.shots),
                "documents_in_full_run" => json!(self.prompts.len()),
                "sha256_of_all_prompts_in_evaluation_order" => json!(requests::digest_joined(self.prompts.iter().map(String::as_str))),
                other if told.contains(&other) || held_back.contains(&other) => continue,
                other => return Err(source.shape(None, format!("settings has an unknown field '{other}'"))),
            };
            report.check_value(&source.name, "", &format!("settings.{key}"), expected, &got);
        }
        Ok(())
    }
}

fn count(tokenizer: &Tokenizer, text: &str) -> Result<usize, CertifyError> {
    fit::count(tokenizer, text).map_err(|e| CertifyError::Data(e.to_string()))
}

/// Records of a split, of the invented data set where there is one.
fn records(task: &Task, split: &str, data: Data<'_>) -> Result<Vec<Record>, CertifyError> {
    let invented = RECORDED_OVER.iter().find(|(real, _)| *real == task.file.dataset).map(|(_, invented)| *invented);
    let dataset = &task.file.dataset;
    match invented {
        Some(invented) => data(invented, split).or_else(|why| data(dataset, split).map_err(|_| why)),
        None => data(dataset, split),
    }
    .map_err(CertifyError::Data)
}

/// A text, or the digits of an integer.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        // An integer beyond 64 bits is read as a double; the harness made it of one.
        Value::Number(number) if number.is_f64() => format!("{:.0}", number.as_f64().unwrap_or(f64::NAN)),
        other => other.to_string(),
    }
}
