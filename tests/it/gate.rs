//! The gate as CI meets it: a committed baseline, a candidate with a planted loss or with noise alone, and what is left for people and machines.

use crate::support::{
    desk::Desk,
    recorded::{Answered, record},
};
use std::fs;

const POLICY: &str = "[default]\nmax_drop = 0.01\nmin_n = 100\n\n[task.jcommonsenseqa]\nrequired = true\n";

fn right(i: usize) -> bool {
    !i.is_multiple_of(5)
}

/// A desk with a baseline of two tasks and a policy.
fn desk() -> Desk {
    let desk = Desk::new().file("policy.toml", POLICY);
    record(&desk, "base", "m", &tasks(&right), None);
    desk.run("baseline base --name main").works(&[]);
    desk
}

fn tasks(of_first: &dyn Fn(usize) -> bool) -> [Answered<'_>; 2] {
    [Answered { task: "jcommonsenseqa", documents: 1000, right: of_first }, Answered { task: "jmmlu", documents: 400, right: &right }]
}

/// Changes answers in a journal: the documents of the first task whose place `spoil` names get a wrong one. The scores follow.
fn spoil(desk: &Desk, id: &str, spoil: impl Fn(usize) -> bool) {
    let journal = desk.folder.path().join("results/runs").join(id).join("responses.jsonl");
    let text = fs::read_to_string(&journal).unwrap();
    let changed = text
        .lines()
        .enumerate()
        .map(|(i, line)| if i < 1000 && spoil(i) { line.replace("\"text\":\"2\"", "\"text\":\"4\"") } else { line.to_owned() });
    let changed: Vec<String> = changed.collect();
    assert_ne!(changed.join("\n"), text.trim_end());
    fs::write(&journal, changed.join("\n") + "\n").unwrap();
    assert_eq!(desk.run(&format!("score {id}")).code, 0);
}

#[test]
fn a_planted_loss_of_three_points_stops_the_job() {
    let desk = desk().env("GITHUB_ACTIONS", "true").env("GITHUB_STEP_SUMMARY", "summary.md");
    record(&desk, "cand", "m", &tasks(&right), None);
    spoil(&desk, "cand", |i| i % 33 == 1 && right(i));
    let said = desk.run("gate main cand --policy policy.toml --junit gate.xml --markdown comment.md");
    assert_eq!((said.code, said.err.as_str()), (1, "gate: NO-GO\n"), "{}", said.out);
    let lost = "documents that lost: 00001, 00034, 00067,";
    for part in ["NO-GO: m (cand) against m (base)", "::error title=swallow-eval gate%3A JCom.::difference -0.02", lost] {
        assert!(said.out.contains(part), "{part:?} is not in {}", said.out);
    }
    let read = |name: &str| fs::read_to_string(desk.folder.path().join(name)).unwrap();
    for file in ["summary.md", "comment.md"] {
        assert!(read(file).contains("| JCom. | NO-GO ") && read(file).contains(lost), "{}", read(file));
    }
    let junit = read("gate.xml");
    assert!(junit.contains("tests=\"2\" failures=\"1\" errors=\"0\" skipped=\"0\"") && junit.contains(lost), "{junit}");
}

#[test]
fn noise_alone_passes() {
    let desk = desk();
    // As many answers become right as become wrong, but for two.
    record(&desk, "cand", "m", &tasks(&|i| if i % 50 == 10 { i != 10 && i != 60 } else { right(i) && i % 50 != 11 }), None);
    let said = desk.run("gate main cand --policy policy.toml");
    assert_eq!((said.code, said.err.as_str()), (0, "gate: GO\n"), "{}", said.out);
    assert!(!said.out.contains("::"), "no workflow commands outside GitHub: {}", said.out);
}

#[test]
fn what_the_data_do_not_decide_is_6() {
    let desk = desk().file("large.toml", "[default]\nmin_n = 5000\n").file("strict.toml", "[default]\nmax_drop = 0.0\n");
    record(&desk, "cand", "m", &tasks(&|i| right(i) && i != 1), None);
    for (policy, reason) in [("large.toml", "fewer than min_n 5000"), ("strict.toml", "this may be chance")] {
        let said = desk.run(&format!("gate main cand --policy {policy}"));
        assert_eq!((said.code, said.err.as_str()), (6, "gate: INCONCLUSIVE\n"), "{}", said.out);
        assert!(said.out.contains(reason), "{}", said.out);
    }
}

#[test]
fn faulty_policies_and_unwritable_outputs_are_2() {
    let desk = desk()
        .file("typo.toml", "[default]\nmax_dorp = 0.1\n")
        .file("stray.toml", "[task.jcommonsens]\nmax_drop = 0.1\n")
        .file("range.toml", "[default]\nalpha = 2.0\n");
    for (rest, part) in [
        ("--policy typo.toml", "typo.toml: line 2: unknown field `max_dorp`"),
        ("--policy stray.toml", "[task.jcommonsens] names no task of these runs; they have: jcommonsenseqa, jmmlu"),
        ("--policy range.toml", "[default] alpha = 2: it must be between 0 and 1"),
        ("--policy absent.toml", "cannot read the policy absent.toml"),
        ("--policy policy.toml --junit no/such/gate.xml", "no/such/gate.xml"),
    ] {
        desk.run(&format!("gate main base {rest}")).fails(2, &[part]);
    }
}
