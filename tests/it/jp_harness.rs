//! The tasks of the JP harness through the built binary, and a run that others published.

use crate::support::{
    desk::Desk,
    faults::{Act, FaultServer},
    folder_of, generate, generated,
    openai::{EngineServer, Rules},
    request, serve_all,
};
use serde_json::{Value, json};
use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};
use swallow_eval::answer::{self, Answer};
use swallow_eval::dataset::{manifest::Manifest, store::Store};
use swallow_eval::engine::demo::FILES;
use swallow_eval::engine::llama::{
    Llama, LoadOptions,
    batch::{Listener, TokenOutput, TokenRequest},
    weights::ModelFiles,
};
use swallow_eval::engine::{Bos, Decode, EndTokens, Engine, ModelFacts, Sampling, TokenRules, Truncation};
use swallow_eval::metric::{Evidence, Resources, by_name};
use swallow_eval::prompt::{fewshot, requests};
use swallow_eval::task::load;
use swallow_eval::text::tokenizer::Special;

/// The one run below an output directory.
fn run_of(desk: &Desk, output: &str) -> PathBuf {
    fs::read_dir(desk.folder.path().join(output).join("runs")).unwrap().next().unwrap().unwrap().path()
}

fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// text-davinci-002's run, published by Stability AI: its prompts, its extractions, its accuracy.
#[test]
fn the_published_mgsm_run_is_reproduced() {
    let Some(data) = folder_of("SWALLOW_EVAL_DATA") else { return };
    let text = fs::read_to_string(data.join("mgsm-published-runs/text-davinci-002.result.mgsm.json")).unwrap();
    let published: Value = serde_json::from_str(&text).unwrap();
    let published = &published["results"]["mgsm-1.0-0.0"];
    let details = published["details"].as_array().unwrap();
    let tasks = load::embedded().unwrap();
    let task = load::find(&tasks, "mgsm").unwrap();
    let (store, manifest) = (Store::mirror_only(&data), Manifest::builtin("mgsm").unwrap());
    let sets = fewshot::splits(task).iter().map(|s| task.documents(s, store.records(&manifest, s).unwrap()).unwrap()).collect();
    let facts = ModelFacts::default();
    let drawn = fewshot::draw(task, sets, 4, &facts).unwrap();
    assert_eq!((drawn.documents.len(), details.len()), (250, 250));
    let metric = by_name("exact_match").unwrap();
    let mut scores = Vec::new();
    for ((document, shots), detail) in drawn.documents.iter().zip(&drawn.shots).zip(details) {
        assert_eq!(requests::prompt(task, document, shots, &facts).unwrap(), detail["context"].as_str().unwrap(), "{}", document.id);
        let completion = detail["completion"].as_str().unwrap();
        let text = answer::cleaned_and_cut(completion, task.file.request.cleanup, &task.file.request.stop);
        let Answer::Text(answer) = answer::extract(task, &text);
        let expected = match &detail["extracted_answer"] {
            Value::String(text) => text.clone(),
            number => number.to_string(),
        };
        assert_eq!(answer, expected, "{}: {completion:?}", document.id);
        scores.push(metric.score(&Resources::default(), &answer::reference(task, document), &[Evidence::Text(answer)]));
    }
    assert_eq!(metric.aggregate(&scores), published["acc"].as_f64());
}

/// The demo model as a directory; the XL-Sum task over invented news, as a task file of one's own.
fn desk() -> Option<(Desk, PathBuf)> {
    let data = folder_of("SWALLOW_EVAL_DATA")?.canonicalize().unwrap();
    let desk = Desk::new().env("SWALLOW_EVAL_DATA", data);
    let model = desk.folder.path().join("model");
    fs::create_dir(&model).unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine/demo");
    for name in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(from.join(name), model.join(name)).unwrap();
    }
    let own = desk.run("tasks show xlsum_ja").out.replace("dataset  = \"xlsum_ja\"", "dataset  = \"xlsum-synthetic\"");
    fs::create_dir(desk.folder.path().join("mine")).unwrap();
    fs::write(desk.folder.path().join("mine/invented.toml"), own.replace("aliases  = [\"xlsum_ja\"]", "aliases  = []")).unwrap();
    Some((desk, model))
}

const FOUR: &str = "run --suite ja --tasks invented,mgsm,wmt20-en-ja,wmt20-ja-en --include-path mine --quiet";

/// Scores by task and document.
fn scores(run: &Path) -> Vec<(String, String, Value, Value)> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    rows(&run.join("samples.jsonl"))
        .iter()
        .map(|s| (text(&s["task"]), text(&s["doc_id"]), s["answer"].clone(), s["scores"].clone()))
        .collect()
}

