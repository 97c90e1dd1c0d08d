//! `data` as a person meets it: the built binary, its words and its exit codes.

use crate::support::desk::Desk;
use crate::support::folder_of;
use crate::support::server::{Reply, Server};
use std::path::{Path, PathBuf};
use swallow_eval::dataset::manifest::Manifest;

const NAMES: [&str; 5] = ["jcommonsenseqa", "jemhopqa", "jmmlu", "jsquad", "niilc"];

#[test]
fn a_list_needs_no_data() {
    let said = Desk::new().run("data list");
    said.works(&NAMES);
    said.works(&["CC-BY-SA-4.0", "missing", "japanese_history and world_history", "JCommonsenseQA v1.1"]);
}

#[test]
fn what_is_wrong_has_its_exit_code() {
    let desk = Desk::new().file("file", "x");
    desk.run("data fetch jemhop").fails(2, &["unknown data set 'jemhop'", "jemhopqa"]);
    desk.run("data fetch jemhopqa --data-url ftp://me:hunter2@host").fails(2, &["'ftp://host' is not a web address", "hint: "]);
    desk.run("data fetch jemhopqa --offline").fails(4, &["jemhopqa/corpus/train.json is missing", "hint: "]);
    let said = desk.run("data verify");
    assert_eq!(said.code, 4, "nothing at hand is nothing verified: {}", said.err);
    assert!(said.out.contains("jmmlu             0 files as pinned, 0 B, 53 missing"), "{}", said.out);
    desk.run("data export out.tar.gz").fails(4, &["is missing; looked for it in"]);
    desk.run("data import none.tar.gz").fails(2, &["failed to open none.tar.gz"]);
    desk.run("data import file").fails(4, &["file: it is damaged", "hint: "]);
    assert!(!desk.folder.path().join("out.tar.gz").exists());
}

#[test]
fn fetch_names_every_failure_and_goes_on() {
    let server = Server::start(|_, _| Reply::new(404, "no"));
    let desk = Desk::new();
    let said = desk.run(&format!("data fetch jemhopqa niilc --data-url {}", server.url()));
    said.fails(4, &["jemhopqa/corpus/", "niilc-qa/data/", "404 Not Found", "2 of 2 data sets could not be fetched", "hint: "]);
    let said = desk.run(&format!("data fetch jmmlu --data-url {}", server.url()));
    said.fails(4, &["note: jmmlu: The subjects japanese_history and world_history are copyrighted", "404 Not Found"]);
    let blocked = Desk::new().file("file", "").env("SWALLOW_EVAL_HOME", "file");
    let said = blocked.run(&format!("data fetch --data-url {}", server.url()));
    said.fails(4, &["the cache cannot be written: failed to create directory file/data", "hint: set SWALLOW_EVAL_HOME"]);
}

#[test]
fn a_proxy_is_used_and_its_password_not_shown() {
    let proxy = Server::start(|_, _| Reply::new(403, "not allowed"));
    let address = proxy.url().replace("http://", "http://me:hunter2@");
    let desk = Desk::new().env("HTTP_PROXY", address);
    let said = desk.run("data fetch jemhopqa --data-url http://mirror.invalid");
    said.fails(4, &["from http://mirror.invalid/aiishii/JEMHopQA/", "403 Forbidden", "check HTTPS_PROXY"]);
    assert!(!said.err.contains("hunter2"), "{}", said.err);
    let asked = proxy.asked();
    assert!(asked.iter().all(|a| a.path.starts_with("http://mirror.invalid/aiishii/")) && !asked.is_empty(), "{asked:?}");
    assert!(asked[0].header("proxy-authorization").is_some_and(|a| a.starts_with("Basic ")), "{asked:?}");
}

/// The files of a data set as its pinned address serves them.
fn serve(mirror: PathBuf) -> Server {
    let files: Vec<(String, PathBuf)> = Manifest::all()
        .unwrap()
        .iter()
        .flat_map(|manifest| manifest.form.iter().flat_map(|form| &form.files))
        .filter_map(|file| Some((file.url.as_ref()?.splitn(4, '/').nth(3).unwrap().to_owned(), mirror.join(&file.path))))
        .collect();
    Server::start(move |asked, _| {
        let path = files.iter().find(|(url, _)| asked.path[1..] == **url).map(|(_, path)| path);
        match path.map(std::fs::read) {
            Some(Ok(content)) => Reply::file(asked, &content, "v1"),
            _ => Reply::new(404, ""),
        }
    })
}

#[test]
fn from_the_network_to_another_machine() {
    let Some(mirror) = folder_of("SWALLOW_EVAL_DATA") else { return };
    let (server, here, there) = (serve(mirror), Desk::new(), Desk::new());
    let said = here.run(&format!("data fetch jemhopqa niilc jmmlu --data-url {}", server.url()));
    assert_eq!(said.code, 0, "{}", said.err);
    for part in ["jemhopqa          2 files in cache", "niilc             2 files in cache", "jmmlu             53 files in cache"] {
        assert!(said.out.contains(part), "{}", said.out);
    }
    for part in ["jmmlu: 53 files, ", "note: jmmlu: "] {
        assert!(said.err.contains(part), "{}", said.err);
    }
    let asked = server.asked().len();
    assert_eq!(here.run(&format!("data fetch jmmlu -q --data-url {}", server.url())).code, 0);
    assert_eq!((asked, server.asked().len()), (57, 57), "what is at hand is not asked for again");

    here.run("data verify jemhopqa niilc jmmlu").works(&["53 files as pinned"]);
    here.run("data export out.tar.gz jemhopqa niilc").works(&["4 files, ", "wrote out.tar.gz"]);
    here.run("data export out.tar.gz jsquad").fails(4, &["jsquad"]);
    let archive = here.folder.path().join("out.tar.gz");
    there.run(&format!("data import {}", archive.display())).works(&["4 files, ", ".cache/swallow-eval/data"]);
    there.run("data list").works(&["2 files in cache"]);
    there.run("data verify jemhopqa niilc").works(&["2 files as pinned"]);

    let damaged = there.folder.path().join(".cache/swallow-eval/data/jemhopqa/corpus/dev.json");
    std::fs::write(&damaged, "[]").unwrap();
    let said = there.run("data verify");
    assert_eq!(said.code, 4, "{}", said.err);
    assert!(said.out.contains("1 file as pinned") && said.out.contains("1 wrong"), "{}", said.out);
    assert!(said.err.contains("size is 2 bytes, but 47990 bytes"), "{}", said.err);
    assert_eq!(there.run(&format!("data fetch jemhopqa --data-url {}", server.url())).code, 0);
    assert!(whole(&damaged), "a damaged file of the cache is fetched again");
}

fn whole(path: &Path) -> bool {
    std::fs::metadata(path).unwrap().len() == 47_990
}
