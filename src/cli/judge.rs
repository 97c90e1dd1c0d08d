//! Who judges: flags and variables to a judge, what its calls will cost, and `judge`, a second judge over recorded answers.

use super::{
    data_source,
    exit::{Exit, Failure, Verdict},
    interrupt,
    output::{complain, note, print},
    progress::{Progress, Show},
    report::look_of_stdout,
    run::{load_tasks, results_failure, stopped, write_table},
    sandbox::SandboxArgs,
    score::unscored,
    settings, values,
};
use crate::{
    engine::{
        Engine,
        endpoint::{
            Secret,
            batch::BatchServer,
            chat_server::{ChatOptions, ChatServer, Service},
        },
    },
    judge::{
        cost::{Price, Prices},
        demo::DemoJudge,
    },
    report::{table::Table, terminal},
    results::{command_line::redact, journal::Answers, reference, run_dir::RunDir},
    run::{
        Judge,
        agreement::{Agreement, agreement},
        ask::Event,
        ask_judge, judge_calls, rescore_with,
        resources::Tools,
        verdicts::{Budget, Verdicts, at_most},
    },
    task::{Task, judged::JudgeRule, load},
};
use clap::Args;
use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

/// Flags that name a judge.
#[derive(Clone, Debug, Default, Args)]
pub struct JudgeFlags {
    /// Model that judges [default: the published table's; on Azure this names the deployment unless AZURE_OPENAI_DEPLOYMENT_NAME does]
    #[arg(long, value_name = "NAME", help_heading = "Judge")]
    pub judge_model: Option<String>,
    /// Base URL of the judge, up to /v1 [default: Azure where AZURE_OPENAI_ENDPOINT is set, else OPENAI_BASE_URL, else OpenAI]
    #[arg(long, value_name = "URL", help_heading = "Judge")]
    pub judge_url: Option<String>,
    /// Judge by a rule that reads nothing, to see a table; the numbers mean nothing
    #[arg(long, conflicts_with_all = ["judge_model", "judge_url"], help_heading = "Judge")]
    pub judge_demo: bool,
    /// Ask the judge in batches (OpenAI's batch API, answers within 24 hours); the same command again picks up what is at the server
    #[arg(long, help_heading = "Judge")]
    pub judge_batch: bool,
    /// Calls to the judge in flight
    #[arg(long, value_name = "N", help_heading = "Judge")]
    pub judge_connections: Option<NonZeroUsize>,
    /// Tries of a call after the first
    #[arg(long, value_name = "N", help_heading = "Judge")]
    pub judge_retries: Option<u32>,
    /// Limit for one judgement
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds, help_heading = "Judge")]
    pub judge_timeout: Option<Duration>,
    /// Stop before judging has cost more US dollars than this; needs --prices
    #[arg(long, value_name = "USD", value_parser = dollars, requires = "prices", help_heading = "Judge")]
    pub max_cost: Option<f64>,
    /// TOML file of prices: a table a model, with input and output (US dollars for a million tokens), source, date; batch_input and
    /// batch_output where batches have a price of their own
    #[arg(long, value_name = "FILE", help_heading = "Judge")]
    pub prices: Option<PathBuf>,
}

fn dollars(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0).ok_or_else(|| "a number of US dollars is expected, 0 or more".to_owned())
}

/// Flags of `judge`.
#[derive(Clone, Debug, Args)]
pub struct JudgeArgs {
    /// Run directory
    pub run: PathBuf,
    /// Who judges
    #[command(flatten)]
    pub flags: JudgeFlags,
    /// Read task files from this folder too
    #[arg(long, value_name = "DIR")]
    pub include_path: Option<PathBuf>,
    /// Only the table
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

/// A judge that may be asked, and for how much.
pub(super) struct Chosen {
    pub(super) engine: Box<dyn Engine>,
    pub(super) batches: Option<BatchServer>,
    pub(super) price: Option<Price>,
    pub(super) budget: Option<Budget>,
}

impl Chosen {
    pub(super) fn judge(&mut self) -> Judge<'_> {
        Judge { engine: self.engine.as_mut(), batches: self.batches.as_ref(), budget: self.budget.clone() }
    }
}

