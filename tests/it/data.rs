//! Data sets from a server that misbehaves, and data sets as published.

use crate::support::folder_of;
use crate::support::server::{Asked, Reply, Server};
use crate::support::toy::{content, file, manifest, toy};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::Duration;
use swallow_eval::dataset::{
    DatasetError,
    fetch::{Fault, Patience, Progress},
    manifest::{DataFile, Form, Manifest},
    read::Reader,
    store::{Store, StoreOptions},
};
use tempfile::TempDir;

/// Tries again at once: tests do not wait.
const EAGER: Patience = Patience { retries: 2, first_pause: Duration::ZERO, longest_pause: Duration::ZERO, stall: Duration::from_secs(20) };

fn options(cache: &Path, server: &Server) -> StoreOptions {
    StoreOptions { mirror: None, cache: cache.to_owned(), offline: false, base_url: Some(server.url()) }
}

/// A cache, and a store that fills it from `server`.
fn store(server: &Server) -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(options(dir.path(), server)).patience(EAGER);
    (dir, store)
}

/// Ensures the toy, and returns what happened on the way.
fn ensure(store: &Store, manifest: &Manifest) -> (Result<(), DatasetError>, Vec<Progress>) {
    let seen = RefCell::new(Vec::new());
    let ended = store.ensure(manifest, &["train"], &|event| seen.borrow_mut().push(event));
    (ended, seen.into_inner())
}

/// Files below a directory, without the lock.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => found.push(path.strip_prefix(dir).unwrap().display().to_string()),
            }
        }
    }
    found.retain(|name| name != ".lock");
    found.sort();
    found
}

/// Puts bytes where an earlier process would have left them.
fn leave_partial(cache: &Path, bytes: &[u8], tag: Option<&str>) {
    std::fs::create_dir_all(cache.join("toy")).unwrap();
    std::fs::write(cache.join("toy/train.jsonl.partial"), bytes).unwrap();
    if let Some(tag) = tag {
        std::fs::write(cache.join("toy/train.jsonl.partial.tag"), tag).unwrap();
    }
}

fn fault(ended: Result<(), DatasetError>) -> (Fault, u32) {
    match ended.unwrap_err() {
        DatasetError::Download { fault, tries, .. } => (fault, tries),
        other => panic!("{other}"),
    }
}

fn assert_whole(dir: &TempDir) {
    assert_eq!(files(dir.path()), ["toy/train.jsonl"]);
    assert!(std::fs::read(dir.path().join("toy/train.jsonl")).unwrap() == content());
}

#[test]
fn a_file_comes_whole_and_says_so() {
    let server = Server::start(|asked, _| Reply::file(asked, &content(), "v1"));
    let (dir, store) = store(&server);
    let (ended, seen) = ensure(&store, &toy());
    ended.unwrap();
    assert_whole(&dir);
    assert_eq!(server.asked().iter().map(|a| a.path.as_str()).collect::<Vec<_>>(), ["/v1/toy/train.jsonl"]);
    let (name, bytes) = ("toy/train.jsonl".to_owned(), content().len() as u64);
    assert_eq!(seen.first(), Some(&Progress::Started { file: name.clone(), bytes: Some(bytes), have: 0 }));
    assert_eq!(seen.last(), Some(&Progress::Finished { file: name, bytes }));
    assert!(seen.iter().any(|e| matches!(e, Progress::Received { have, .. } if *have == bytes)), "{seen:?}");
    assert_eq!(store.records(&toy(), "train").unwrap().len(), 20_000);
    ensure(&store, &toy()).0.unwrap();
    assert_eq!(server.asked().len(), 1, "what is at hand is not asked for again");
}

