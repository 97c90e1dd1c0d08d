//! A run directory from its making to the table, on a real file system; what goes wrong is an error with a name and an exit code.

use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};
use swallow_eval::{
    cli::{
        exit::Exit,
        report::{Format, ReportArgs, run},
    },
    engine::{
        Finish, Generate, Generated, Identity, Outcome, Output, Request, RequestFailure, RequestKind, Response, Sampling, TokenRules,
    },
    results::{
        ResultsError,
        command_line::CommandLine,
        requests::PlannedRequest,
        run_dir::{FILES, RunDir, RunWriter},
        samples::Sample,
        scores::{Scores, TaskScore},
        spec::{Defects, FORMAT, Machine, RunSpec, TaskSpec, Timing, Tool},
    },
};
use tempfile::TempDir;

fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn spec(id: &str) -> RunSpec {
    let task = TaskSpec {
        task: "jemhopqa".into(),
        task_sha256: "3f".repeat(32),
        data_sha256: "77".repeat(32),
        shots: 4,
        documents: 3,
        documents_in_full: 120,
        overrides: BTreeMap::new(),
    };
    RunSpec {
        version: FORMAT,
        id: id.to_owned(),
        protocol: "swallow-202407".into(),
        suite: "ja".into(),
        demo: false,
        tasks: vec![task],
        left_out: BTreeMap::new(),
        engine: Identity { engine: "replay".into(), model: "m".into(), ..Identity::default() },
        judge: None,
        chat_template: None,
        defects: Defects::Faithful,
        limit: None,
        samples: BTreeMap::new(),
        shard: None,
        seeds: BTreeMap::new(),
        tool: Tool::current(),
        machine: Machine::current(),
        command: CommandLine::redacted(["run".to_owned()]),
        timing: Timing::default(),
    }
}

fn planned(doc: usize) -> PlannedRequest {
    let kind = RequestKind::Generate(Generate {
        prompt: format!("{}質問{doc}", "例題と解答。\n".repeat(20)),
        sample: 0,
        max_new_tokens: 15,
        stop: vec!["\n\n".into()],
        enough: vec![],
        sampling: Sampling::GREEDY,
        rules: TokenRules::default(),
    });
    PlannedRequest {
        task: "jemhopqa".into(),
        doc_id: format!("{doc:05}"),
        group: String::new(),
        reference: vec!["YES".into()],
        request: Request::new(kind),
        lost_tokens: 0,
        right: None,
    }
}

fn answered(request: &Request) -> Outcome {
    let generated = Generated {
        text: "答え".into(),
        token_ids: Some(vec![1, 2]),
        finish: Finish::EndToken,
        prompt_tokens: Some(9),
        new_tokens: Some(2),
        notes: vec![],
    };
    Ok(Response { id: request.id.clone(), output: Output::Generated(generated) })
}

fn sample(planned: &PlannedRequest) -> Sample {
    Sample {
        task: planned.task.clone(),
        doc_id: planned.doc_id.clone(),
        group: None,
        request: planned.request.id.clone(),
        prompt_sha256: "00".repeat(32),
        log_likelihoods: Vec::new(),
        response: Some("答え".into()),
        answer: Some("答え".into()),
        readings: BTreeMap::new(),
        programs: vec![],
        reference: vec!["答え".into()],
        scores: BTreeMap::from([("char_f1".to_owned(), 1.0 / 3.0)]),
        stats: BTreeMap::new(),
        failure: None,
        notes: vec![],
        turns: vec![],
    }
}

fn scores(suite: &str) -> Scores {
    let task = TaskScore {
        task: "jemhopqa".into(),
        title: "JEMHopQA".into(),
        metric: "char_f1".into(),
        value: Some(0.09375),
        n: 3,
        documents_in_full: Some(120),
        signature: "swallow-202407|jemhopqa".into(),
        ..TaskScore::default()
    };
    Scores::new("swallow-202407", suite, "Qwen/Qwen2-72B-Instruct", false, vec![task])
}

/// A run with every file, in `<output>/runs/<id>/`.
fn whole_run(output: &Path, id: &str, suite: &str) -> RunWriter {
    let writer = RunDir::create(output, Some(id)).expect("created");
    let planned = [planned(0), planned(1), planned(1)];
    writer.write_spec(&spec(id)).expect("writes");
    writer.write_requests(&planned).expect("writes");
    let (mut journal, _) = writer.journal().expect("opens");
    journal.append(&answered(&planned[0].request)).expect("appends");
    let failure = RequestFailure { id: planned[1].request.id.clone(), message: "gone".into(), attempts: 3 };
    journal.append(&Err(failure)).expect("appends");
    journal.sync().expect("on disk");
    writer.write_samples(&planned.each_ref().map(sample)).expect("writes");
    writer.write_scores(&scores(suite)).expect("writes");
    writer.write_report("# report\n").expect("writes");
    writer
}

