//! `doctor`: what works on this machine. Looks, changes nothing, and never shows a key.

use super::{
    args::DoctorArgs,
    data_source,
    exit::{Exit, Failure, Verdict},
    output, settings,
};
use crate::{
    dataset::{
        Network,
        manifest::{Form, Manifest},
        store::{Place, Store},
    },
    engine::{
        endpoint::{Endpoint, EndpointOptions},
        llama,
    },
    results::spec::Tool,
};
use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
};

/// One thing looked at.
struct Finding {
    subject: &'static str,
    what: String,
    /// What to do about it, where something can be done.
    advice: Option<String>,
}

impl Finding {
    fn new(subject: &'static str, what: impl Into<String>) -> Self {
        Finding { subject, what: what.into(), advice: None }
    }

    fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// Prints what was found. Missing things that a run may do without are no failure; a server that was named and does not answer is.
pub(super) fn run(args: &DoctorArgs) -> Verdict {
    let mut findings = vec![program(), processor(), gpu(), mirror(), goldens(), hub(args), proxy(), python()];
    findings.extend(datasets(&data_source::files(Network::Off, None))?);
    let mut exit = Exit::Ok;
    if !args.base_url.is_empty() {
        let found = endpoint(args)?;
        if found.advice.is_some() {
            exit = Exit::Engine;
        }
        findings.push(found);
    }
    output::tell(&findings.iter().map(line).collect::<String>(), 13)?;
    Ok(exit)
}

fn line(finding: &Finding) -> String {
    let mut text = format!("{:12} {}\n", finding.subject, finding.what);
    if let Some(advice) = &finding.advice {
        text += &format!("{:12} -> {advice}\n", "");
    }
    text
}

fn program() -> Finding {
    let Tool { version, commit } = Tool::current();
    Finding::new("program", format!("swallow-eval {version}, commit {commit}"))
}

fn processor() -> Finding {
    let threads = std::thread::available_parallelism().map_or_else(|_| "unknown number of".to_owned(), |n| n.to_string());
    Finding::new("cpu", format!("{threads} threads, {}", env::consts::ARCH))
}

fn gpu() -> Finding {
    let place = match llama::device::Place::find("auto") {
        Ok(place) => place,
        Err(error) => return Finding::new("gpu", error.message),
    };
    let what = match (place.hardware(), place.note()) {
        (Some(hardware), _) => return Finding::new("gpu", format!("{}, {hardware}", place.name())),
        (None, Some(note)) => note.to_owned(),
        (None, None) => "this build has no CUDA support; the in-process engine computes on the CPU".to_owned(),
    };
    Finding::new("gpu", what).advice("for large models name a GPU server: run --base-url http://HOST:8000/v1 --model NAME")
}

fn mirror() -> Finding {
    folder("mirror", "SWALLOW_EVAL_DATA", "data-set files are looked for in the cache, then on the network")
}

fn goldens() -> Finding {
    folder("goldens", "SWALLOW_EVAL_GOLDEN", "tests over recorded goldens are skipped; `certify DIR` works all the same")
}

/// A folder that a variable names.
fn folder(subject: &'static str, variable: &str, without: &str) -> Finding {
    match settings::env(variable) {
        None => Finding::new(subject, format!("{variable} is not set: {without}")),
        Some(path) if Path::new(&path).is_dir() => Finding::new(subject, path),
        Some(path) => Finding::new(subject, format!("{path} is not a folder")).advice(format!("correct or unset {variable}")),
    }
}

/// A finding a data set: which of its files are at hand. Looked for, not read: `data verify` does that.
fn datasets(store: &Store) -> Result<Vec<Finding>, Failure> {
    let manifests = Manifest::all().map_err(|e| Failure::new(Exit::Data, e.to_string()))?;
    Ok(manifests.iter().map(|manifest| dataset(store, manifest)).collect())
}

fn dataset(store: &Store, manifest: &Manifest) -> Finding {
    let missing =
        |form: &Form| form.files.iter().filter(|file| store.locate(file).is_none()).map(|file| file.path.clone()).collect::<Vec<_>>();
    let Some(form) = manifest.form.iter().min_by_key(|form| missing(form).len()) else {
        return Finding::new("data", manifest.name.clone());
    };
    let absent = missing(form);
    let places =
        form.files.iter().filter_map(|file| store.locate(file)).map(|(place, _)| if place == Place::Mirror { "mirror" } else { "cache" });
    let places: BTreeSet<&str> = places.collect();
    let place = if places.is_empty() { String::new() } else { format!(", in {}", places.into_iter().collect::<Vec<_>>().join(" and ")) };
    let found = format!("{}: {} of {} files{place}", manifest.name, form.files.len() - absent.len(), form.files.len());
    match absent.as_slice() {
        [] => Finding::new("data", found),
        [only] => Finding::new("data", format!("{found}; {only} is missing")).advice(format!("swallow-eval data fetch {}", manifest.name)),
        _ => Finding::new("data", found).advice(format!("swallow-eval data fetch {}", manifest.name)),
    }
}

fn hub(args: &DoctorArgs) -> Finding {
    let offline =
        args.offline || ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().any(|name| settings::env(name).is_some_and(|v| v != "0"));
    let token = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].into_iter().find(|name| settings::env(name).is_some());
    let file = hub_home().map(|home| home.join("token")).filter(|file| file.is_file());
    let token = match (token, file) {
        (Some(name), _) => format!("token in {name}"),
        (None, Some(file)) => format!("token in {}", file.display()),
        (None, None) => "no token: gated models cannot be fetched".to_owned(),
    };
    let site = settings::env("HF_ENDPOINT").map_or_else(|| "huggingface.co".to_owned(), |url| crate::results::command_line::redact(&url));
    Finding::new("hub", format!("{site}, {token}{}", if offline { ", offline" } else { "" }))
}