#[test]
fn a_cut_connection_is_resumed() {
    let half = content().len() / 2;
    let server = Server::start(move |asked, before| {
        let whole = Reply::file(asked, &content(), "v1");
        if before == 0 { whole.cut(half) } else { whole }
    });
    let (dir, store) = store(&server);
    let (ended, seen) = ensure(&store, &toy());
    ended.unwrap();
    assert_whole(&dir);
    let asked = server.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!((asked[1].header("range"), asked[1].header("if-range")), (Some(format!("bytes={half}-").as_str()), Some("\"v1\"")));
    assert!(seen.iter().any(|e| matches!(e, Progress::Retrying { why, .. } if why.contains("broke after"))), "{seen:?}");
}

#[test]
fn a_connection_may_break_often_as_long_as_bytes_come() {
    let step = content().len() / 12;
    let server = Server::start(move |asked, _| Reply::file(asked, &content(), "v1").cut(step));
    let (dir, store) = store(&server);
    ensure(&store, &toy()).0.unwrap();
    assert_whole(&dir);
    assert!(server.asked().len() >= 12);
}

#[test]
fn a_later_process_goes_on_where_this_one_stopped() {
    let half = content().len() / 2;
    let server = Server::start(move |asked, before| match before {
        0 => Reply::file(asked, &content(), "v1").cut(half),
        1 | 2 => Reply::new(503, "busy"),
        _ => Reply::file(asked, &content(), "v1"),
    });
    let (dir, store) = store(&server);
    let (broken, tries) = fault(ensure(&store, &toy()).0);
    assert_eq!((broken, tries), (Fault::Status(reqwest::StatusCode::SERVICE_UNAVAILABLE), 3));
    assert_eq!(files(dir.path()), ["toy/train.jsonl.partial", "toy/train.jsonl.partial.tag"]);
    assert!(matches!(store.records(&toy(), "train"), Err(DatasetError::Missing { .. })), "half a file is not a file");
    let (ended, seen) = ensure(&Store::open(options(dir.path(), &server)).patience(EAGER), &toy());
    ended.unwrap();
    assert_whole(&dir);
    assert_eq!(server.asked()[3].header("range"), Some(format!("bytes={half}-").as_str()));
    assert!(matches!(seen[0], Progress::Started { have, .. } if have == half as u64), "{seen:?}");
}

/// What an earlier process left, what the server makes of it, how many requests the file takes.
#[test]
fn whatever_was_left_the_file_is_right() {
    let whole = content();
    let garbage = vec![b'x'; 1000];
    let longer = [content(), b"more".to_vec()].concat();
    type Answer = fn(&Asked, usize) -> Reply;
    let good: Answer = |asked, _| Reply::file(asked, &content(), "v2");
    let cases: [(&str, &[u8], Option<&str>, Option<u64>, Answer, usize); 7] = [
        ("a whole file without its name", &whole, None, Some(whole.len() as u64), good, 0),
        ("a beginning of another copy", &garbage, Some("\"v1\""), Some(whole.len() as u64), good, 1),
        ("garbage that nothing tells from a beginning", &garbage, None, Some(whole.len() as u64), good, 2),
        ("more than the file has", &longer, None, Some(whole.len() as u64), good, 1),
        ("more than the server has, size unknown", &longer, None, None, good, 2),
        ("a server without ranges", &whole[..99], None, Some(whole.len() as u64), |_, _| Reply::new(200, content()), 1),
        (
            "a server that sends another part",
            &whole[..99],
            None,
            Some(whole.len() as u64),
            |asked, before| match before {
                0 => Reply::new(206, &content()[5..]).header("Content-Range", "bytes 5-9/10"),
                _ => Reply::file(asked, &content(), "v1"),
            },
            2,
        ),
    ];
    for (name, left, tag, bytes, answer, requests) in cases {
        let server = Server::start(answer);
        let (dir, store) = store(&server);
        leave_partial(dir.path(), left, tag);
        let toy = manifest(vec![DataFile { bytes, ..file("toy/train.jsonl", &content()) }]);
        ensure(&store, &toy).0.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_whole(&dir);
        assert_eq!(server.asked().len(), requests, "{name}");
    }
}