/// Base URL of OpenAI.
const OPENAI: &str = "https://api.openai.com/v1";

/// The judge that flags and variables name. Nothing is sent.
///
/// # Errors
/// A missing key for a hosted service, a bad URL or price file, batches where there are none (exit 2).
pub(super) fn choose(flags: &JudgeFlags, rule: &JudgeRule, offline: bool) -> Result<Chosen, Failure> {
    if flags.judge_demo {
        if flags.judge_batch {
            return Err(Failure::new(Exit::Usage, "--judge-batch: the demo judge is a rule of this program, which no server is asked for")
                .hint("name a judge with --judge-url and --judge-model, or leave --judge-batch out"));
        }
        return Ok(Chosen { engine: Box::new(DemoJudge::default()), batches: None, price: None, budget: None });
    }
    let model = flags.judge_model.clone().unwrap_or_else(|| rule.model.clone());
    let (service, api_key) = service(flags, rule, &model, offline)?;
    let mut options = ChatOptions::new(service, &model);
    options.api_key = api_key;
    options.max_connections = flags.judge_connections.map_or(options.max_connections, NonZeroUsize::get);
    options.max_retries = flags.judge_retries.unwrap_or(options.max_retries);
    options.timeout = flags.judge_timeout.unwrap_or(options.timeout);
    let price = price(flags, &model)?;
    let budget = flags.max_cost.zip(price.clone()).map(|(dollars, price)| Budget { dollars, price });
    let usage = |e: crate::engine::EngineError| Failure { exit: Exit::Usage, message: format!("judge: {}", e.message), hint: e.hint };
    let batches = flags.judge_batch.then(|| BatchServer::new(options.clone()));
    let batches = batches.transpose().map_err(|e| Failure { message: format!("--judge-batch: {}", e.message), ..usage(e) })?;
    Ok(Chosen { engine: Box::new(ChatServer::new(options).map_err(usage)?), batches, price, budget })
}

/// The first of several variables that is set.
fn any(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| settings::env(name))
}

fn service(flags: &JudgeFlags, rule: &JudgeRule, model: &str, offline: bool) -> Result<(Service, Option<Secret>), Failure> {
    let azure = any(&["AZURE_OPENAI_ENDPOINT", "AZUREAI_OPENAI_BASE_URL"]).filter(|_| flags.judge_url.is_none());
    let named = flags.judge_url.clone().or_else(|| any(&["OPENAI_BASE_URL", "OPENAI_API_BASE"]));
    let missing = |what: &str, names: &str| {
        Failure::new(Exit::Usage, format!("the judge {model} at {what} needs a key, and none is set"))
            .hint(format!("export {names}, or write it into .env; --judge-url names another server, --judge-demo needs none"))
    };
    if let Some(endpoint) = azure {
        let names = ["AZURE_OPENAI_KEY", "AZURE_OPENAI_API_KEY", "AZUREAI_OPENAI_API_KEY"];
        let key = any(&names).ok_or_else(|| missing("Azure OpenAI", &names.join(" or ")))?;
        let deployment = any(&["AZURE_OPENAI_DEPLOYMENT_NAME"]).filter(|_| flags.judge_model.is_none()).unwrap_or_else(|| model.to_owned());
        let versions = ["AZURE_OPENAI_API_VERSION", "AZUREAI_OPENAI_API_VERSION", "OPENAI_API_VERSION"];
        let api_version = any(&versions).unwrap_or_else(|| rule.azure_api_version.clone());
        return Ok((Service::Azure { endpoint, deployment, api_version }, Some(Secret::new(key))));
    }
    let key = settings::api_key();
    match named {
        Some(base_url) => Ok((Service::OpenAi { base_url }, key)),
        None if offline => Err(Failure::new(Exit::Usage, format!("the judge {model} is asked over the network, which --offline forbids"))
            .hint("name a server with --judge-url, or answer now with --predict-only and judge later")),
        None => match key {
            Some(key) => Ok((Service::OpenAi { base_url: OPENAI.to_owned() }, Some(key))),
            None => Err(missing("OpenAI", "OPENAI_API_KEY")),
        },
    }
}

