//! `run`: from flags to a finished run directory. The order of the work is `run`'s; what is said about it is said here.

use super::{
    args::{Cli, Command},
    chat_template::{chat_template, chosen_judge, judged},
    data_source, dry_run, engines,
    exit::{Exit, Failure, Verdict},
    interrupt, judge,
    model_choice::{EndpointChoice, InProcess, ModelChoice},
    output::{complain, note, print, tell},
    progress::{Progress, Show},
    report::look_of_stdout,
    run_args::RunArgs,
    suites,
};
use crate::{
    dataset::store::Store,
    engine::{Engine, ModelFacts, RequestKind, Template},
    metric::Need,
    report::{markdown, radar, table::Table, terminal},
    results::{
        ResultsError,
        command_line::CommandLine,
        reference::{self, ReferenceRow},
        run_dir::{RunDir, RunWriter},
        scores::Scores,
        spec::{self, Machine, RunSpec, Timing, Tool},
    },
    run::{
        Finished, Job, Then,
        ask::{AskError, Event},
        execute,
        grade::executes,
        plan::{self, Plan, PlanError, Selection, SkipMissing},
        resources::{Segmenter, ToolError, Tools, needing, needs},
        task_specs,
    },
    sandbox::Sandbox,
    task::{
        EosStop, PenaltyFrom, RequestKindName, Task,
        load::{self, PROTOCOL},
    },
};
use clap::Parser;
use std::{fmt::Write as _, path::Path};

/// Runs the verb.
///
/// # Errors
/// Every documented code but 1, 6 and 70.
pub(super) fn run(args: &RunArgs, command_line: CommandLine) -> Verdict {
    for text in args.check()? {
        note(&text);
    }
    let (args, command_line) = match recorded(args)? {
        Some((recorded, command_line)) => (&Box::new(recorded) as &RunArgs, command_line),
        None => (args, command_line),
    };
    let choice = args.model_choice()?;
    // What one suite lacks is said before another is asked for hours.
    let prepared = suites::of(args)?.iter().map(|suite| prepare(suite, args, &choice)).collect::<Result<Vec<_>, Failure>>()?;
    let mut engine = None;
    let mut verdict = Exit::Ok;
    for prepared in prepared.into_iter().flatten() {
        match run_suite(args, command_line.clone(), &choice, prepared, &mut engine)? {
            Exit::Ok => {}
            Exit::Interrupted => return Ok(Exit::Interrupted),
            other => verdict = other,
        }
    }
    Ok(verdict)
}

/// A suite about to be asked, and what it has beside its model.
struct Prepared {
    plan: Plan,
    segmenter: Option<Segmenter>,
    sandbox: Option<Sandbox>,
    published: Option<ReferenceRow>,
    judge: Option<judge::Chosen>,
}

/// Everything of a suite that can fail without a model; nothing is left to do for a dry run.
fn prepare(suite: &str, args: &RunArgs, choice: &ModelChoice) -> Result<Option<Prepared>, Failure> {
    let published = published(suite, args, choice)?;
    // Only what is shown before the model is there needs to know of it; otherwise the plan is fitted when it is.
    let facts = if args.dry_run || args.write_out { facts_at_hand(choice) } else { ModelFacts::default() };
    let mut plan = make_plan(suite, args, choice, facts.clone())?;
    let segmenter = if args.dry_run { None } else { segmenter(args, choice, &mut plan)? };
    let sandbox = if args.dry_run { None } else { sandbox(args, choice, &mut plan)? };
    for (task, why) in &plan.left_out {
        note(&format!("task '{task}' is left out: {why}"));
    }
    if args.write_out {
        print(&first_prompts(&plan))?;
    }
    if args.dry_run {
        tell(&dry_run::told(&plan, facts.tokenizer.as_deref(), choice.model(), &args.output), 2)?;
        return Ok(None);
    }
    let judge = chosen_judge(args, choice, &plan)?;
    Ok(Some(Prepared { plan, segmenter, sandbox, published, judge }))
}

/// One suite, which is one run. The model is loaded by the first.
fn run_suite(
    args: &RunArgs,
    command_line: CommandLine,
    choice: &ModelChoice,
    prepared: Prepared,
    engine: &mut Option<Box<dyn Engine>>,
) -> Verdict {
    // The directory comes before the model: a wrong path must not cost minutes of loading.
    let writer = open(args)?;
    let result = run_in(args, command_line, choice, &writer, prepared, engine);
    if result.is_err() {
        // A run that never began leaves no directory behind; one that did is kept whatever happened.
        let _ = writer.discard();
    }
    result
}

