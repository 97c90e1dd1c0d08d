//! Runs that nobody asked a model for: requests and journal written as a run writes them, then scored by the program.

use super::{desk::Desk, request};
use std::{collections::BTreeMap, path::PathBuf};
use swallow_eval::{
    engine::{Finish, Generated, Identity, Output, Response},
    results::{
        command_line::CommandLine,
        requests::PlannedRequest,
        run_dir::RunDir,
        spec::{Defects, FORMAT, Machine, RunSpec, Shard, TaskSpec, Timing, Tool},
    },
    task::load,
};

/// A task's documents: how many, and which are answered rightly.
pub(crate) struct Answered<'a> {
    pub(crate) task: &'a str,
    pub(crate) documents: usize,
    pub(crate) right: &'a dyn Fn(usize) -> bool,
}

/// Writes a run `results/runs/<id>` of a desk, or one shard of it, and scores it.
pub(crate) fn record(desk: &Desk, id: &str, model: &str, tasks: &[Answered<'_>], shard: Option<Shard>) -> PathBuf {
    let embedded = load::embedded().unwrap();
    let mine = |i: &usize| shard.is_none_or(|s| i % s.count as usize == s.index as usize - 1);
    let planned = |t: &Answered<'_>, i: usize| {
        let mut asked = super::generate(&format!("{} 質問{i}", t.task), 5);
        asked.stop = vec!["\n\n".into()];
        PlannedRequest {
            task: t.task.to_owned(),
            doc_id: format!("{i:05}"),
            group: String::new(),
            reference: vec!["2".into()],
            request: request(asked),
            lost_tokens: 0,
            right: None,
        }
    };
    let spec_of = |t: &Answered<'_>| TaskSpec {
        task: t.task.to_owned(),
        task_sha256: load::find(&embedded, t.task).unwrap().sha256.clone(),
        data_sha256: "77".repeat(32),
        shots: 4,
        documents: (0..t.documents).filter(mine).count() as u64,
        documents_in_full: t.documents as u64,
        overrides: BTreeMap::new(),
    };
    let writer = RunDir::create(&desk.folder.path().join("results"), Some(id)).unwrap();
    let all: Vec<(PlannedRequest, bool)> =
        tasks.iter().flat_map(|t| (0..t.documents).filter(mine).map(move |i| (planned(t, i), (t.right)(i)))).collect();
    writer.write_requests(&all.iter().map(|(planned, _)| planned.clone()).collect::<Vec<_>>()).unwrap();
    let (mut journal, _) = writer.journal().unwrap();
    for (planned, right) in &all {
        let text = if *right { "2" } else { "3" }.to_owned();
        let generated = Generated { text, token_ids: None, finish: Finish::Stop, prompt_tokens: None, new_tokens: None, notes: vec![] };
        journal.append(&Ok(Response { id: planned.request.id.clone(), output: Output::Generated(generated) })).unwrap();
    }
    let spec = RunSpec {
        version: FORMAT,
        id: id.to_owned(),
        protocol: load::PROTOCOL.to_owned(),
        suite: "ja".into(),
        demo: false,
        tasks: tasks.iter().map(spec_of).collect(),
        left_out: BTreeMap::new(),
        engine: Identity { engine: "replay".into(), model: model.into(), ..Identity::default() },
        judge: None,
        chat_template: None,
        defects: Defects::Faithful,
        limit: None,
        samples: BTreeMap::new(),
        shard,
        seeds: BTreeMap::new(),
        tool: Tool::current(),
        machine: Machine::current(),
        command: CommandLine::redacted(["run", "--suite", "ja", "--shard", "1/2"].map(str::to_owned)),
        timing: Timing::default(),
    };
    writer.write_spec(&spec).unwrap();
    let run = writer.dir().path().to_owned();
    drop(writer);
    let said = desk.run(&format!("score results/runs/{id}"));
    assert_eq!(said.code, 0, "{}", said.err);
    run
}