#[test]
fn what_cannot_be_had_is_said_and_leaves_nothing() {
    type Answer = fn(&Asked, usize) -> Reply;
    let cases: [(&str, Answer, u32, &[&str]); 7] = [
        ("gone", |_, _| Reply::new(404, "no"), 1, &["the server answered 404 Not Found"]),
        ("denied", |_, _| Reply::new(403, "no"), 1, &["403 Forbidden"]),
        ("broken", |_, _| Reply::new(500, "no"), 3, &["500 Internal Server Error (after 3 attempts)"]),
        ("changed", |_, _| Reply::new(200, vec![b'x'; content().len()]), 1, &["sha256", "but"]),
        ("shorter", |_, _| Reply::new(200, "{}"), 1, &["the server has 2 bytes, but"]),
        ("longer", |_, _| Reply::new(200, [content(), content()].concat()).unsized_body(), 1, &["bytes are expected"]),
        ("empty without a length", |_, _| Reply::new(200, "").unsized_body(), 3, &["the server has 0 bytes, but"]),
    ];
    for (name, answer, expected_tries, parts) in cases {
        let server = Server::start(answer);
        let (dir, store) = store(&server);
        let error = ensure(&store, &toy()).0.unwrap_err();
        let text = error.to_string();
        for part in parts.iter().chain(&["toy/train.jsonl", "data set 'toy'", server.url().as_str()]) {
            assert!(text.contains(part), "{name}: {text}");
        }
        assert!(error.hint().is_some(), "{name}");
        assert_eq!((files(dir.path()), server.asked().len() as u32), (vec![], expected_tries), "{name}");
    }
}

#[test]
fn a_body_that_ends_early_is_kept_for_the_next_time() {
    let server = Server::start(|asked, _| Reply::file(asked, &content()[..100], "v1").unsized_body());
    let (dir, store) = store(&server);
    // 100 bytes; then none are left to send (416), so it starts anew; then the same 100: nothing new has come.
    let (fault, tries) = fault(ensure(&store, &toy()).0);
    assert_eq!((fault, tries), (Fault::Size { expected: content().len() as u64, got: 100 }, 3));
    assert!(!dir.path().join("toy/train.jsonl").exists());
}

#[test]
fn a_busy_server_is_asked_again_when_it_says() {
    let hour = Duration::from_secs(3600);
    for (status, after) in [(429, "0"), (503, "Sun, 06 Nov 1994 08:49:37 GMT"), (408, "0")] {
        let server = Server::start(move |asked, before| match before {
            0 => Reply::new(status, "busy").header("Retry-After", after),
            _ => Reply::file(asked, &content(), "v1"),
        });
        let dir = tempfile::tempdir().unwrap();
        // Its own pause would be an hour.
        let store = Store::open(options(dir.path(), &server)).patience(Patience { first_pause: hour, longest_pause: hour, ..EAGER });
        let (ended, seen) = ensure(&store, &toy());
        ended.unwrap();
        assert_whole(&dir);
        let pauses: Vec<_> =
            seen.iter().filter_map(|e| if let Progress::Retrying { pause, .. } = e { Some(*pause) } else { None }).collect();
        assert_eq!(pauses, [Duration::ZERO], "{status}");
    }
}

#[test]
fn a_closed_port_and_a_silent_server_are_named() {
    let server = Server::start(|_, _| Reply::new(200, ""));
    let (_dir, store) = store(&server);
    drop(server);
    let (refused, tries) = fault(ensure(&store, &toy()).0);
    assert!(matches!(&refused, Fault::Unreachable(_)) && tries == 3, "{refused:?}");

    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let base_url = Some(format!("http://{}", silent.local_addr().unwrap()));
    let options = StoreOptions { mirror: None, cache: dir.path().to_owned(), offline: false, base_url };
    let hasty = Patience { stall: Duration::from_millis(50), retries: 1, ..EAGER };
    let (stalled, _) = fault(ensure(&Store::open(options).patience(hasty), &toy()).0);
    assert!(matches!(stalled, Fault::Stalled { got: 0, .. }), "{stalled:?}");
}