/// Asks, and finishes.
fn run_in(
    args: &RunArgs,
    command_line: CommandLine,
    choice: &ModelChoice,
    writer: &RunWriter,
    prepared: Prepared,
    engine: &mut Option<Box<dyn Engine>>,
) -> Verdict {
    let Prepared { plan, segmenter, sandbox, published, mut judge } = prepared;
    let cancel = interrupt::install()?;
    let chat = chat_template(args, choice)?;
    let mut of_messages;
    let engine: &mut dyn Engine = match choice {
        // An API answers messages; so does a server that is to apply its model's own template.
        ModelChoice::Endpoint(servers) if judged(&plan) && matches!(chat.template, Template::Messages { .. } | Template::Model) => {
            of_messages = engines::chat(servers)?;
            of_messages.as_mut()
        }
        _ => match engine {
            Some(loaded) => loaded.as_mut(),
            none => none.insert(engines::build(choice, args.threads, data_source::network(args.offline))?).as_mut(),
        },
    };
    let mut facts = engine.facts();
    facts.template = Some(chat.template.clone());
    let tools = Tools::of(&facts, segmenter);
    tools.check(plan.tasks.iter().map(|t| &t.task)).map_err(|e| tool_failure(&e))?;
    let fitted = plan.tasks.iter().any(|t| depends_on_model(&t.task)).then(|| fitted(args, choice, &plan, facts)).transpose()?;
    let plan = fitted.as_ref().unwrap_or(&plan);
    let mut spec = spec(args, command_line, choice, plan, engine, writer)?;
    spec.judge = judge.as_ref().map(|j| j.engine.identity().clone());
    if let Some(judge) = &judge {
        judge::warn_of_open(writer.dir(), judge)?;
    }
    let resume = format!("swallow-eval run --resume {}", writer.dir().path().display());
    let progress = Progress::new(if args.quiet { Show::Nothing } else { Show::on_stderr() });
    let onlooker = |event: Event<'_>| progress.see(event);
    let chosen = || sandbox.clone().map_or_else(|| args.programs.choose(), Ok);
    let job = Job {
        plan,
        spec,
        writer,
        engine,
        cancel,
        onlooker: &onlooker,
        then: then(args),
        tools: &tools,
        sandbox: &chosen,
        judge: judge.as_mut().map(judge::Chosen::judge),
    };
    let finished = execute(job).map_err(|e| stopped(e, &resume))?;
    if let Some(torn) = &finished.torn {
        note(torn);
    }
    if finished.cancelled {
        let left = finished.verdicts.as_ref().map(judge::at_the_server).unwrap_or_default();
        complain(&format!("interrupted; everything answered so far is kept{left}\nresume with: {resume}"));
        return Ok(Exit::Interrupted);
    }
    if let Some(verdicts) = &finished.verdicts {
        note(&judge::told(verdicts, judge.as_ref().and_then(|j| j.price.as_ref())));
    }
    match &finished.scores {
        Some(scores) => write_table(scores, writer, published.as_ref())?,
        None => print(&format!("answers are in {}; `swallow-eval score` scores them\n", writer.dir().path().display()))?,
    }
    if let Some(verdicts) = finished.verdicts.as_ref().filter(|v| v.over_budget) {
        return Ok(judge::incomplete(verdicts, finished.failed));
    }
    judge_failures(args, &finished, &resume)
}

fn then(args: &RunArgs) -> Then {
    match (args.predict_only, args.no_log_samples) {
        (true, _) => Then::Nothing,
        (false, true) => Then::Score,
        (false, false) => Then::ScoreAndLog,
    }
}