#[test]
fn the_four_tasks_give_the_same_scores_in_process_and_over_an_endpoint() {
    let Some((desk, model)) = desk() else { return };
    let said = desk.run(&format!("{FOUR} --limit 2 --model model --output own"));
    assert_eq!(said.code, 0, "{}", said.err);
    let own = run_of(&desk, "own");
    let before = fs::read_to_string(own.join("scores.json")).unwrap();
    // The run keeps the tokenizer that ROUGE needs: the model may be gone when it is scored again.
    let load = move || -> Box<dyn Engine> {
        Box::new(Llama::load(&model, &LoadOptions { model: "tiny".into(), ..LoadOptions::default() }).unwrap())
    };
    let rules = TokenRules { end: EndTokens::GenerationConfig, decode: Decode::Alone, ..TokenRules::default() };
    let server = EngineServer::start(load, Rules { token_rules: rules, ..Rules::new("tiny") });
    let line = format!("{FOUR} --limit 2 --base-url {} --model tiny", server.base_url);
    let served = desk.run(&format!("{line} --tokenizer model --output served"));
    assert_eq!(served.code, 0, "{}", served.err);
    assert_eq!(scores(&own), scores(&run_of(&desk, "served")));
    assert_eq!(scores(&own).len(), 8);
    assert!(said.out.contains("±95 % is that of the mean itself"), "{}", said.out);
    assert!(!served.out.contains("fit:assumed"), "{}", served.out);
    let untold = desk.run(&format!("run --suite ja --tasks mgsm --quiet --limit 1 --base-url {} --model tiny", server.base_url));
    assert!(untold.code == 0 && untold.out.contains("|fit:assumed|"), "{} {}", untold.out, untold.err);
    desk.run(&format!("{line} --output none")).fails(5, &["task 'invented'", "own tokens", "--tokenizer"]);
    // A vocabulary that lacks its unknown token: texts are refused, not counted as empty.
    let words = json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<unk>"});
    let refusing = desk.folder.path().join("refusing");
    fs::create_dir(&refusing).unwrap();
    fs::write(refusing.join("tokenizer.json"), json!({"version": "1.0", "model": words}).to_string()).unwrap();
    desk.run(&format!("{line} --tokenizer refusing --output none")).fails(5, &["task 'invented'", "cannot encode every text", "hint: "]);

    fs::remove_dir_all(desk.folder.path().join("model")).unwrap();
    let again = desk.run(&format!("score {} --include-path mine", own.display()));
    assert_eq!((again.code, fs::read_to_string(own.join("scores.json")).unwrap()), (0, before), "{}", again.err);
}

