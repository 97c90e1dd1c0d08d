//! `bench score`: one metric over pairs of prediction and reference.

use super::{
    lines::{self, Line},
    tell,
};
use crate::{
    cli::{
        data_source, engines,
        exit::{Exit, Failure, Verdict},
        output::note,
        run::tool_failure,
        threads::with_threads,
    },
    metric::{self, Evidence, METRICS, Metric, Need, Reference, Score},
    run::{measure::measure, resources::Tools},
};
use clap::builder::PossibleValuesParser;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::{num::NonZeroUsize, path::PathBuf};

/// Time a metric over pairs of prediction and reference.
#[derive(clap::Args, Clone, Debug)]
pub struct ScoreArgs {
    /// Which metric
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(METRICS.map(|m| m.name())))]
    pub metric: String,
    /// Pairs, one JSON object a line: "prediction", and "reference" or "references"
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Write {"value", "stats"} for each pair here
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Tokenizer of the evaluated model, for metrics on its tokens: hub id or directory
    #[arg(long, value_name = "NAME")]
    pub tokenizer: Option<String>,
    /// Threads; all cores unless given
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Open no connection
    #[arg(long)]
    pub offline: bool,
}

/// Scores every pair once; `n` counts pairs. The aggregate goes to standard error, outside the clock.
pub(super) fn run(args: &ScoreArgs) -> Verdict {
    let metric = metric::by_name(&args.metric).ok_or_else(|| Failure::new(Exit::Bug, "a metric that is listed is not found"))?;
    let pairs = lines::read(&args.input)?.iter().map(|line| pair(line, args)).collect::<Result<Vec<_>, Failure>>()?;
    let tools = tools(args, metric)?;
    let (measured, scores) = with_threads(args.threads, || {
        tools.with(|resources| {
            measure(metric.name(), pairs.len(), || {
                let scored = pairs.par_iter().map(|(reference, answer)| metric.score(resources, reference, std::slice::from_ref(answer)));
                scored.collect::<Vec<Score>>()
            })
        })
    })?;
    if let Some(path) = &args.output {
        lines::write(path, scores.iter().map(|score| json!({"value": score.value, "stats": score.stats})))?;
    }
    if let Some(value) = metric.aggregate(&scores) {
        note(&format!("{} of {} pairs: {value}", metric.name(), pairs.len()));
    }
    tell(&measured)?;
    Ok(Exit::Ok)
}

fn tools(args: &ScoreArgs, metric: &dyn Metric) -> Result<Tools, Failure> {
    let (network, needs) = (data_source::network(args.offline), metric.needs());
    let mut tools = Tools::default();
    if needs.contains(&Need::ModelTokenizer) {
        let Some(name) = &args.tokenizer else {
            return Err(Failure::new(Exit::Usage, format!("{} is scored on the evaluated model's tokens", metric.name()))
                .hint("--tokenizer names a directory with its tokenizer.json, or its hub id"));
        };
        tools.tokenizer = engines::facts(name, None, network)?.tokenizer;
    }
    if needs.contains(&Need::Nagisa) {
        tools.segmenter = Some(data_source::nagisa(&data_source::files(network, None)).map_err(|e| tool_failure(&e))?);
    }
    Ok(tools)
}

fn pair(line: &Line, args: &ScoreArgs) -> Result<(Reference, Evidence), Failure> {
    let text = |key: &str| line.value.get(key).and_then(Value::as_str).map(str::to_owned);
    let texts = |list: &Vec<Value>| list.iter().map(|t| t.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>();
    let references = match line.value.get("references").and_then(Value::as_array) {
        Some(list) => texts(list),
        None => text("reference").map(|only| vec![only]),
    };
    match (text("prediction"), references) {
        (Some(prediction), Some(texts)) => Ok((Reference::of(texts), Evidence::Text(prediction))),
        _ => {
            let what = "must be an object with a text \"prediction\", and a text \"reference\" or a list of texts \"references\"";
            Err(lines::wrong(&args.input, line.number, what))
        }
    }
}