/// Writes `report.md`, prints the table and where the files are.
pub(super) fn write_table(scores: &Scores, writer: &RunWriter, published: Option<&ReferenceRow>) -> Result<(), Failure> {
    let table = Table::of_run(scores, published).footnote(format!("files: {}", writer.dir().path().display()));
    writer.write_report(&markdown::render(&table)).map_err(|e| results_failure(Exit::Incomplete, &e))?;
    // The columns of one benchmark are categories on one scale: those make a radar.
    let suite = load::suite(&scores.suite).map_err(data_source::task_failure)?;
    let titles: Vec<&str> = suite.columns.iter().filter(|c| c.group.is_some()).map(|c| c.title.as_str()).collect();
    if let Some(svg) = radar::svg(scores, published, &titles) {
        writer.write_radar(&svg).map_err(|e| results_failure(Exit::Incomplete, &e))?;
    }
    print(&terminal::render(&table, look_of_stdout()))
}

/// Exit 3 when more requests failed than the user allows.
fn judge_failures(args: &RunArgs, finished: &Finished, resume: &str) -> Verdict {
    if finished.failed == 0 {
        return Ok(Exit::Ok);
    }
    let why = finished.failure.as_ref().map_or(String::new(), |why| format!(" (the first: {why})"));
    let told = format!("{} of {} documents have no answer{why}", finished.failed, finished.documents);
    if args.max_failures.exceeded(finished.failed, finished.documents) {
        complain(&format!("incomplete: {told}\nhint: ask them again with: {resume}"));
        return Ok(Exit::Incomplete);
    }
    note(&format!("{told}, which --max-failures allows"));
    Ok(Exit::Ok)
}

/// With `--resume RUN` and nothing that names work, the recorded command line says what to do.
fn recorded(args: &RunArgs) -> Result<Option<(RunArgs, CommandLine)>, Failure> {
    let names_work = !args.suite.is_empty() || !args.tasks.is_empty() || args.model.is_some() || !args.base_url.is_empty() || args.demo;
    let Some(run) = args.resume.as_ref().filter(|_| !names_work) else { return Ok(None) };
    let dir = RunDir::find(run, &args.output).map_err(|e| results_failure(Exit::Usage, &e))?;
    let RunSpec { command, suite, .. } = dir.spec().map_err(|e| results_failure(Exit::Usage, &e))?;
    let words = ["swallow-eval"].into_iter().chain(command.arguments().iter().map(String::as_str));
    match Cli::try_parse_from(words).map(|cli| cli.command) {
        Ok(Command::Run(recorded)) => {
            let (resume, quiet) = (Some(dir.path().to_owned()), args.quiet || recorded.quiet);
            // Of several suites on the recorded line this run is one.
            Ok(Some((RunArgs { suite: vec![suite], resume, quiet, ..*recorded }, command)))
        }
        _ => {
            let message = format!("the command line recorded in {} cannot be read back", dir.path().join("run.json").display());
            Err(Failure::new(Exit::Usage, message).hint("give --suite, --tasks and --model again beside --resume"))
        }
    }
}

fn published(suite: &str, args: &RunArgs, choice: &ModelChoice) -> Result<Option<ReferenceRow>, Failure> {
    let own = match choice {
        ModelChoice::Demo => None,
        ModelChoice::InProcess(model) => Some(&model.model),
        ModelChoice::Endpoint(servers) => Some(&servers.model),
    };
    match (&args.against, own) {
        (Some(name), _) => reference::row(suite, name).map(Some).map_err(|e| results_failure(Exit::Usage, &e)),
        (None, Some(model)) => Ok(reference::row(suite, model).ok()),
        (None, None) => Ok(None),
    }
}

/// The plan again, now that the model is known: some prompts depend on what it makes of them.
fn fitted(args: &RunArgs, choice: &ModelChoice, plan: &Plan, facts: ModelFacts) -> Result<Plan, Failure> {
    let mut fitted = make_plan(&plan.suite.name, args, choice, facts)?;
    fitted.tasks.retain(|t| !plan.left_out.contains_key(&t.task.name));
    fitted.left_out.clone_from(&plan.left_out);
    Ok(fitted)
}

/// What executes programs, where a task has them: self-tested before the first request. A demo goes on without such tasks.
fn sandbox(args: &RunArgs, choice: &ModelChoice, plan: &mut Plan) -> Result<Option<Sandbox>, Failure> {
    if args.predict_only || !plan.tasks.iter().any(|t| executes(&t.task)) {
        return Ok(None);
    }
    match args.programs.choose() {
        Ok(sandbox) => {
            if !args.quiet {
                note(&super::sandbox::told(sandbox.identity()));
            }
            Ok(Some(sandbox))
        }
        Err(error) if *choice == ModelChoice::Demo => {
            plan.leave_out(&error.to_string(), executes);
            Ok(None)
        }
        Err(error) => Err(super::sandbox::failure(&error)),
    }
}

