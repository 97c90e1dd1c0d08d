//! The page of `report --format html`, read in a browser: what stands in it, what can be done with it, and what text of a model cannot do.

use crate::support::{browser::Browser, desk::Desk, generate, request};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use swallow_eval::engine::{Finish, Generate, Generated, Identity, Note, Outcome, Output, RequestFailure, Response};
use swallow_eval::report::html::{self, Subject};
use swallow_eval::results::{
    command_line::CommandLine,
    journal::Answers,
    recorded::Recorded,
    reference,
    requests::PlannedRequest,
    samples::Sample,
    scores::{Scores, TaskScore},
    spec::{Defects, Machine, RunSpec, TaskSpec, Timing, Tool},
};
use tempfile::TempDir;

/// Texts that would do something if they were taken for markup, script, style or an address.
const INJECTIONS: [&str; 18] = [
    "<script>window.pwned = 1</script>",
    "</script><script>window.pwned = 1</script>",
    "<img src=x onerror=\"window.pwned = 1\">",
    "<svg onload=window.pwned=1><circle r=9></svg>",
    "\"><iframe src=\"javascript:parent.pwned=1\"></iframe>",
    "' onmouseover='window.pwned=1' x='",
    "<!-- --><style>body { display: none }</style>",
    "</textarea></title></pre></code><b id=injected>b</b>",
    "]]></script><base href=\"http://192.0.2.1/\">",
    "<meta http-equiv=refresh content=\"0;url=http://192.0.2.1/\">",
    "javascript:window.pwned=1",
    "{{ 7*7 }} {% raw %} ${7*7} <%= 7*7 %>",
    "<link rel=stylesheet href=http://192.0.2.1/x.css>",
    "&lt;b&gt; &amp;amp; &#60;script&#62;",
    "\u{2028}\u{2029}\u{0}\u{7f}\u{202e}rtl\u{202c}",
    "<math><mtext><table><mglyph><style><img src=x onerror=window.pwned=1>",
    "<form action=http://192.0.2.1/><button id=injected>",
    "<details open ontoggle=window.pwned=1>",
];

/// A made-up run of two tasks, `documents` in all. Every tenth answer of an `other` model differs.
fn made_up(run: &str, documents: usize, other: bool) -> Subject {
    let shots = |task: &str| -> String {
        let shot = |i: usize| {
            format!("### 入力:\n質問：{task}の例題その{i}はどれですか。\n選択肢：0.甲,1.乙,2.丙,3.丁\n\n### 応答:\n{}\n\n", i % 4)
        };
        format!("以下は、{task}の指示です。要求を適切に満たす応答を書きなさい。\n\n{}", (0..5).map(shot).collect::<String>())
    };
    let mut noise = 1u64;
    let mut recorded = empty(run, if other { "org/other" } else { "org/made-up" });
    let mut outcomes = Vec::new();
    for number in 0..documents {
        let (task, title) = if number * 3 < documents { ("jcommonsenseqa", "JCom.") } else { ("jemhopqa", "JEMHopQA") };
        // As dense as text gets, so that the size of the page is not flattered.
        let mut any = || {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from_u32(0x3041 + (noise >> 33) as u32 % 83).expect("kana")
        };
        let body: String = (0..200).map(|_| any()).chain(" Old Mill ".chars()).collect();
        let prompt = format!("{}### 入力:\n質問：{number}番。{body}\n\n### 応答:\n", shots(title));
        let right = number % 3 != 0;
        let flipped = other && number % 10 == 4;
        let score = if right != flipped { 1.0 } else { f64::from(number.is_multiple_of(2)) * 0.5 };
        let answer = if score == 1.0 { format!("答え{number}") } else { format!("誤り{number}") };
        add(
            &mut recorded,
            &mut outcomes,
            (task, &format!("{number:05}")),
            &prompt,
            &format!("{answer}\n\n続きの文章です。"),
            &answer,
            &format!("答え{number}"),
            score,
        );
    }
    finish(recorded, outcomes)
}

