//! `bench requests`: recorded requests through the in-process engine, answers to a file.

use super::{
    lines,
    recorded::{Asked, CountTokens, Row},
    tell,
};
use crate::{
    cli::{
        data_source,
        devices::DeviceArgs,
        engines,
        exit::{Exit, Failure, Verdict},
        interrupt,
        model_choice::{InProcess, logits},
        output::{complain, note},
        values::{Dtype, Ops},
    },
    engine::{ContinuationScore, Engine, Generated, Outcome, Output, Request, RequestId, Sink, Stats},
    run::measure::measure,
    text::tokenizer::Special,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// Time recorded requests on the in-process engine.
#[derive(clap::Args, Clone, Debug)]
pub struct RequestsArgs {
    /// Requests, one a line, in the form of the goldens' requests.jsonl
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Hub id or directory of the model
    #[arg(long, short = 'M', value_name = "NAME")]
    pub model: String,
    /// Write the answers here, one line a row of the input, in its order: "id", then "texts" and "token_ids", or "loglikelihoods" and
    /// "is_greedy"
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Data type of the weights
    #[arg(long, value_name = "TYPE", value_enum, default_value = "auto")]
    pub dtype: Dtype,
    /// Keep logits in f32 where --dtype rounds the weights
    #[arg(long)]
    pub logits_f32: bool,
    /// Where it computes
    #[command(flatten)]
    pub devices: DeviceArgs,
    /// Operations of a GPU besides matrix products: eager (the tensor library's) or fused (this program's own) [default: eager]
    #[arg(long, value_name = "NAME", value_enum, hide_short_help = true)]
    pub tensor_ops: Option<Ops>,
    /// Threads; all cores unless given
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Compute every prompt by itself
    #[arg(long)]
    pub no_prefix_sharing: bool,
    /// Open no connection
    #[arg(long)]
    pub offline: bool,
}

/// A row of the input: its name, and for each of its requests those it became.
struct Plan {
    id: Value,
    main: Vec<RequestId>,
    extra: Vec<Vec<RequestId>>,
}

/// Asks every distinct request once; `n` counts rows of the input.
pub(super) fn run(args: &RequestsArgs) -> Verdict {
    let lines = lines::read(&args.input)?;
    let (dtype, logits) = (args.dtype.name().map(str::to_owned), logits(args.logits_f32));
    let (devices, tensor_ops) = (args.devices.clone(), args.tensor_ops.into());
    let choice = InProcess { model: args.model.clone(), dtype, logits, devices, tensor_ops, ..InProcess::default() };
    let limits = super::limits(args.no_prefix_sharing);
    let mut engine = engines::load(&choice, args.threads, data_source::network(args.offline), limits)?;
    let tokenizer = engine.facts().tokenizer;
    let count = |text: &str| Some(tokenizer.as_ref()?.encode(text, Special::Add).ok()?.len() as u32);
    let (plans, requests) = plan(&lines, &args.input, &count)?;
    if let Some(error) = requests.iter().find_map(|request| engine.refusal(request)) {
        return Err(engines::failure(error));
    }
    let cancel = interrupt::install()?;
    let mut answers: BTreeMap<RequestId, Result<Output, String>> = BTreeMap::new();
    let mut push = |outcome: Outcome| {
        match outcome {
            Ok(response) => answers.insert(response.id, Ok(response.output)),
            Err(failure) => answers.insert(failure.id, Err(failure.message)),
        };
        ControlFlow::Continue(())
    };
    let (measured, served) = measure("requests", plans.len(), || engine.serve(&requests, &mut Sink::new(&mut push, cancel)));
    let stats = served.map_err(engines::failure)?;
    if cancel.load(std::sync::atomic::Ordering::Relaxed) {
        complain("interrupted; nothing is written");
        return Ok(Exit::Interrupted);
    }
    lines::write(&args.output, plans.iter().map(|plan| row(plan, &answers)))?;
    note(&told(&stats));
    tell(&measured)?;
    let failed: Vec<&String> = answers.values().filter_map(|answer| answer.as_ref().err()).collect();
    if let Some(first) = failed.first() {
        complain(&format!("incomplete: {} of {} requests have no answer (the first: {first})", failed.len(), requests.len()));
        return Ok(Exit::Incomplete);
    }
    Ok(Exit::Ok)
}

/// What is asked, and the distinct requests in their order.
fn plan(lines: &[lines::Line], path: &Path, count: CountTokens<'_>) -> Result<(Vec<Plan>, Vec<Request>), Failure> {
    let (mut plans, mut requests, mut known) = (Vec::new(), Vec::new(), std::collections::BTreeSet::new());
    for line in lines {
        let wrong = |what: &str| lines::wrong(path, line.number, what);
        let row = Row::deserialize(&line.value).map_err(|e| wrong(&format!("is no recorded request: {e}")))?;
        let mut ids = Vec::new();
        for asked in row.requests() {
            let made = Asked::requests(asked, count).map_err(|e| wrong(&e))?;
            ids.push(made.iter().map(|r| r.id.clone()).collect::<Vec<_>>());
            requests.extend(made.into_iter().filter(|r| known.insert(r.id.clone())));
        }
        let extra = ids.split_off(1);
        plans.push(Plan { id: row.id(line.number), main: ids.concat(), extra });
    }
    Ok((plans, requests))
}

/// A line of the output.
fn row(plan: &Plan, answers: &BTreeMap<RequestId, Result<Output, String>>) -> Value {
    let mut row = json!({"id": plan.id});
    let fields = row.as_object_mut().expect("it was made as an object");
    fields.extend(answer(&plan.main, answers));
    if !plan.extra.is_empty() {
        let extra = plan.extra.iter().map(|ids| Value::Object(answer(ids, answers))).collect();
        fields.insert("extra".to_owned(), Value::Array(extra));
    }
    row
}

/// The answers to the requests that one recorded request became, which are all of one kind.
fn answer(ids: &[RequestId], answers: &BTreeMap<RequestId, Result<Output, String>>) -> serde_json::Map<String, Value> {
    let (mut texts, mut tokens) = (Vec::new(), Vec::new());
    let (mut logprobs, mut greedy) = (Vec::new(), Vec::new());
    let mut fields = serde_json::Map::new();
    for id in ids {
        match answers.get(id) {
            Some(Ok(Output::Generated(Generated { text, token_ids, .. }))) => {
                texts.push(json!(text));
                tokens.push(json!(token_ids));
            }
            Some(Ok(Output::LogLikelihoods { continuations })) => {
                for ContinuationScore { logprob, is_greedy, .. } in continuations {
                    logprobs.push(json!(logprob));
                    greedy.push(json!(is_greedy));
                }
            }
            Some(Ok(Output::Dialogue { turns })) => {
                for turn in turns {
                    texts.push(json!(turn.raw.text));
                    tokens.push(json!(turn.raw.token_ids));
                }
            }
            Some(Err(message)) => drop(fields.insert("error".to_owned(), json!(message))),
            None => drop(fields.insert("error".to_owned(), json!("the engine gave no answer"))),
        }
    }
    let lists = [("texts", texts), ("token_ids", tokens), ("loglikelihoods", logprobs), ("is_greedy", greedy)];
    fields.extend(lists.into_iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| (name.to_owned(), Value::Array(list))));
    fields
}

/// What the engine counted.
fn told(stats: &Stats) -> String {
    let Stats { prefill_tokens, shared_tokens, decode_tokens, prefill_seconds, decode_seconds, near_ties, .. } = stats;
    format!(
        "{prefill_tokens} prompt tokens computed, {shared_tokens} shared, in {prefill_seconds:.2} s; \
         {decode_tokens} tokens decoded, those without prompts beside them in {decode_seconds:.2} s; \
         {near_ties} choices within the noise of the logits"
    )
}