/// nagisa's words, where a task is scored on them. A demo, and a run that may skip, go on without such tasks.
fn segmenter(args: &RunArgs, choice: &ModelChoice, plan: &mut Plan) -> Result<Option<Segmenter>, Failure> {
    let Some(task) = needing(plan.tasks.iter().map(|t| &t.task), Need::Nagisa).map(|t| t.name.clone()) else { return Ok(None) };
    let demo = *choice == ModelChoice::Demo;
    let store = if demo { Store::samples() } else { data_source::files(data_source::network(args.offline), args.data_url.as_ref()) };
    let error = match data_source::nagisa(&store) {
        Ok(words) => return Ok(Some(words)),
        Err(error) => error,
    };
    let why = if demo { "scored on nagisa's words, whose model no demo brings".to_owned() } else { error.to_string() };
    if demo || args.skip_missing {
        plan.leave_out(&why, |task| needs(task).contains(&Need::Nagisa));
        return Ok(None);
    }
    let failure = tool_failure(&error);
    let skip = "--skip-missing runs the other tasks";
    let hint = failure.hint.map_or_else(|| skip.to_owned(), |hint| format!("{hint}; {skip}"));
    Err(Failure::new(Exit::Data, format!("task '{task}': {}", failure.message)).hint(hint))
}

/// Whether a task's requests are other ones for other models.
fn depends_on_model(task: &Task) -> bool {
    let request = &task.file.request;
    task.file.arrange.counts_tokens()
        || !request.defects.is_empty()
        || request.kind == RequestKindName::Chat
        || request.eos_stop != EosStop::No
        || request.max_total_tokens.is_some()
        || request.sampling.repetition_penalty_from == PenaltyFrom::Model
}

/// What the files of a model that is a directory here tell without loading it.
fn facts_at_hand(choice: &ModelChoice) -> ModelFacts {
    match choice {
        ModelChoice::InProcess(InProcess { model: dir, .. }) | ModelChoice::Endpoint(EndpointChoice { tokenizer: Some(dir), .. }) => {
            ModelFacts::of_dir(Path::new(dir)).unwrap_or_default()
        }
        ModelChoice::Demo | ModelChoice::Endpoint(_) => ModelFacts::default(),
    }
}

