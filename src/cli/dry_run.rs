//! `run --dry-run`: what would be asked, and how long it may take. Asks nothing and loads no model.

use crate::{
    engine::RequestKind,
    prompt::requests::digest,
    results::{run_dir::RunDir, spec::Session},
    run::{
        judge::expected_calls,
        plan::{Plan, PlannedTask},
    },
    text::tokenizer::{Special, Tokenizer},
};
use std::{collections::BTreeMap, fmt::Write as _, fs, ops::AddAssign, path::Path};

/// The work of some requests, each distinct one once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Work {
    requests: u64,
    characters: u64,
    /// 0 without a tokenizer.
    prompt_tokens: u64,
    /// The limit of all requests together; answers are usually shorter.
    new_tokens: u64,
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.requests += other.requests;
        self.characters += other.characters;
        self.prompt_tokens += other.prompt_tokens;
        self.new_tokens += other.new_tokens;
    }
}

/// Some lines a task, their total, and the time at the rates of the latest run of the same model under `output`. Tokens are counted where the
/// tokenizer is at hand.
pub(super) fn told(plan: &Plan, tokenizer: Option<&Tokenizer>, model: &str, output: &Path) -> String {
    let mut text = String::new();
    let mut total = Work::default();
    for planned in &plan.tasks {
        let work = work(planned, tokenizer);
        total += work;
        let PlannedTask { task, documents, in_full, shots, .. } = planned;
        let _ = writeln!(text, "{}: {documents} of {in_full} documents, {}, {shots} shots", task.name, shown(work, tokenizer));
        if task.file.judge.is_some() {
            let _ = writeln!(text, "  the judge: {} calls", expected_calls(&planned.asked));
        }
        let _ = writeln!(text, "  sha256 of all prompts {}\n  sha256 of all golds   {}", prompts_sha256(planned), golds_sha256(planned));
    }
    let documents: usize = plan.tasks.iter().map(|planned| planned.documents).sum();
    let _ = writeln!(text, "in all: {documents} documents, {}", shown(total, tokenizer));
    let counted = tokenizer.map(|_| total.prompt_tokens);
    let _ = match latest(model, output) {
        Some((run, session)) => writeln!(text, "time: {} (rates of run {run})", time(total, counted, &session)),
        None => writeln!(text, "time: not known, as no run of {model} under {} has rates", output.display()),
    };
    text
}

fn work(planned: &PlannedTask, tokenizer: Option<&Tokenizer>) -> Work {
    let distinct: BTreeMap<_, _> = planned.asked.iter().map(|a| (&a.request.id, &a.request.kind)).collect();
    let mut total = Work::default();
    for kind in distinct.into_values() {
        // Of a conversation what the user says; templates and earlier answers come on top.
        let (texts, new_tokens) = match kind {
            RequestKind::Generate(generate) => (vec![generate.prompt.as_str()], generate.max_new_tokens.into()),
            RequestKind::LogLikelihood(scored) => {
                (std::iter::once(&scored.context).chain(&scored.continuations).map(String::as_str).collect(), 0)
            }
            RequestKind::Chat(chat) => (chat.users(), u64::from(chat.max_new_tokens) * chat.users().len() as u64),
        };
        let tokens = |text: &str| tokenizer.and_then(|t| t.encode(text, Special::Add).ok()).map_or(0, |ids| ids.len() as u64);
        total += Work {
            requests: 1,
            characters: texts.iter().map(|text| text.chars().count() as u64).sum(),
            prompt_tokens: texts.iter().map(|text| tokens(text)).sum(),
            new_tokens,
        };
    }
    total
}

fn shown(work: Work, tokenizer: Option<&Tokenizer>) -> String {
    let Work { requests, characters, prompt_tokens, new_tokens } = work;
    let tokens = tokenizer.map_or(String::new(), |_| format!(", {prompt_tokens} prompt tokens"));
    format!("{requests} requests, {characters} prompt characters{tokens}, at most {new_tokens} new tokens")
}

/// The last session that answered something, of the latest run of this model; ids begin with the time.
fn latest(model: &str, output: &Path) -> Option<(String, Session)> {
    let mut runs: Vec<_> = fs::read_dir(output.join("runs")).ok()?.flatten().map(|entry| entry.path()).collect();
    runs.sort();
    runs.iter().rev().find_map(|path| {
        let spec = RunDir::open(path).ok()?.spec().ok().filter(|spec| spec.engine.model == model)?;
        let session = spec.timing.sessions.into_iter().rfind(|s| s.answered > 0 && s.seconds.is_some_and(|seconds| seconds > 0.0))?;
        Some((spec.id, session))
    })
}

/// By tokens where both rates and the tokens are known, which is an upper bound, since shared prompts are computed once and answers end early;
/// else by requests.
fn time(work: Work, prompt_tokens: Option<u64>, session: &Session) -> String {
    match (prompt_tokens, session.prefill_tokens_per_second, session.decode_tokens_per_second) {
        (Some(tokens), Some(prefill), Some(decode)) => {
            format!("at most about {}", duration(tokens as f64 / prefill + work.new_tokens as f64 / decode))
        }
        _ => {
            let each = session.seconds.unwrap_or_default() / session.answered.max(1) as f64;
            format!("about {}, if requests take as long as those of that run", duration(each * work.requests as f64))
        }
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Digests in asking order (each text preceded by its length), comparable with those of the original harness where every document is asked.
fn prompts_sha256(planned: &PlannedTask) -> String {
    digest(planned.of_documents().map(|a| a.request.kind.text()))
}

fn golds_sha256(planned: &PlannedTask) -> String {
    digest(planned.of_documents().filter_map(|a| a.reference.first()).map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_by_tokens_or_by_requests() {
        let work = Work { requests: 100, characters: 0, prompt_tokens: 20_000, new_tokens: 1_000 };
        let by_requests = Session { answered: 50, seconds: Some(3600.0), ..Session::default() };
        let rates = Session { prefill_tokens_per_second: Some(200.0), decode_tokens_per_second: Some(50.0), ..by_requests.clone() };
        for (tokens, session, expected) in [
            (Some(20_000), &rates, "at most about 2 min"),
            (None, &rates, "about 2.0 h, if requests take as long as those of that run"),
            (Some(20_000), &by_requests, "about 2.0 h, if requests take as long as those of that run"),
        ] {
            assert_eq!(time(work, tokens, session), expected);
        }
        assert_eq!([12.4, 89.9, 5399.0, 36_000.0].map(duration), ["12 s", "90 s", "90 min", "10.0 h"]);
    }
}
