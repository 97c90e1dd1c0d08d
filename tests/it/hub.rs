//! Models and tokenizers from a server that speaks the hub's language, into a cache that other programs can read.

use crate::support::server::{Asked, Reply, Server};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use swallow_eval::dataset::{
    DatasetError, Network,
    fetch::{Patience, Progress},
    hub::{Hub, HubError, TokenSent},
};
use tempfile::TempDir;

const FIRST: &str = "1111111111111111111111111111111111111111";
const SECOND: &str = "2222222222222222222222222222222222222222";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Files of one commit.
type Files = BTreeMap<&'static str, Vec<u8>>;

fn model(weights: &[(&'static str, Vec<u8>)]) -> Files {
    let mut files = BTreeMap::from([
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{\"a\": 1}".to_vec()),
        ("tokenizer_config.json", b"{\"b\": 2}".to_vec()),
        ("generation_config.json", b"{\"c\": 3}".to_vec()),
    ]);
    files.extend(weights.iter().cloned());
    files
}

fn single() -> Files {
    model(&[("model.safetensors", weights(1))])
}

fn sharded() -> Files {
    let index = br#"{"weight_map": {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"}}"#;
    model(&[
        ("model.safetensors.index.json", index.to_vec()),
        ("model-00001-of-00002.safetensors", weights(2)),
        ("model-00002-of-00002.safetensors", weights(3)),
    ])
}

fn weights(seed: u8) -> Vec<u8> {
    (0..100_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed).collect()
}

/// What the hub answers to `/org/name/resolve/REVISION/FILE`. Large files are elsewhere: a redirect, with their hash in `X-Linked-Etag`.
fn resolve(asked: &Asked, commit: &str, files: &Files) -> Reply {
    let name = asked.path.rsplit('/').next().unwrap();
    let Some(content) = files.get(name) else {
        return Reply::new(404, "").header("X-Error-Code", "EntryNotFound").header("X-Repo-Commit", commit);
    };
    if asked.path.starts_with("/elsewhere/") {
        return Reply::file(asked, content, "elsewhere");
    }
    if !name.ends_with(".safetensors") {
        let blob = hex(&Sha1::digest([format!("blob {}\0", content.len()).as_bytes(), content].concat()));
        return Reply::file(asked, content, &blob).header("X-Repo-Commit", commit);
    }
    // `localhost` is another host than `127.0.0.1` to a client.
    let port = asked.header("host").and_then(|host| host.rsplit_once(':')).unwrap().1;
    Reply::new(302, "Found")
        .header("Location", format!("http://localhost:{port}/elsewhere/{name}"))
        .header("X-Repo-Commit", commit)
        .header("X-Linked-Etag", format!("\"{}\"", hex(&Sha256::digest(content))))
        .header("X-Linked-Size", content.len().to_string())
}

fn serving(files: Files) -> Server {
    Server::start(move |asked, _| resolve(asked, FIRST, &files))
}

const EAGER: Patience = Patience { retries: 2, first_pause: Duration::ZERO, longest_pause: Duration::ZERO, stall: Duration::from_secs(20) };

fn hub(endpoint: &str, cache: &TempDir, more: &[(&str, &str)]) -> Hub {
    let env = |name: &str| match name {
        "HF_ENDPOINT" => Some(endpoint.to_owned()),
        "HF_HOME" => Some(cache.path().display().to_string()),
        _ => more.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()),
    };
    Hub::from_env(&env, Network::Allowed).patience(EAGER)
}

fn get(hub: &Hub) -> Result<PathBuf, DatasetError> {
    hub.model_dir("org/name", None, &|_| {})
}

fn hub_error(ended: Result<PathBuf, DatasetError>) -> HubError {
    match ended.unwrap_err() {
        DatasetError::Hub(error) => error,
        other => panic!("{other}"),
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn assert_holds(dir: &Path, files: &Files) {
    assert_eq!(names(dir), files.keys().copied().collect::<Vec<_>>());
    for (name, content) in files {
        assert!(std::fs::read(dir.join(name)).unwrap() == *content, "{name}");
    }
}

#[test]
fn a_model_becomes_a_directory() {
    for files in [single(), sharded()] {
        let (server, cache) = (serving(files.clone()), tempfile::tempdir().unwrap());
        let seen = RefCell::new(Vec::new());
        let hub = hub(&server.url(), &cache, &[]);
        let dir = hub.model_dir("org/name", None, &|event| seen.borrow_mut().push(event)).unwrap();
        assert_eq!(dir, cache.path().join("hub/models--org--name/snapshots").join(FIRST));
        assert_holds(&dir, &files);
        let finished = |event: &Progress| if let Progress::Finished { file, .. } = event { Some(file.clone()) } else { None };
        let mut finished: Vec<String> = seen.borrow().iter().filter_map(finished).collect();
        finished.sort();
        assert_eq!(finished, files.keys().copied().collect::<Vec<_>>());
        // As huggingface_hub leaves it: the branch names the commit, the snapshot links to blobs that are named by their hash.
        let repository = cache.path().join("hub/models--org--name");
        assert_eq!(std::fs::read_to_string(repository.join("refs/main")).unwrap(), FIRST);
        let config = std::fs::canonicalize(dir.join("config.json")).unwrap();
        assert_eq!(config, std::fs::canonicalize(repository.join("blobs/9e26dfeeb6e641a33dae4961196235bdb965b21b")).unwrap());
        assert_eq!(names(&repository.join("blobs")).len(), files.len(), "nothing is left over");

        let gets = |server: &Server| server.asked().iter().filter(|a| a.method == "GET").count();
        let before = gets(&server);
        assert_eq!(get(&hub).unwrap(), dir);
        assert_eq!(gets(&server), before, "what is cached is not downloaded again");
    }
}

#[test]
fn a_tokenizer_comes_without_weights() {
    let (server, cache) = (serving(single()), tempfile::tempdir().unwrap());
    let hub = hub(&server.url(), &cache, &[]);
    let dir = hub.tokenizer_dir("org/name", None, &|_| {}).unwrap();
    assert_eq!(names(&dir), ["config.json", "tokenizer.json", "tokenizer_config.json"]);
    assert!(!server.asked().iter().any(|a| a.path.contains("safetensors")));
    assert_holds(&get(&hub).unwrap(), &single());
}

#[test]
fn a_directory_is_itself_and_a_name_must_be_an_id() {
    let (dir, server, cache) = (tempfile::tempdir().unwrap(), serving(single()), tempfile::tempdir().unwrap());
    let hub = hub(&server.url(), &cache, &[]);
    let name = dir.path().to_str().unwrap();
    assert_eq!(hub.model_dir(name, None, &|_| {}).unwrap(), dir.path());
    for name in ["./nowhere", "/no/such/place", "name", "a/b/c", ""] {
        let error = hub_error(hub.model_dir(name, None, &|_| {}));
        assert_eq!(error.to_string(), format!("'{name}' is neither a directory nor a hub id of the form organisation/name"));
    }
    let error = hub_error(hub.model_dir("org/name", Some("../../etc"), &|_| {}));
    assert!(matches!(&error, HubError::Revision { .. }), "{error}");
    assert_eq!(server.asked().len(), 0);
}

#[test]
fn a_shard_is_resumed_and_verified() {
    let content = single();
    let server = {
        let content = content.clone();
        let cut = std::sync::atomic::AtomicBool::new(false);
        Server::start(move |asked, _| match asked.path.starts_with("/elsewhere/") && !cut.swap(true, std::sync::atomic::Ordering::SeqCst) {
            true => resolve(asked, FIRST, &content).cut(30_000),
            false => resolve(asked, FIRST, &content),
        })
    };
    let cache = tempfile::tempdir().unwrap();
    assert_holds(&get(&hub(&server.url(), &cache, &[])).unwrap(), &content);
    let ranges: Vec<_> =
        server.asked().iter().filter(|a| a.path.starts_with("/elsewhere/")).map(|a| a.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=30000-".to_owned())]);

    // The hub names one hash, the content has another.
    let server = Server::start(|asked, _| match asked.path.starts_with("/elsewhere/") {
        true => Reply::new(200, weights(9)),
        false => resolve(asked, FIRST, &single()),
    });
    let cache = tempfile::tempdir().unwrap();
    let error = get(&hub(&server.url(), &cache, &[])).unwrap_err().to_string();
    for part in ["model.safetensors of model org/name", "its sha256 is"] {
        assert!(error.contains(part), "{error}");
    }
    let repository = cache.path().join("hub/models--org--name");
    assert!(!repository.join("snapshots").join(FIRST).join("model.safetensors").exists());
    assert!(!repository.join("refs").exists(), "no name leads to a snapshot that is not whole");
}

#[test]
fn another_commit_shares_what_is_the_same() {
    let cache = tempfile::tempdir().unwrap();
    get(&hub(&serving(single()).url(), &cache, &[])).unwrap();
    let mut newer = single();
    newer.insert("generation_config.json", b"{\"c\": 4}".to_vec());
    let server = {
        let newer = newer.clone();
        Server::start(move |asked, _| resolve(asked, SECOND, &newer))
    };
    let dir = get(&hub(&server.url(), &cache, &[])).unwrap();
    assert!(dir.ends_with(SECOND));
    assert_holds(&dir, &newer);
    let asked = server.asked();
    let fetched: Vec<&str> = asked.iter().filter(|a| a.method == "GET").map(|a| a.path.as_str()).collect();
    assert_eq!(fetched, [format!("/org/name/resolve/{SECOND}/generation_config.json")]);
}

#[test]
fn offline_uses_what_is_cached_or_says_what_is_not() {
    let cache = tempfile::tempdir().unwrap();
    let server = serving(sharded());
    let online = hub(&server.url(), &cache, &[]);
    let offline = hub(&server.url(), &cache, &[("HF_HUB_OFFLINE", "1")]);
    let error = hub_error(get(&offline));
    assert!(matches!(&error, HubError::NotCached { file, .. } if file == "config.json"), "{error}");
    online.tokenizer_dir("org/name", None, &|_| {}).unwrap();
    assert!(offline.tokenizer_dir("org/name", None, &|_| {}).is_ok());
    let error = hub_error(get(&offline));
    assert!(error.to_string().contains("model.safetensors of org/name (revision main) is not in"), "{error}");
    assert!(error.hint().is_some_and(|h| h.contains("HF_HUB_OFFLINE")));
    let dir = get(&online).unwrap();
    let before = server.asked().len();
    assert_eq!(get(&offline).unwrap(), dir);
    assert_eq!(offline.model_dir("org/name", Some(FIRST), &|_| {}).unwrap(), dir);
    assert_eq!(server.asked().len(), before, "offline opens no socket");
    std::fs::remove_file(dir.join("model-00002-of-00002.safetensors")).unwrap();
    let error = hub_error(get(&offline));
    assert!(matches!(&error, HubError::NotCached { file, .. } if file == "model-00002-of-00002.safetensors"), "{error}");
}

#[test]
fn a_hub_that_cannot_be_reached_is_no_harm_to_what_is_cached() {
    let cache = tempfile::tempdir().unwrap();
    let server = serving(single());
    let (hub, other) = (hub(&server.url(), &cache, &[]), tempfile::tempdir().unwrap());
    let dir = get(&hub).unwrap();
    let empty = self::hub(&server.url(), &other, &[]);
    drop(server);
    let seen = RefCell::new(Vec::new());
    assert_eq!(hub.model_dir("org/name", None, &|event| seen.borrow_mut().push(event)).unwrap(), dir);
    assert!(matches!(&seen.borrow()[..], [Progress::Cached { why }] if why.contains("cannot connect")), "{seen:?}");
    let error = hub_error(get(&empty));
    assert!(matches!(&error, HubError::NoAnswer { .. }), "{error}");
}

#[test]
fn refusals_say_what_to_do_and_no_token() {
    let cases: [(u16, Option<&str>, &[(&str, &str)], &str, &str); 6] = [
        (401, Some("GatedRepo"), &[], "denies access to org/name (status 401)", "set HF_TOKEN to a token"),
        (403, Some("GatedRepo"), &[("HF_TOKEN", "hf_secret")], "denies access to org/name (status 403)", "with the account that the token"),
        (401, None, &[], "denies access", "accept the licence on"),
        (401, Some("RepoNotFound"), &[], "there is no directory 'org/name', and", "a private model needs HF_TOKEN"),
        (404, Some("RevisionNotFound"), &[], "with a revision main", "--revision"),
        (404, Some("EntryNotFound"), &[], "has no config.json", "safetensors"),
    ];
    for (status, code, variables, message, hint) in cases {
        let code = code.map(str::to_owned);
        let server = Server::start(move |_, _| match &code {
            Some(code) => Reply::new(status, "hf_secret").header("X-Error-Code", code.clone()),
            None => Reply::new(status, "hf_secret"),
        });
        let cache = tempfile::tempdir().unwrap();
        let hub = hub(&server.url(), &cache, variables);
        let error = hub_error(get(&hub));
        let (text, advice) = (error.to_string(), error.hint().unwrap());
        assert!(text.contains(message) && advice.contains(hint), "{status}: {text}; {advice}");
        assert!(!format!("{text} {advice} {error:?} {hub:?}").contains("hf_secret"));
        assert_eq!(server.asked()[0].header("authorization"), variables.first().map(|_| "Bearer hf_secret"));
        assert!(!matches!(error, HubError::Denied { token: TokenSent::Yes, .. }) || status == 403);
    }
}

#[test]
fn a_token_goes_to_the_hub_and_not_to_where_it_points() {
    let (server, cache) = (serving(single()), tempfile::tempdir().unwrap());
    get(&hub(&server.url(), &cache, &[("HF_TOKEN", "hf_secret")])).unwrap();
    for asked in server.asked() {
        let elsewhere = asked.path.starts_with("/elsewhere/");
        assert_eq!(asked.header("authorization"), (!elsewhere).then_some("Bearer hf_secret"), "{}", asked.path);
    }
    assert!(server.asked().iter().any(|a| a.path.starts_with("/elsewhere/")));
}

#[test]
fn odd_repositories_and_servers_are_named() {
    let no_weights = model(&[]);
    let mut no_tokenizer = single();
    no_tokenizer.remove("tokenizer.json");
    let mut lost_shard = sharded();
    lost_shard.remove("model-00002-of-00002.safetensors");
    let mut bad_index = sharded();
    bad_index.insert("model.safetensors.index.json", br#"{"weight_map": {"x": "../../x"}}"#.to_vec());
    for (files, message) in [
        (no_weights, "has no model.safetensors and no model.safetensors.index.json"),
        (no_tokenizer, "has no tokenizer.json"),
        (lost_shard, "has no model-00002-of-00002.safetensors"),
        (bad_index, "which is no file name"),
    ] {
        let (server, cache) = (serving(files), tempfile::tempdir().unwrap());
        let error = hub_error(get(&hub(&server.url(), &cache, &[])));
        assert!(error.to_string().contains(message) && error.hint().is_some(), "{error}");
    }
    let server = Server::start(|_, _| Reply::new(200, "<html>Please log in</html>"));
    let error = hub_error(get(&hub(&server.url(), &tempfile::tempdir().unwrap(), &[])));
    assert!(error.to_string().contains("does not answer as a hub does: no X-Repo-Commit"), "{error}");
    let server = Server::start(|_, _| Reply::new(200, "").header("X-Repo-Commit", "../../up").header("ETag", "\"a\""));
    let error = hub_error(get(&hub(&server.url(), &tempfile::tempdir().unwrap(), &[])));
    assert!(matches!(error, HubError::NoHub { .. }), "{error}");
}

#[test]
fn a_busy_hub_is_asked_again() {
    let server = Server::start(|asked, before| match before {
        0 => Reply::new(503, ""),
        1 => Reply::new(429, "").header("Retry-After", "0"),
        _ => resolve(asked, FIRST, &single()),
    });
    let cache = tempfile::tempdir().unwrap();
    assert_holds(&get(&hub(&server.url(), &cache, &[])).unwrap(), &single());
}