pub(super) fn tool_failure(error: &ToolError) -> Failure {
    let exit = match error {
        ToolError::NoTokenizer { .. } | ToolError::Refuses { .. } => Exit::Engine,
        ToolError::NoSegmenter { .. } | ToolError::Data(_) | ToolError::Compile(_) => Exit::Data,
        ToolError::Recorded { .. } | ToolError::Results(_) => Exit::Usage,
    };
    let failure = Failure::new(exit, error.to_string());
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn make_plan(suite: &str, args: &RunArgs, choice: &ModelChoice, facts: ModelFacts) -> Result<Plan, Failure> {
    let suite = load::suite(suite).map_err(data_source::task_failure)?;
    let tasks = load_tasks(args.include_path.as_deref())?;
    let chosen = plan::select(&suite, &args.tasks, &tasks).map_err(data_source::task_failure)?;
    let selection = Selection {
        suite,
        tasks: chosen,
        limit: args.limit,
        samples: args.samples.clone().unwrap_or_default().0,
        shard: args.shard,
        num_fewshot: args.num_fewshot,
        generation: args.generation()?,
        defects: args.defects,
        facts,
    };
    let demo = *choice == ModelChoice::Demo;
    let store = if demo { Store::samples() } else { data_source::files(data_source::network(args.offline), args.data_url.as_ref()) };
    let skip = if args.skip_missing { SkipMissing::Yes } else { SkipMissing::No };
    data_source::with_source(&store, |source| plan::plan(&selection, source, skip)).map_err(plan_failure)
}

/// The embedded tasks and those of `--include-path`.
pub(super) fn load_tasks(include: Option<&Path>) -> Result<Vec<Task>, Failure> {
    let mut tasks = load::embedded().map_err(data_source::task_failure)?;
    if let Some(dir) = include {
        tasks.extend(load::from_directory(dir).map_err(data_source::task_failure)?);
    }
    Ok(tasks)
}

pub(super) fn plan_failure(error: PlanError) -> Failure {
    let message = error.to_string();
    match error {
        PlanError::Task(e) => data_source::task_failure(e),
        PlanError::Data { missing, .. } => {
            let skip = "--skip-missing runs the other tasks";
            let hint = missing.hint.map_or_else(|| skip.to_owned(), |hint| format!("{hint}; {skip}"));
            Failure::new(Exit::Data, message).hint(hint)
        }
        PlanError::Unfit { .. } => Failure::new(Exit::Data, message),
        PlanError::Shots(_) | PlanError::NoSuchDocument { .. } => Failure::new(Exit::Usage, message),
    }
}

/// A new run, or the one to go on with.
fn open(args: &RunArgs) -> Result<RunWriter, Failure> {
    let writer = match &args.resume {
        Some(run) => RunDir::find(run, &args.output).and_then(RunDir::into_writer),
        None => RunDir::create(&args.output, None),
    };
    writer.map_err(|e| results_failure(Exit::Usage, &e))
}

/// `run.json` as it will stand; on resume, only if it agrees with what is recorded.
fn spec(
    args: &RunArgs,
    command: CommandLine,
    choice: &ModelChoice,
    plan: &Plan,
    engine: &dyn Engine,
    writer: &RunWriter,
) -> Result<RunSpec, Failure> {
    let mut spec = RunSpec {
        version: spec::FORMAT,
        id: writer.dir().id(),
        protocol: PROTOCOL.to_owned(),
        suite: plan.suite.name.clone(),
        demo: *choice == ModelChoice::Demo,
        tasks: task_specs(plan),
        left_out: plan.left_out.clone(),
        engine: engine.identity().clone(),
        judge: None,
        chat_template: judged(plan).then(|| chat_template(args, choice)).transpose()?.map(|c| c.name),
        defects: args.defects,
        limit: args.limit,
        samples: args.samples.clone().unwrap_or_default().0,
        shard: args.shard,
        seeds: Default::default(),
        tool: Tool::current(),
        machine: Machine::current(),
        command,
        timing: Timing::default(),
    };
    if args.resume.is_some() {
        let recorded = writer.dir().spec().map_err(|e| results_failure(Exit::Usage, &e))?;
        let differences = spec.differs_from(&recorded);
        if !differences.is_empty() {
            let path = writer.dir().path().display();
            let message =
                format!("{path} was recorded with other settings, so its answers cannot stand beside new ones: {}", differences.join("; "));
            return Err(Failure::new(Exit::Usage, message)
                .hint(format!("`swallow-eval run --resume {path}` alone goes on with the recorded settings")));
        }
        spec.timing = recorded.timing;
        spec.command = recorded.command;
    }
    Ok(spec)
}

/// The first prompt of each task.
fn first_prompts(plan: &Plan) -> String {
    let mut text = String::new();
    for planned in &plan.tasks {
        if let Some(RequestKind::Generate(first)) = planned.asked.first().map(|a| &a.request.kind) {
            let _ = writeln!(text, "── {} {} ──\n{}\n── end ──", planned.task.name, planned.asked[0].doc_id, first.prompt);
        }
    }
    text
}

pub(super) fn stopped(error: AskError, resume: &str) -> Failure {
    let kept = format!("what was answered is kept; go on with: {resume}");
    match error {
        AskError::Engine { task, error } => {
            let hint = error.hint.map_or_else(|| kept.clone(), |hint| format!("{hint}; {kept}"));
            Failure::new(Exit::Engine, format!("task '{task}': {}", error.message)).hint(hint)
        }
        AskError::Sandbox(error) => {
            let failure = super::sandbox::failure(&error);
            let hint = failure.hint.as_ref().map_or_else(|| kept.clone(), |hint| format!("{hint}; {kept}"));
            failure.hint(hint)
        }
        AskError::Recorded(error) => results_failure(Exit::Usage, &error),
        AskError::Output(error) => Failure::new(Exit::Incomplete, error.to_string()).hint(kept),
    }
}

/// Trouble with a run's own files.
pub(super) fn results_failure(exit: Exit, error: &ResultsError) -> Failure {
    let failure = Failure::new(exit, error.to_string());
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