#[test]
fn what_is_written_is_read_again() {
    let output = temporary();
    let writer = whole_run(output.path(), "one", "ja");
    let dir = RunDir::find(Path::new("one"), output.path()).expect("found by its id");
    assert_eq!(dir.path(), output.path().join("runs/one"));
    assert_eq!((dir.id(), dir.spec().expect("reads")), ("one".to_owned(), spec("one")));
    assert_eq!(dir.requests().expect("reads"), [planned(0), planned(1), planned(1)]);
    assert_eq!(dir.responses().expect("reads").outcomes.len(), 2);
    assert_eq!(dir.samples().expect("reads"), [planned(0), planned(1), planned(1)].each_ref().map(sample));
    assert_eq!(dir.scores().expect("reads"), scores("ja"));
    assert!(writer.is_locked());
}

#[test]
fn every_file_is_plain_json_with_its_format_and_nothing_else_lies_about() {
    let output = temporary();
    let run = whole_run(output.path(), "one", "ja");
    let mut names: Vec<String> = fs::read_dir(run.dir().path())
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .filter(|name| name != ".lock")
        .collect();
    names.sort();
    let mut expected = FILES.to_vec();
    expected.sort_unstable();
    assert_eq!(names, expected);
    for name in FILES.iter().filter(|name| !name.ends_with(".md")) {
        let text = fs::read_to_string(run.dir().path().join(name)).expect("UTF-8");
        assert!(text.ends_with('\n'), "{name}");
        let (key, objects): (&str, Vec<&str>) =
            if name.ends_with(".jsonl") { ("v", text.lines().collect()) } else { ("version", vec![&text]) };
        for object in objects {
            let value: Value = serde_json::from_str(object).expect("JSON");
            assert_eq!(value[key], 1, "{name}: {object}");
        }
    }
}

#[cfg(unix)]
#[test]
fn files_are_as_open_as_the_umask_allows() {
    use std::os::unix::fs::PermissionsExt;
    let output = temporary();
    let run = whole_run(output.path(), "one", "ja");
    let mode = |path: PathBuf| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    // A file made in the ordinary way shows the umask.
    let ordinary = output.path().join("ordinary");
    fs::write(&ordinary, "").expect("written");
    for name in FILES {
        assert_eq!(mode(run.dir().path().join(name)), mode(ordinary.clone()), "{name}");
    }
}

#[test]
fn ids_sort_by_time_and_odd_ones_are_refused() {
    let output = temporary();
    let ids = [RunDir::create(output.path(), None), RunDir::create(output.path(), None)].map(|run| run.expect("created").dir().id());
    assert_ne!(ids[0], ids[1]);
    assert!(ids.iter().all(|id| id.len() == "20261124T110203Z-a1b2".len() && id.contains("Z-")), "{ids:?}");
    for id in ["", "a/b", "..", ".hidden", "a b", "日本", &"x".repeat(101)] {
        assert!(matches!(RunDir::create(output.path(), Some(id)), Err(ResultsError::BadId { .. })), "{id:?}");
    }
    RunDir::create(output.path(), Some("taken")).expect("created");
    assert!(matches!(RunDir::create(output.path(), Some("taken")), Err(ResultsError::Exists { .. })));
}

#[test]
fn two_writers_cannot_have_one_run() {
    let output = temporary();
    let first = whole_run(output.path(), "one", "ja");
    let dir = first.dir().clone();
    assert!(matches!(dir.clone().into_writer(), Err(ResultsError::Locked { .. })));
    drop(first);
    let (_, recovered) = dir.into_writer().expect("free again").journal().expect("opens");
    assert_eq!((recovered.outcomes.len(), recovered.torn), (2, None));
}

#[test]
fn impossible_outputs_fail_before_anything_is_asked() {
    let output = temporary();
    let file = output.path().join("file");
    fs::write(&file, "").expect("written");
    let message = RunDir::create(&file, None).expect_err("a file is no directory").to_string();
    assert!(message.starts_with("cannot create ") && message.contains("file/runs"), "{message}");

    // A directory where a file must go.
    let run = whole_run(output.path(), "one", "ja").dir().clone();
    fs::remove_file(run.path().join("scores.json")).expect("removed");
    fs::create_dir(run.path().join("scores.json")).expect("made");
    let message = run.into_writer().expect_err("a directory is no file").to_string();
    assert!(message.contains("scores.json"), "{message}");
}

#[cfg(unix)]
#[test]
fn a_read_only_directory_is_an_error() {
    use std::os::unix::fs::PermissionsExt;
    let output = temporary();
    let runs = output.path().join("runs");
    fs::create_dir(&runs).expect("made");
    fs::set_permissions(&runs, fs::Permissions::from_mode(0o555)).expect("set");
    if fs::write(runs.join("probe"), "").is_ok() {
        // The superuser may write anywhere; a directory of the kernel's still refuses.
        assert!(matches!(RunDir::create(Path::new("/proc"), None), Err(ResultsError::Io { .. })));
        return;
    }
    assert!(matches!(RunDir::create(output.path(), None), Err(ResultsError::Io { .. })));
}