fn hub_home() -> Option<PathBuf> {
    let own = settings::env("HF_HOME").map(PathBuf::from);
    own.or_else(|| Some(env::home_dir()?.join(".cache/huggingface")))
}

fn proxy() -> Finding {
    let names = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE"];
    let set: Vec<&str> = names.into_iter().filter(|name| settings::env(name).is_some()).collect();
    Finding::new("network", if set.is_empty() { "no proxy is set".to_owned() } else { format!("set: {}", set.join(", ")) })
}

/// Only looked for: no process is started outside the sandbox.
fn python() -> Finding {
    let paths = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&paths).map(|folder| folder.join("python3")).find(|path| path.is_file());
    match found {
        Some(path) => Finding::new("python3", path.display().to_string()),
        None => Finding::new("python3", "not found; tasks that execute programs need it"),
    }
}

fn endpoint(args: &DoctorArgs) -> Result<Finding, Failure> {
    let Some(model) = &args.model else {
        return Err(Failure::new(Exit::Usage, "--base-url is given, but not the model's name there").hint("add --model NAME"));
    };
    let mut options = EndpointOptions::new(args.base_url.clone(), model);
    options.api_key = settings::api_key();
    options.max_retries = 0;
    Ok(match Endpoint::connect(options) {
        Ok(endpoint) => {
            let found = serde_json::to_string_pretty(endpoint.capabilities()).expect("capabilities are plain data");
            Finding::new("endpoint", found)
        }
        Err(error) => Finding::new("endpoint", error.message).advice(error.hint.unwrap_or_else(|| "look at the server's log".to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_its_advice_another() {
        assert_eq!(line(&Finding::new("cpu", "2 threads")), "cpu          2 threads\n");
        assert_eq!(line(&Finding::new("gpu", "none").advice("buy one")), "gpu          none\n             -> buy one\n");
    }

    #[test]
    fn a_data_set_is_complete_partly_there_or_missing() {
        let mirror = tempfile::tempdir().unwrap();
        let manifest = Manifest::builtin("jemhopqa").unwrap();
        let store = Store::mirror_only(mirror.path());
        let files: Vec<_> = manifest.form[0].files.iter().map(|file| mirror.path().join(&file.path)).collect();
        let [first, second] = files.as_slice() else { panic!("two files are expected: {files:?}") };
        std::fs::create_dir_all(first.parent().unwrap()).unwrap();
        assert_eq!(dataset(&store, &manifest).what, "jemhopqa: 0 of 2 files");
        std::fs::write(first, "").unwrap();
        let partly = dataset(&store, &manifest);
        assert!(partly.what.starts_with("jemhopqa: 1 of 2 files, in mirror; ") && partly.advice.is_some(), "{}", partly.what);
        std::fs::write(second, "").unwrap();
        let complete = dataset(&store, &manifest);
        assert_eq!((complete.what.as_str(), complete.advice), ("jemhopqa: 2 of 2 files, in mirror", None));
    }

    #[test]
    fn a_folder_that_is_none_is_told_with_its_variable() {
        assert!(
            folder("mirror", "SWALLOW_EVAL_NO_SUCH_VARIABLE", "nothing").what.contains("SWALLOW_EVAL_NO_SUCH_VARIABLE is not set: nothing")
        );
    }
}