fn price(flags: &JudgeFlags, model: &str) -> Result<Option<Price>, Failure> {
    let Some(path) = &flags.prices else { return Ok(None) };
    let unreadable = |e: std::io::Error| Failure::new(Exit::Usage, format!("failed to read {}: {e}", path.display()));
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let mut prices = Prices::parse(&text, &path.display().to_string()).map_err(|e| Failure::new(Exit::Usage, e.to_string()))?;
    match prices.0.remove(model) {
        Some(price) => Ok(Some(price)),
        None if flags.max_cost.is_none() => Ok(None),
        None => {
            Err(Failure::new(Exit::Usage, format!("--max-cost needs a price of the judge, and {} has none for '{model}'", path.display())))
        }
    }
}

/// What judging will take, in a sentence.
pub(super) fn outlook(calls: u64, chosen: &Chosen) -> String {
    let full = chosen.price.as_ref();
    let of_batches = full.filter(|_| chosen.batches.is_some()).map(Price::of_batches);
    let which = match &of_batches {
        Some(Some(_)) => ", the price of batches",
        Some(None) => ", the full price as an upper bound: the price file has none of batches",
        None => "",
    };
    let cost = match of_batches.as_ref().and_then(Option::as_ref).or(full) {
        Some(p) => format!(
            "; at {} USD in and {} USD out for a million tokens ({}, {}{which}) a call of 2,000 and 500 tokens costs {:.4} USD",
            p.input,
            p.output,
            p.source,
            p.date,
            (2000.0 * p.input + 500.0 * p.output) / 1e6
        ),
        None => "; no price is known (--prices FILE)".to_owned(),
    };
    let how = if chosen.batches.is_some() { " in batches" } else { "" };
    format!("judge: {calls} calls{how}{cost}")
}

/// What judging took, and what is to be known of its batches.
pub(super) fn told(verdicts: &Verdicts, price: Option<&Price>) -> String {
    let cost = price.map_or(String::new(), |p| format!(", {:.4} USD", verdicts.dollars(p)));
    verdicts.notes.iter().for_each(|text| note(text));
    format!(
        "judge: {} calls now; {} prompt and {} answer tokens counted in all{cost}",
        verdicts.answered, verdicts.spent.input, verdicts.spent.output
    )
}

/// The rule of the first judged task.
pub(super) fn rule<'t>(tasks: impl IntoIterator<Item = &'t Task>) -> Option<&'t JudgeRule> {
    tasks.into_iter().find_map(|t| t.file.judge.as_ref())
}

pub(super) fn run(args: &JudgeArgs) -> Verdict {
    let usage = |e| results_failure(Exit::Usage, &e);
    let dir = RunDir::find(&args.run, Path::new("results")).map_err(usage)?;
    let spec = dir.spec().map_err(usage)?;
    let all = load_tasks(args.include_path.as_deref())?;
    let tasks: Vec<Task> = all.into_iter().filter(|t| spec.tasks.iter().any(|s| s.task == t.name)).collect();
    let Some(rule) = rule(&tasks) else {
        return Err(Failure::new(Exit::Usage, format!("{} has no task that is judged", dir.path().display())));
    };
    let mut chosen = choose(&args.flags, rule, false)?;
    let asked = dir.requests().map_err(usage)?;
    let answers = Answers::of(dir.responses().map_err(usage)?.outcomes);
    let calls = judge_calls(&tasks, &asked, &answers);
    let tokens = at_most(&calls);
    note(&format!("{}; at most about {} prompt and {} answer tokens", outlook(calls.len() as u64, &chosen), tokens.input, tokens.output));
    let writer = dir.clone().into_writer().map_err(usage)?;
    let cancel = interrupt::install()?;
    let progress = Progress::new(if args.quiet { Show::Nothing } else { Show::on_stderr() });
    let onlooker = |event: Event<'_>| progress.see(event);
    let again = again(&dir, &args.flags);
    warn_of_open(&dir, &chosen)?;
    let verdicts = ask_judge(chosen.judge(), &tasks, &asked, &answers, &writer, cancel, &onlooker).map_err(|e| stopped(e, &again))?;
    note(&told(&verdicts, chosen.price.as_ref()));
    if verdicts.cancelled {
        complain(&format!("interrupted; every judgement so far is kept{}\ngo on with: {again}", at_the_server(&verdicts)));
        return Ok(Exit::Interrupted);
    }
    let second = chosen.engine.identity().clone();
    let suite = load::suite(&spec.suite).map_err(data_source::task_failure)?;
    let published = reference::row(&spec.suite, &spec.engine.model).ok().filter(|_| !spec.demo);
    // A run's verdicts on programs are recorded; only a run that was cut off there executes any.
    let sandbox = || SandboxArgs::default().choose();
    let finished =
        rescore_with(&dir, &suite, &tasks, &writer, &Tools::default(), &sandbox, Some(second.clone())).map_err(|e| unscored(&e))?;
    let scores = finished.scores.as_ref().ok_or_else(|| Failure::new(Exit::Bug, "scoring gave no scores"))?;
    match spec.judge.filter(|first| first.model != second.model) {
        // The run's own judge: the table is the run's.
        None => write_table(scores, &writer, published.as_ref())?,
        Some(first) => {
            let of = |judge: &str| dir.judgements(judge).map(|r| Answers::of(r.outcomes)).map_err(usage);
            let found = agreement(&calls, &of(&first.model)?, &of(&second.model)?);
            let table = Table::of_run(scores, published.as_ref()).footnote(format!("judge: {}", second.model));
            print(&terminal::render(&table.footnote(agreed(&first.model, &second.model, found)), look_of_stdout()))?;
        }
    }
    Ok(if verdicts.over_budget || finished.failed > 0 { incomplete(&verdicts, finished.failed) } else { Exit::Ok })
}

