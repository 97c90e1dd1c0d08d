//! Metadata for a model's page on the Hugging Face hub, in both forms: `model-index` for the front matter of a model card, and
//! `.eval_results/*.yaml` (hub-docs `docs/hub/eval-results.md`).
//!
//! Both are YAML, of which JSON strings are a part: texts are written as those. Only numbers of whole measurements go in; one that departs from
//! the protocol says so in its name.

use super::ExportFile;
use crate::results::{recorded::Recorded, scores::TaskScore};
use serde_json::json;

/// Where the numbers come from.
const TOOL: &str = "swallow-eval";

/// The files of a run: none of a demo or of partial tasks, whose numbers measure something else.
pub fn files(run: &Recorded) -> Vec<ExportFile> {
    let whole = |task: &&TaskScore| task.value.is_some() && !task.is_partial() && task.failed == 0;
    let tasks: Vec<&TaskScore> = run.scores.tasks.iter().filter(whole).collect();
    if run.spec.demo || tasks.is_empty() {
        return Vec::new();
    }
    let (protocol, suite) = (&run.spec.protocol, &run.spec.suite);
    vec![
        ExportFile { path: "model-index.yaml".to_owned(), text: front_matter(run, &tasks) },
        ExportFile { path: format!(".eval_results/{protocol}-{suite}.yaml"), text: eval_results(run, &tasks) },
    ]
}

/// The `model-index` of a model card's front matter.
fn front_matter(run: &Recorded, tasks: &[&TaskScore]) -> String {
    let model = run.scores.model.rsplit('/').next().unwrap_or_default();
    let mut text = format!("model-index:\n- name: {}\n  results:\n", json!(model));
    for task in tasks {
        let shots = run.spec.tasks.iter().find(|spec| spec.task == task.task).map(|spec| spec.shots).unwrap_or_default();
        text += &format!(
            "  - task:\n      type: text-generation\n    dataset:\n      type: {}\n      name: {}\n",
            json!(task.task),
            json!(task.title)
        );
        text += &format!("      args:\n        num_few_shot: {shots}\n    metrics:\n");
        for (metric, value) in
            std::iter::once((&task.metric, task.value.unwrap_or_default())).chain(task.others.iter().map(|(m, v)| (m, *v)))
        {
            let name = format!("{metric}{}", departures(task));
            text += &format!("    - type: {}\n      value: {value}\n      name: {}\n", json!(metric), json!(name));
            text += &format!("      args:\n        signature: {}\n      verified: false\n", json!(task.signature));
        }
    }
    text
}

/// The list that the hub reads from a model's repository.
fn eval_results(run: &Recorded, tasks: &[&TaskScore]) -> String {
    let mut text =
        "# `id` is the data set's name in this program; the hub shows a result whose id is that of a registered benchmark\n".to_owned();
    let date = run.spec.timing.sessions.first().and_then(|session| session.started.get(..10));
    for task in tasks {
        let value = task.value.unwrap_or_default();
        text += &format!("- dataset:\n    id: {}\n    task_id: default\n  value: {value}\n", json!(task.task));
        text += &date.map(|date| format!("  date: {}\n", json!(date))).unwrap_or_default();
        text += &format!("  evaluation_framework: {}\n", json!(format!("{TOOL} {}", run.spec.tool.version)));
        text += &format!("  notes: {}\n", json!(format!("{}{}; {}", task.metric, departures(task), task.signature)));
    }
    text
}

fn departures(task: &TaskScore) -> String {
    if task.departures.is_empty() { String::new() } else { format!(" (off-protocol: {})", task.departures.join(", ")) }
}