fn empty(run: &str, model: &str) -> Recorded {
    let identity = Identity {
        engine: "llama".into(),
        model: model.into(),
        dtype: Some("bf16".into()),
        device: Some("cpu".into()),
        ..Identity::default()
    };
    let spec = RunSpec {
        version: 1,
        id: run.into(),
        protocol: "swallow-202407".into(),
        suite: "ja".into(),
        demo: false,
        tasks: Vec::new(),
        left_out: BTreeMap::new(),
        engine: identity,
        judge: None,
        chat_template: None,
        defects: Defects::Faithful,
        limit: None,
        samples: BTreeMap::new(),
        shard: None,
        seeds: BTreeMap::new(),
        tool: Tool::current(),
        machine: Machine::default(),
        command: CommandLine::default(),
        timing: Timing::default(),
    };
    let scores = Scores::new("swallow-202407", "ja", model, false, Vec::new());
    Recorded { run: run.into(), spec, scores, requests: Vec::new(), samples: Vec::new(), answers: Answers::default() }
}

#[expect(clippy::too_many_arguments, reason = "a document has so many parts")]
fn add(
    to: &mut Recorded,
    outcomes: &mut Vec<Outcome>,
    (task, id): (&str, &str),
    prompt: &str,
    response: &str,
    answer: &str,
    reference: &str,
    score: f64,
) {
    let request = request(Generate { stop: vec!["\n\n".into()], ..generate(prompt, 15) });
    let generated = Generated {
        text: response.into(),
        token_ids: None,
        finish: Finish::Stop,
        prompt_tokens: Some(90),
        new_tokens: Some(4),
        notes: vec![],
    };
    outcomes.push(Ok(Response { id: request.id.clone(), output: Output::Generated(generated) }));
    to.samples.push(Sample {
        task: task.into(),
        doc_id: id.into(),
        group: None,
        request: request.id.clone(),
        prompt_sha256: "0".repeat(64),
        log_likelihoods: Vec::new(),
        response: Some(response.into()),
        answer: Some(answer.into()),
        readings: BTreeMap::new(),
        programs: vec![],
        reference: vec![reference.into()],
        scores: BTreeMap::from([("exact_match".to_owned(), score)]),
        stats: BTreeMap::new(),
        failure: None,
        notes: if id.ends_with('7') { vec![Note::NearTie] } else { vec![] },
        turns: vec![],
    });
    to.requests.push(PlannedRequest {
        task: task.into(),
        doc_id: id.into(),
        group: String::new(),
        reference: vec![reference.into()],
        request,
        lost_tokens: 0,
        right: None,
    });
}

/// Scores for what was added, against a published row.
fn finish(mut recorded: Recorded, outcomes: Vec<Outcome>) -> Subject {
    let mut tasks = Vec::new();
    for samples in recorded.samples.chunk_by(|a, b| a.task == b.task) {
        let (name, n) = (samples[0].task.clone(), samples.len() as u64);
        let values: Vec<f64> = samples.iter().map(|sample| sample.scores["exact_match"]).collect();
        let title = match name.as_str() {
            "jcommonsenseqa" => "JCom.",
            "jemhopqa" => "JEMHopQA",
            other => other,
        };
        tasks.push(TaskScore {
            task: name.clone(),
            title: title.into(),
            metric: "exact_match".into(),
            value: Some(values.iter().sum::<f64>() / n as f64),
            n,
            documents_in_full: Some(n),
            half_width_95: swallow_eval::metric::aggregate::half_width_95(&values),
            signature: format!("swallow-202407|{name}|made-up"),
            ..TaskScore::default()
        });
        recorded.spec.tasks.push(TaskSpec {
            task: name,
            task_sha256: String::new(),
            data_sha256: String::new(),
            shots: 5,
            documents: n,
            documents_in_full: n,
            overrides: BTreeMap::new(),
        });
    }
    recorded.scores = Scores::new("swallow-202407", "ja", &recorded.scores.model, false, tasks);
    recorded.answers = Answers::of(outcomes);
    Subject { recorded, published: reference::row("ja", "Llama 3.1 Swallow 70B Instruct").ok() }
}