/// The command that goes on with a judging.
fn again(dir: &RunDir, flags: &JudgeFlags) -> String {
    let mut line = format!("swallow-eval judge {}", dir.path().display());
    for (flag, value) in [("--judge-model", &flags.judge_model), ("--judge-url", &flags.judge_url)] {
        line += &value.as_ref().map_or(String::new(), |value| format!(" {flag} {}", redact(value)));
    }
    line + if flags.judge_batch { " --judge-batch" } else { "" }
}

/// Batches that go on at their server while nobody waits.
pub(super) fn at_the_server(verdicts: &Verdicts) -> String {
    match verdicts.waiting.as_slice() {
        [] => String::new(),
        [one] => format!("; the batch {one} goes on at its server, and its answers are collected when you come back"),
        more => format!("; the batches {} go on at their server, and their answers are collected when you come back", more.join(", ")),
    }
}

/// Calls asked one by one while a batch holds them are paid for twice.
///
/// # Errors
/// When the file of the batches cannot be read (exit 2).
pub(super) fn warn_of_open(dir: &RunDir, chosen: &Chosen) -> Result<(), Failure> {
    let batches = dir.batches(&chosen.engine.identity().model).map_err(|e| results_failure(Exit::Usage, &e))?;
    let open: Vec<&str> = batches.open().filter_map(|b| b.batch.as_deref()).collect();
    if chosen.batches.is_none() && !open.is_empty() {
        complain(&format!(
            "{} may hold answers to these calls, which are now asked, and paid for, once more; --judge-batch collects them",
            open.join(", ")
        ));
    }
    Ok(())
}

/// Says why judging is incomplete.
pub(super) fn incomplete(verdicts: &Verdicts, failed: u64) -> Exit {
    let why = if verdicts.over_budget { "--max-cost is reached" } else { "some calls got no answer" };
    complain(&format!("incomplete: {why}; {failed} conversations are without a judgement, and the average is withheld"));
    Exit::Incomplete
}

fn agreed(first: &str, second: &str, found: Option<Agreement>) -> String {
    let Some(a) = found else { return format!("{second} and {first} rated no answer in common") };
    let share = |n: u64| 100.0 * n as f64 / a.both as f64;
    let correlation = a.correlation.map_or("none (one always rates alike)".to_owned(), |c| format!("{c:.3}"));
    format!(
        "{second} against {first} on {} answers: equal {:.1} %, within one {:.1} %, mean difference {:+.3}, correlation {correlation}",
        a.both,
        share(a.equal),
        share(a.within_one),
        a.bias
    )
}