#[test]
fn user_info_is_sent_and_not_shown() {
    let server = Server::start(|_, _| Reply::new(404, ""));
    let dir = tempfile::tempdir().unwrap();
    let base_url = Some(server.url().replace("http://", "http://me:hunter2@"));
    let options = StoreOptions { base_url, ..options(dir.path(), &server) };
    let error = ensure(&Store::open(options), &toy()).0.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    assert!(server.asked()[0].header("authorization").is_some_and(|a| a.starts_with("Basic ")));
}

#[test]
fn files_come_side_by_side() {
    let (arrived, both) = (Mutex::new(0), Condvar::new());
    let server = Server::start(move |asked, _| {
        let mut arrived = arrived.lock().unwrap();
        *arrived += 1;
        both.notify_all();
        let (arrived, waited) = both.wait_timeout_while(arrived, Duration::from_secs(20), |n| *n < 2).unwrap();
        drop(arrived);
        if waited.timed_out() { Reply::new(404, "alone") } else { Reply::file(asked, &content(), "v1") }
    });
    let (dir, store) = store(&server);
    let names: Vec<String> = (0..9).map(|i| format!("toy/{i}.jsonl")).collect();
    ensure(&store, &manifest(names.iter().map(|name| file(name, &content())).collect())).0.unwrap();
    assert_eq!(files(dir.path()), names);
}

#[test]
fn two_downloads_into_one_cache_do_the_work_once() {
    let server = Server::start(|asked, _| Reply::file(asked, &content(), "v1"));
    let (dir, store) = store(&server);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| store.ensure(&toy(), &["train"], &|_| {}).unwrap());
        }
    });
    assert_whole(&dir);
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let server = Server::start(|asked, _| Reply::file(asked, &content(), "v1"));
    let dir = tempfile::tempdir().unwrap();
    // Permissions do not stop root: a regular file in the way does.
    std::fs::write(dir.path().join("file"), "").unwrap();
    let error = ensure(&Store::open(options(&dir.path().join("file/cache"), &server)), &toy()).0.unwrap_err();
    assert!(error.to_string().starts_with("the cache cannot be written: failed to create directory"), "{error}");
    assert!(error.hint().is_some_and(|h| h.contains("SWALLOW_EVAL_HOME")));
    assert_eq!(server.asked().len(), 0);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_named() {
    let server = Server::start(|asked, _| Reply::file(asked, &content(), "v1"));
    let (dir, store) = store(&server);
    std::fs::create_dir(dir.path().join("toy")).unwrap();
    std::os::unix::fs::symlink("/dev/full", dir.path().join("toy/train.jsonl.partial")).unwrap();
    let error = ensure(&store, &toy()).0.unwrap_err();
    assert!(error.to_string().contains("No space left on device"), "{error}");
    assert!(error.hint().is_some_and(|h| h.contains("free some space")));
    assert_eq!(server.asked().len(), 1, "another attempt would not help");
    assert!(!dir.path().join("toy/train.jsonl").exists());
}

