//! `leaderboard` of the built binary: many runs, every format, and its size in time and memory.

use crate::support::{
    desk::Desk,
    recorded::{Answered, record},
};
use std::fs;
use swallow_eval::results::{
    reference,
    run_dir::RunDir,
    scores::{Scores, TaskScore},
};

#[test]
fn every_format_of_a_small_board() {
    let desk = Desk::new();
    for (id, model, every) in [("a", "org/one", 5), ("b", "org/one", 4), ("c", "org/two", 3)] {
        record(&desk, id, model, &[Answered { task: "jcommonsenseqa", documents: 60, right: &|i| i % every != 0 }], None);
    }
    let said = desk.run("leaderboard a b c --published --rank-by JCom.");
    said.works(&["leaderboard by JCom.", "org/one", "0.8000", "Llama 3.1 Swallow 70B Instruct"]);
    desk.run("leaderboard results/runs --by model --csv m.csv --markdown m.md --latex m.tex --html m.html --parquet m.parquet").works(&[]);
    let read = |name: &str| fs::read_to_string(desk.folder.path().join(name)).unwrap();
    let csv = read("m.csv");
    assert!(csv.starts_with("rank,model,run,origin,JCom.,JCom. sd,JEMHopQA,"), "{csv}");
    assert!(csv.contains("\n,org/one,a b,ours,0.7750,0.0354,"), "{csv}");
    assert!(
        read("m.md").contains("| org/two |") && read("m.tex").contains("\\toprule") && read("m.html").contains("<td>org&#x2f;two</td>")
    );
    assert!(fs::read(desk.folder.path().join("m.parquet")).unwrap().starts_with(b"PAR1"));

    desk.run("leaderboard nothing").fails(2, &["nothing is not a run directory"]);
    desk.run("leaderboard a --rank-by Fame").fails(2, &["the columns are: JCom.,"]);
    desk.run("leaderboard a --csv no/such/file.csv").fails(2, &["no/such/file.csv"]);
}

/// A scored run with every column of a suite's table.
fn scored(desk: &Desk, number: usize, suite: &str) {
    let writer = RunDir::create(&desk.folder.path().join("results"), Some(&format!("{suite}-{number:04}"))).unwrap();
    let task = |title: &str| TaskScore {
        task: title.to_lowercase(),
        title: title.to_owned(),
        metric: "exact_match".into(),
        value: Some((number * 7919 + title.len() * 104_729) as f64 % 1000.0 / 1000.0),
        n: 1000,
        documents_in_full: Some(1000),
        half_width_95: Some(0.01),
        signature: format!("swallow-202407|{title}|shots:4|exact_match|n:1000|task:3fa9c1|data:77b0e2|engine:llama-cuda-bf16|v0.1.0"),
        ..TaskScore::default()
    };
    let tasks = reference::columns(suite).unwrap().titles().into_iter().map(task).collect();
    writer.write_scores(&Scores::new("swallow-202407", suite, &format!("org/model-{number}"), false, tasks)).unwrap();
    fs::write(writer.dir().path().join("run.json"), "{\"version\":1}").unwrap();
}

#[test]
fn two_thousand_runs_of_thirty_columns() {
    let desk = Desk::new();
    for number in 0..667 {
        ["ja", "en", "mt-bench"].into_iter().for_each(|suite| scored(&desk, number, suite));
    }
    desk.run("leaderboard results/runs --published --csv all.csv --parquet all.parquet").works(&[]);
    let csv = fs::read_to_string(desk.folder.path().join("all.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 2001 + 11);
    desk.run("leaderboard results/runs --by model --csv models.csv").works(&[]);
    let mut csv = csv::Reader::from_path(desk.folder.path().join("models.csv")).unwrap();
    let headings = csv.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = csv.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 667, "the three suites of a model are one row");
    let deviation = |heading: &str| heading.ends_with(" sd");
    assert_eq!(headings.iter().filter(|heading| deviation(heading)).count(), 30);
    for row in &rows {
        for (heading, cell) in headings.iter().zip(row) {
            assert_eq!(cell.is_empty(), deviation(heading), "one run each, so no deviation, and every number: {heading} {row:?}");
        }
    }
}