/// A window so small that articles are cut, prompts lose their beginning and answers their first tokens.
#[test]
fn lost_tokens_are_a_choice_and_stand_in_the_signature() {
    let Some((desk, model)) = desk() else { return };
    let config = model.join("config.json");
    let mut small: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    small["max_position_embeddings"] = 400.into();
    fs::write(&config, small.to_string()).unwrap();
    let line = "run --suite ja --tasks invented --include-path mine --quiet --model model";
    for (defects, output) in [("faithful", "faithful"), ("clean", "clean")] {
        let said = desk.run(&format!("{line} --defects {defects} --output {output}"));
        assert_eq!(said.code, 0, "{}", said.err);
        assert!(said.out.contains(&format!("|defects:{defects}|")), "{}", said.out);
    }
    // The neighbours that are asked too are no documents: what the set asks is the same.
    let digests = |defects: &str| {
        let said = desk.run(&format!("{line} --defects {defects} --dry-run"));
        assert_eq!(said.code, 0, "{}", said.err);
        said.out.lines().filter(|l| l.contains("sha256")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(digests("faithful"), digests("clean"));
    assert_eq!(digests("clean").len(), 2);
    let asked = rows(&run_of(&desk, "faithful").join("requests.jsonl"));
    let hit: Vec<&Value> = asked.iter().filter(|r| r["lost_tokens"].as_u64().is_some()).collect();
    assert!(!hit.is_empty() && hit.iter().all(|r| r["stop"] == Value::Array(vec![])), "{hit:?}");
    assert_ne!(scores(&run_of(&desk, "faithful")), scores(&run_of(&desk, "clean")));
    // A partial run asks the neighbours too, and reads the same.
    let said = desk.run(&format!("{line} --limit 5 --output part"));
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(scores(&run_of(&desk, "part")), scores(&run_of(&desk, "faithful"))[..5]);
}

/// Nothing said is an answer, and a wrong one: numbers, not holes.
#[test]
fn a_model_that_says_nothing_has_scores_of_nothing() {
    let Some((desk, _)) = desk() else { return };
    let silent = json!({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}).to_string();
    // The probe's own questions are short, and answered.
    let server = FaultServer::start(move |asked| match &asked.body["prompt"] {
        Value::String(prompt) if prompt.chars().count() > 60 => Act::Say(200, "", silent.clone()),
        Value::Array(ids) if ids.len() > 60 => Act::Say(200, "", silent.clone()),
        _ => Act::Answer,
    });
    let said = desk.run(&format!("{FOUR} --limit 3 --base-url {} --model scripted --tokenizer model --defects clean", server.base_url));
    assert_eq!(said.code, 0, "{}", said.err);
    let run = run_of(&desk, "results");
    let scores: Value = serde_json::from_str(&fs::read_to_string(run.join("scores.json")).unwrap()).unwrap();
    let asked: Vec<&Value> = scores["tasks"].as_array().unwrap().iter().filter(|task| task["n"] != 0).collect();
    assert_eq!(asked.len(), 4);
    assert!(asked.iter().all(|task| task["value"] == 0.0 && task["failed"] == 0 && task["n"] == 3), "{scores}");
}

/// An article that holds the words it would be cut at cannot be cut as upstream cuts, which dies of it.
#[test]
fn an_article_with_the_marker_in_it_is_named() {
    let Some((desk, model)) = desk() else { return };
    let file = desk.folder.path().join("mine/invented.toml");
    let own = fs::read_to_string(&file).unwrap();
    fs::write(&file, own.replacen("ニュース記事:{{ text", "ニュース記事:要約:{{ text", 1)).unwrap();
    let config = model.join("config.json");
    let mut small: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    small["max_position_embeddings"] = 400.into();
    fs::write(&config, small.to_string()).unwrap();
    let said = desk.run("run --suite ja --tasks invented --include-path mine --quiet --model model");
    said.fails(4, &["task 'invented'", "document ", "there must be one \"要約:\", not 2"]);
}

#[test]
fn what_cannot_be_asked_or_scored_is_said_before_the_first_request() {
    let Some((desk, _)) = desk() else { return };
    let mirror = desk.folder.path().join("mirror");
    fs::create_dir_all(mirror.join("mgsm")).unwrap();
    fs::write(mirror.join("mgsm/mgsm_ja.tsv"), "問題\t1\t2\n").unwrap();
    let desk = desk.env("SWALLOW_EVAL_DATA", mirror.as_os_str());
    desk.run("run --suite ja --tasks mgsm --model model --offline").fails(4, &["mgsm_ja.tsv", "81043 bytes is expected"]);
    desk.run("run --suite ja --tasks wmt20-en-ja --model model --offline").fails(4, &["newstest2020", "hint: "]);
    desk.run("run --suite ja --tasks xlsum_ja --model model --offline").fails(4, &["xlsum_ja/train.parquet", "hint: "]);
}

/// `add_special_tokens=False`, then the last tokens that leave room for the answer: the engine must go on from exactly those.
#[test]
fn a_long_prompt_loses_its_first_tokens() {
    let files = ModelFiles::built_in(&FILES).unwrap();
    let mut engine = Llama::from_files(&files, &LoadOptions { model: "demo".into(), ..LoadOptions::default() }).unwrap();
    let mut asked = generate(&"図書館は来月から夜も開く。".repeat(20), 8);
    asked.rules = TokenRules { bos: Bos::Never, truncation: Some(Truncation { max_length: 40 }), ..TokenRules::default() };
    let ids = engine.tokenizer().encode(&asked.prompt, Special::None).unwrap();
    let last = ids[ids.len() - 32..].to_vec();
    let end = vec![engine.tokenizer().eos_id().unwrap()];
    let expected = TokenRequest::Generate { prompt: last, max_new: 8, end, sampling: Sampling::GREEDY, sample: 0 };
    let mut tokens = Vec::new();
    let mut done = |_, output| {
        tokens.push(output);
        ControlFlow::Continue(())
    };
    engine.run(&[expected], &mut Listener { stops: &|_, _| false, done: &mut done, go_on: &|| true }).unwrap();
    let outcomes = serve_all(&mut engine, &[request(asked)]);
    let answer = generated(&outcomes[0]);
    assert_eq!(answer.prompt_tokens, Some(32));
    let Some(TokenOutput::Generated { tokens, .. }) = tokens.pop() else { panic!("a generation") };
    assert_eq!(answer.token_ids.as_ref(), Some(&tokens));
}