#[test]
fn mirror_then_cache_then_network() {
    let server = Server::start(|asked, _| Reply::file(asked, &content(), "v1"));
    let (mirror, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = |offline| {
        let mirror = Some(mirror.path().to_owned());
        Store::open(StoreOptions { mirror, offline, ..options(cache.path(), &server) }).patience(EAGER)
    };
    let place = |dir: &TempDir, bytes: &[u8]| {
        std::fs::create_dir_all(dir.path().join("toy")).unwrap();
        std::fs::write(dir.path().join("toy/train.jsonl"), bytes).unwrap();
    };
    let missing = ensure(&open(true), &toy()).0.unwrap_err();
    assert!(matches!(missing, DatasetError::Missing { .. }), "{missing}");
    for looked in [&mirror, &cache] {
        assert!(missing.to_string().contains(&looked.path().display().to_string()), "{missing}");
    }
    place(&cache, b"damaged");
    assert!(matches!(ensure(&open(true), &toy()).0, Err(DatasetError::Differs { .. })), "offline a damaged file is an error");
    assert_eq!(server.asked().len(), 0, "offline opens no socket");
    ensure(&open(false), &toy()).0.unwrap();
    assert_whole(&cache);
    assert_eq!(server.asked().len(), 1);
    place(&mirror, b"damaged");
    assert!(matches!(ensure(&open(false), &toy()).0, Err(DatasetError::Differs { path, .. }) if path.starts_with(mirror.path())));
    place(&mirror, &content());
    place(&cache, b"damaged");
    ensure(&open(true), &toy()).0.unwrap();
    assert_eq!(open(true).records(&toy(), "train").unwrap().len(), 20_000, "the mirror is looked at first");
}

#[test]
fn another_form_helps_out() {
    let server = Server::start(|asked, _| match asked.path.as_str() {
        "/v1/second/train.jsonl" => Reply::file(asked, &content(), "v1"),
        _ => Reply::new(404, ""),
    });
    let (dir, store) = store(&server);
    let mut toy = toy();
    let second = Form { name: "second".into(), reader: Reader::Jsonl, files: vec![file("second/train.jsonl", &content())], each: vec![] };
    toy.form.push(second);
    ensure(&store, &toy).0.unwrap();
    assert_eq!(files(dir.path()), ["second/train.jsonl"]);
    assert_eq!(store.records(&toy, "train").unwrap().len(), 20_000);
}

#[test]
fn records_are_counted_where_there_is_no_hash() {
    let rows = |rows| DataFile { bytes: None, sha256: None, rows: Some(rows), ..file("toy/train.jsonl", b"") };
    let server = Server::start(|asked, _| Reply::file(asked, &content(), "v1"));
    let (dir, store) = store(&server);
    let (fault, _) = fault(ensure(&store, &manifest(vec![rows(7)])).0);
    assert_eq!(fault, Fault::Differs("its number of records is 20000, but 7 is expected".into()));
    assert_eq!(files(dir.path()), [""; 0]);
    ensure(&store, &manifest(vec![rows(20_000)])).0.unwrap();
    assert_whole(&dir);
}

/// Data as published, where it is at hand.
fn published() -> Option<PathBuf> {
    folder_of("SWALLOW_EVAL_DATA")
}

#[test]
fn published_files_are_the_pinned_ones() {
    let Some(mirror) = published() else { return };
    let store = Store::mirror_only(&mirror);
    let mut verified = 0;
    for manifest in Manifest::all().unwrap() {
        for (form, file) in manifest.form.iter().flat_map(|form| form.files.iter().map(move |file| (form, file))) {
            match store.verify(&manifest, form, file) {
                Ok(_) => verified += 1,
                Err(DatasetError::Missing { file, .. }) => eprintln!("not at hand: {file}"),
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(verified > 0, "{} holds none of the files", mirror.display());
}

#[test]
fn published_records_are_as_many_as_published() {
    let Some(mirror) = published() else { return };
    let store = Store::mirror_only(&mirror);
    for (name, expected) in [
        ("jcommonsenseqa", &[("train", 8939), ("valid", 1119)][..]),
        ("jemhopqa", &[("train", 1059), ("dev", 120)]),
        ("niilc", &[("dev", 800), ("test", 200)]),
        ("jsquad", &[("valid", 4442)]),
    ] {
        let manifest = Manifest::builtin(name).unwrap();
        for (split, count) in expected {
            assert_eq!(store.records(&manifest, split).unwrap().len(), *count, "{name} {split}");
        }
    }
    let jmmlu = Manifest::builtin("jmmlu").unwrap();
    let counts: Vec<usize> = jmmlu.splits().iter().map(|split| store.records(&jmmlu, split).unwrap().len()).collect();
    assert_eq!((counts.len(), counts.iter().sum::<usize>()), (53, 7097));
}