#[test]
fn a_run_that_never_began_leaves_nothing() {
    let output = temporary();
    let runs = output.path().join("runs");
    RunDir::create(output.path(), None).expect("created").discard().expect("removed");
    assert_eq!(fs::read_dir(&runs).expect("there").count(), 0);
    whole_run(output.path(), "one", "ja").discard().expect("kept");
    assert!(RunDir::open(&runs.join("one")).is_ok(), "a run that began is never removed");
}

#[test]
fn a_killed_writers_leavings_are_cleared() {
    let output = temporary();
    let dir = whole_run(output.path(), "one", "ja").dir().clone();
    let leaving = dir.path().join(".swallow-eval-Xy12Zz");
    fs::write(&leaving, "{\"ver").expect("written");
    dir.into_writer().expect("opens");
    assert!(!leaving.exists());
}

fn report(runs: &[PathBuf], format: Format, output: Option<PathBuf>, against: Option<&str>) -> Result<Exit, (Exit, String)> {
    let args = ReportArgs { runs: runs.to_vec(), format, output, against: against.map(str::to_owned) };
    run(&args).map_err(|failure| (failure.exit, failure.message))
}

#[test]
fn report_writes_each_format() {
    let output = temporary();
    let one = whole_run(output.path(), "one", "ja").dir().path().to_owned();
    let file = output.path().join("table");
    for (format, expected) in [
        // The run's model has a published row, which is found by itself.
        (Format::Terminal, "JEMHopQA      0.0938*      0.6268"),
        (Format::Markdown, "| JEMHopQA    | 0.0938\\* |     0.6268 |    -0.5331 |"),
        (Format::Csv, "JEMHopQA,0.0938,0.6268,-0.5331,,3,0,partial: 3 of 120\n"),
        (Format::Json, "\"score\": 0.09375"),
        (Format::Latex, "JEMHopQA & 0.0938"),
        (Format::Junit, "<testcase classname=\"ja.one\" name=\"JEMHopQA\"/>"),
    ] {
        assert_eq!(report(std::slice::from_ref(&one), format, Some(file.clone()), None), Ok(Exit::Ok));
        let text = fs::read_to_string(&file).expect("written");
        assert!(text.contains(expected), "{text}");
    }
    let two = whole_run(output.path(), "two", "ja").dir().path().to_owned();
    for (against, published) in [(None, 9), (Some("tokyotech-llm/Llama-3.1-Swallow-70B-Instruct-v0.1"), 1)] {
        assert_eq!(report(&[one.clone(), two.clone()], Format::Csv, Some(file.clone()), against), Ok(Exit::Ok));
        let text = fs::read_to_string(&file).expect("written");
        assert_eq!(text.lines().filter(|line| line.starts_with("published,")).count(), published, "{text}");
        assert!(text.contains("\none,") && text.contains("\ntwo,"), "{text}");
    }
}

#[test]
fn report_names_what_is_wrong() {
    let output = temporary();
    let run_with = |id: &str, file: &str, content: Option<&str>| {
        let path = whole_run(output.path(), id, "ja").dir().path().to_owned();
        match content {
            Some(content) => fs::write(path.join(file), content).expect("written"),
            None => fs::remove_file(path.join(file)).expect("removed"),
        }
        path
    };
    let good = whole_run(output.path(), "good", "ja").dir().path().to_owned();
    let english = whole_run(output.path(), "english", "en").dir().path().to_owned();
    for (runs, against, expected) in [
        (vec![output.path().join("nothing")], None, "is not a run directory: it has no run.json"),
        (vec![run_with("unscored", "scores.json", None)], None, "has no scores yet"),
        (vec![run_with("torn", "scores.json", Some("{\"version\":1,"))], None, "scores.json: EOF while parsing"),
        (vec![run_with("typed", "scores.json", Some("{\"version\":1}"))], None, "scores.json: missing field `protocol`"),
        (vec![run_with("newer", "scores.json", Some("{\"version\":2}"))], None, "scores.json: format 2 is newer than 1"),
        (vec![good.clone()], Some("gpt-5"), "has no row \"gpt-5\"; its rows are: Qwen2-72B-Instruct,"),
        (vec![good.clone(), english], None, "english is of suite en, good of ja"),
    ] {
        let (exit, message) = report(&runs, Format::Csv, None, against).expect_err(expected);
        assert_eq!(exit, Exit::Usage);
        assert!(message.contains(expected), "{message}");
    }
    let (exit, message) = report(&[good], Format::Csv, Some(output.path().join("no/such/file.csv")), None).expect_err("no directory");
    assert!(exit == Exit::Usage && message.starts_with("cannot write ") && message.contains("file.csv"), "{message}");
}