/// A page on disk.
fn written(runs: &[Subject]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    std::fs::write(&path, html::render(runs)).unwrap();
    (folder, path)
}

fn only_the_page_itself(browser: &Browser, page: &Path) {
    let address = format!("file://{}", page.display());
    for url in browser.requested() {
        assert!(url.starts_with(&address) || url.starts_with("about:") || url.starts_with("data:,"), "the page asked for {url}");
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

fn text_of(browser: &Browser, selector: &str) -> String {
    browser.eval(&format!("document.querySelector('{selector}').textContent")).as_str().unwrap().to_owned()
}

fn listed(browser: &Browser) -> i64 {
    browser.eval("Number(document.getElementById('count').dataset.listed)").as_i64().unwrap()
}

#[test]
fn two_runs_can_be_searched_filtered_and_compared() {
    let Some(browser) = Browser::start() else { return };
    let (first, second) = (made_up("one", 300, false), made_up("two", 300, true));
    let prompt = match &first.requests[123].request.kind {
        swallow_eval::engine::RequestKind::Generate(generate) => generate.prompt.clone(),
        other => panic!("{other:?}"),
    };
    let (_folder, page) = written(&[first, second]);
    browser.open(&page, "");

    // The table in the card's layout: ours, the row it is held against, the other published rows; ten columns and the average.
    let cells = "[...document.querySelectorAll('.card tbody tr')].map(row => row.cells.length)";
    assert_eq!(browser.eval(cells), serde_json::json!(vec![12; 11]));
    assert_eq!(
        browser.eval("[...document.querySelectorAll('.card tr.ours td:nth-child(2)')].map(c => c.className)"),
        serde_json::json!(["below", "below"])
    );
    assert_eq!(browser.eval("document.querySelectorAll('svg.bars rect').length"), 6);
    browser.click(".card thead th:nth-child(2) .sort");
    let column = browser.eval("[...document.querySelectorAll('.card tbody tr')].map(row => Number(row.cells[1].dataset.value))");
    let column: Vec<f64> = serde_json::from_value(column).unwrap();
    assert!(column.is_sorted_by(|a, b| a >= b), "{column:?}");

    // Links show a document with its exact prompt, shots folded.
    browser.open(&page, "#jemhopqa/00123");
    browser.wait("document.querySelector('#document .head b')?.textContent === 'JEMHopQA / 00123'");
    assert_eq!(
        browser.eval(
            "[...document.querySelectorAll('#document > div')][1].textContent.replace(/^instruction and shots .*? characters\\)/, '')"
        ),
        prompt.as_str()
    );
    let shown = text_of(&browser, "#document > div > pre:last-of-type");
    assert!(shown.starts_with("### 入力:\n質問：123番。") && !shown.contains("例題"), "{shown}");
    assert_eq!(browser.eval("document.querySelector('#document details.shots').open"), false);
    browser.press("s");
    assert_eq!(browser.eval("document.querySelector('#document details.shots').open"), true);

    // Keys.
    browser.press("j");
    browser.wait("location.hash === '#jemhopqa/00124'");
    browser.wait("document.querySelector('#document .head b').textContent.endsWith('00124')");
    browser.press("kk");
    browser.wait("location.hash === '#jemhopqa/00122'");
    // Keys that come before the page has followed the last one count too.
    browser.eval("[1, 2].forEach(() => document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'j', bubbles: true })))");
    browser.wait("location.hash === '#jemhopqa/00124'");
    browser.press("kk");
    browser.wait("location.hash === '#jemhopqa/00122'");

    // Filters: each against a count made from the same rule as the documents.
    assert_eq!(listed(&browser), 300);
    let narrowed: [(&str, &str, &dyn Fn(&usize) -> bool); 4] = [
        ("task", "jcommonsenseqa", &|n| *n < 100),
        ("outcome", "right", &|n| (n % 3 != 0) != (n % 10 == 4)),
        ("mark", "near_tie", &|n| n % 10 == 7),
        ("flips", "flip", &|n| n % 10 == 4),
    ];
    for (count, (id, value, _)) in narrowed.iter().enumerate() {
        browser.choose(id, value);
        let expected = (0..300).filter(|n| narrowed[..=count].iter().all(|(.., rule)| rule(n))).count();
        browser.wait(&format!("document.getElementById('count').dataset.listed === '{expected}'"));
    }
    browser.press("\u{e00c}");
    browser.wait("document.getElementById('count').dataset.listed === '300'");
    browser.choose("flips", "flip");
    browser.wait("document.getElementById('count').dataset.listed === '30'");
    browser.choose("flips", "worse");
    let worse = (0..300).filter(|n| n % 10 == 4 && n % 3 != 0).count();
    browser.wait(&format!("document.getElementById('count').dataset.listed === '{worse}'"));
    browser.press("\u{e00c}");

    // Search looks through everything but the shots; width does not matter.
    for (words, expected) in [("１２３番", 1), ("例題その3", 0), ("答え77", 1), ("ＭＩＬＬ 299番", 1), ("無いもの", 0)] {
        browser.press("/");
        browser.eval(&format!(
            "(() => {{ const s = document.getElementById('search'); s.value = '{words}'; s.dispatchEvent(new Event('input')); }})()"
        ));
        browser.wait(&format!("document.getElementById('count').textContent.startsWith('{expected} of 300')"));
        browser.press("\u{e00c}");
        browser.wait("document.getElementById('count').dataset.listed === '300'");
    }
    only_the_page_itself(&browser, &page);
}

#[test]
fn documents_of_one_run_alone_are_listed_with_its_answers() {
    let Some(browser) = Browser::start() else { return };
    // The second run, which is chosen at first, lacks the last 270 documents.
    let (_folder, page) = written(&[made_up("one", 300, false), made_up("two", 30, true)]);
    browser.open(&page, "#jemhopqa/00299");
    browser.wait("document.querySelector('#document .head b')?.textContent === 'JEMHopQA / 00299'");
    let row = "[...document.querySelectorAll('#rows a')].find(a => a.textContent.startsWith('JEMHopQA / 00299'))";
    browser.wait(&format!("{row} !== undefined"));
    let told = browser.eval(&format!("[{row}.querySelector('.score').textContent, {row}.querySelector('.told i').textContent]"));
    let told: Vec<String> = serde_json::from_value(told).unwrap();
    assert!(!told.contains(&"–".to_owned()), "{told:?}");
    browser.choose("outcome", "none");
    browser.wait("document.getElementById('count').dataset.listed === '0'");
}

#[test]
fn text_of_a_model_stays_text() {
    let Some(browser) = Browser::start() else { return };
    let mut recorded = empty("run", INJECTIONS[0]);
    let mut outcomes = Vec::new();
    for text in INJECTIONS {
        add(&mut recorded, &mut outcomes, (INJECTIONS[4], text), text, text, text, text, 0.0);
    }
    let Subject { mut recorded, published } = finish(recorded, outcomes);
    recorded.scores.tasks[0].warnings = INJECTIONS.map(str::to_owned).to_vec();
    recorded.scores.tasks[0].departures = vec![INJECTIONS[5].into()];
    recorded.samples[1].failure = Some(INJECTIONS[2].into());
    let failed = RequestFailure { id: recorded.samples[1].request.clone(), message: INJECTIONS[2].into(), attempts: 3 };
    recorded.answers.responses.remove(&failed.id);
    recorded.answers.add(Err(failed));
    let (_folder, page) = written(&[Subject { recorded, published }]);
    let source = std::fs::read_to_string(&page).unwrap();
    for text in INJECTIONS.iter().filter(|text| text.contains('<') && text.contains("192.0.2.1") || text.contains("pwned")) {
        assert!(!source.contains(text) || !text.contains('<'), "{text} stands in the page as it is");
    }
    browser.open(&page, "");
    for (number, text) in INJECTIONS.iter().enumerate() {
        browser.eval(&format!("go({number})"));
        browser.wait(&format!("document.querySelector('#document .head b')?.textContent.endsWith(data.index.id[{number}])"));
        let shown = browser.eval("[...document.querySelectorAll('#document > div > pre')].map(pre => pre.textContent)[0]");
        assert_eq!(shown, *text, "shown as it is");
        let link = browser.eval("document.querySelector('#document .head nav a').getAttribute('href')");
        assert!(link.as_str().unwrap().starts_with('#'), "{link}");
    }
    assert_eq!(browser.eval("window.pwned ?? null"), Value::Null);
    let foreign = "document.querySelectorAll('iframe, img, form:not(#filters), #injected, base, link, meta[http-equiv=refresh], math, [onerror], [onload], [onmouseover]').length";
    assert_eq!(browser.eval(foreign), 0);
    assert_eq!(browser.eval("document.styleSheets.length"), 1);
    assert_ne!(browser.eval("getComputedStyle(document.body).display"), "none");
    only_the_page_itself(&browser, &page);
}

#[test]
fn thirty_thousand_documents_open_at_once() {
    let Some(browser) = Browser::start() else { return };
    let run = made_up("big", 30_000, false);
    let (_folder, page) = written(&[run]);
    let size = page.metadata().unwrap().len();
    browser.open(&page, "");
    let painted = browser.eval("Math.round(performance.getEntriesByName('first-contentful-paint')[0].startTime)");
    let ready = browser.eval("Math.round(performance.getEntriesByName('documents')[0].startTime)");
    let last = browser.eval("data.index.id.at(-1)");
    assert_eq!((listed(&browser), last), (30_000, Value::from("29999")));
    browser.eval("go(data.index.id.length - 1)");
    browser.wait("document.querySelector('#document .head b').textContent === 'JEMHopQA / 29999'");
    assert!(text_of(&browser, "#document > div > pre:last-of-type").contains("質問：29999番。"));
    browser.eval("(() => { const s = document.getElementById('search'); s.value = '29998番'; s.dispatchEvent(new Event('input')); })()");
    browser.wait("document.getElementById('count').textContent.startsWith('1 of 30,000')");
    eprintln!("a page of 30000 documents: {size} bytes, first table after {painted} ms, documents after {ready} ms");
    only_the_page_itself(&browser, &page);
}

#[test]
fn the_verb_writes_a_page_or_says_why_not() {
    let desk = Desk::new();
    desk.run("run --suite ja --demo --tasks jemhopqa -q");
    let runs = desk.folder.path().join("results/runs");
    let recorded = std::fs::read_dir(&runs).unwrap().next().unwrap().unwrap().path();
    std::fs::rename(recorded, runs.join("a")).unwrap();
    let said = desk.run("report a --format html --output page.html");
    assert_eq!((said.code, said.out.as_str()), (0, ""), "{}", said.err);
    let page = std::fs::read_to_string(desk.folder.path().join("page.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("DEMO:") && page.contains("JEMHopQA"));
    assert_eq!(desk.run("report a --format html").out, page, "a pipe gets the same");
    desk.run("report nothing --format html --output x.html").fails(2, &["nothing is not a run directory"]);
    desk.run("report a --format html --against GPT-9 --output x.html").fails(2, &["has no row \"GPT-9\""]);
    // Without samples there is still everything that was asked and answered.
    std::fs::remove_file(desk.folder.path().join("results/runs/a/samples.jsonl")).unwrap();
    assert_eq!(desk.run("report a --format html --output bare.html").code, 0);
}
