//! The in-process engine on real models: parity is certify's business (`certify.rs` replays every golden model); here is the proof that
//! certify sees each field of it, that company, limits and threads change no answer, and that broken models are refused by name.

use crate::contract;
use crate::support::{folder_of, generate, generated, request, serve_all};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use swallow_eval::certify::models;
use swallow_eval::engine::llama::batch::{Limits, Listener, TokenFinish, TokenOutput, TokenRequest};
use swallow_eval::engine::llama::plan::Sharing;
use swallow_eval::engine::llama::{Llama, LoadOptions, LogitType, weights::ModelFiles};
use swallow_eval::engine::{
    Decode, EndTokens, Engine, Finish, Generate, LogLikelihood, Note, Output, Request, RequestKind, Sampling, Stats, TokenRules, demo,
};

/// Our own micro model, with what transformers computes with it.
fn micro() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/micro-llama")
}

fn load(dir: &Path, limits: Limits, threads: Option<usize>) -> Llama {
    let options = LoadOptions { model: "test".into(), limits, threads, ..LoadOptions::default() };
    Llama::load(dir, &options).unwrap_or_else(|e| panic!("{e}"))
}

/// Answers in the order of the requests.
pub(crate) fn run(llama: &mut Llama, requests: &[TokenRequest]) -> (Vec<TokenOutput>, Stats) {
    let mut outputs = vec![None; requests.len()];
    let mut done = |index: usize, output| {
        assert!(outputs[index].replace(output).is_none(), "one answer for each request");
        ControlFlow::Continue(())
    };
    let stats = llama.run(requests, &mut Listener { stops: &|_, _| false, done: &mut done, go_on: &|| true }).unwrap();
    (outputs.into_iter().map(|o| o.expect("an answer for each request")).collect(), stats)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Changes a value by more than any tolerance and less than its type.
fn damage(value: &mut Value) {
    match value {
        Value::String(text) => text.push('x'),
        Value::Bool(flag) => *flag = !*flag,
        Value::Number(number) if number.is_f64() => *value = json!(number.as_f64().unwrap() + 0.5),
        Value::Number(number) => *value = json!(number.as_u64().unwrap() + 1),
        Value::Array(items) => damage(items.last_mut().unwrap()),
        other => panic!("no golden field is {other}"),
    }
}

/// Damages the fields in row `line` of a JSON-lines file, or at a pointer of a JSON file.
fn damage_fields(path: &Path, line: usize, pointers: &[&str]) {
    let text = fs::read_to_string(path).unwrap();
    let lines = path.extension().is_some_and(|e| e == "jsonl");
    let mut rows: Vec<Value> =
        if lines { text.lines().map(|l| serde_json::from_str(l).unwrap()).collect() } else { vec![serde_json::from_str(&text).unwrap()] };
    for pointer in pointers {
        damage(rows[line].pointer_mut(pointer).unwrap_or_else(|| panic!("{} has {pointer}", path.display())));
    }
    fs::write(path, rows.iter().map(|r| format!("{r}\n")).collect::<String>()).unwrap();
}

/// The compared fields of a model folder: file, row to damage, pointers. Field names are the pointers' parts, joined by dots.
const FIELDS: [(&str, usize, &[&str]); 7] = [
    ("tokenize.jsonl", 3, &["/ids_with_special", "/ids", "/decoded", "/decoded_skip_special", "/hf_decode_skip_special"]),
    ("chat.jsonl", 1, &["/rendered", "/ids"]),
    (
        "loglikelihood.jsonl",
        5,
        &[
            "/encoding",
            "/context_ids",
            "/continuation_ids",
            "/input_len_after_truncation",
            "/token_logprobs",
            "/logprob",
            "/is_greedy",
            "/greedy_ids",
            "/min_top2_gap",
        ],
    ),
    ("generate.jsonl", 2, &["/prompt_ids", "/eos_token_ids", "/output_ids", "/finish", "/text", "/min_top2_gap"]),
    ("stop.jsonl", 7, &["/text", "/stopped"]),
    ("sampling.jsonl", 2, &["/ids", "/support", "/top"]),
    (
        "summary.json",
        0,
        &[
            "/n/loglikelihood",
            "/n/generate",
            "/n/stop",
            "/n/sampling",
            "/n/chat",
            "/metrics/is_greedy_true",
            "/metrics/sum_logprob",
            "/metrics/min_top2_gap_generate",
            "/metrics/min_top2_gap_loglikelihood",
            "/metrics/generate_finish_eos",
            "/settings/rope_inv_freq",
            "/settings/max_length",
        ],
    ),
];

/// All fields at once: each golden value is compared with what the model computes and with nothing else of the golden, so every damage must
/// be reported once, and nothing besides.
#[test]
fn every_change_in_a_model_folder_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    copy(&micro(), dir.path());
    let golden = dir.path().join("golden");
    let mut expected = BTreeSet::new();
    for (file, line, pointers) in FIELDS {
        damage_fields(&golden.join(file), line, pointers);
        expected.extend(pointers.iter().map(|p| (format!("golden/{file}"), p[1..].replace('/', "."))));
    }
    damage_fields(&golden.join("logits_index.json"), 0, &["/3/argmax", "/4/logsumexp", "/5/nll_sum_of_ids_1.."]);
    expected.extend(["argmax", "logsumexp", "nll_sum_of_ids_1.."].map(|f| ("golden/logits_index.json".to_owned(), f.to_owned())));
    let tensors = golden.join("logits.safetensors");
    let mut bytes = fs::read(&tensors).unwrap();
    let at = bytes.len() - 4;
    let changed = f32::from_le_bytes(bytes[at..].try_into().unwrap()) + 0.5;
    bytes[at..].copy_from_slice(&changed.to_le_bytes());
    fs::write(&tensors, bytes).unwrap();
    expected.insert(("golden/logits.safetensors".into(), "logits".into()));

    let report = models::folder(dir.path()).unwrap();
    let compared: BTreeSet<String> = report.compared.keys().cloned().collect();
    let listed: BTreeSet<String> = expected.iter().map(|(file, field)| format!("{file} {field}")).collect();
    assert_eq!(compared, listed, "every compared field is in this test's list, and the reverse");
    assert_eq!(report.mismatches.len(), expected.len(), "{:#?}", report.mismatches);
    let found: BTreeSet<(String, String)> = report.mismatches.iter().map(|m| (m.file.clone(), m.field.clone())).collect();
    assert_eq!(found, expected);
}

#[test]
fn every_change_beside_the_models_is_seen() {
    let Some(golden) = folder_of("SWALLOW_EVAL_GOLDEN") else { return };
    let dir = tempfile::tempdir().unwrap();
    let from = golden.join("models");
    copy(&from.join("chat-templates"), &dir.path().join("chat-templates"));
    let mut folders = vec!["chat-templates".to_owned()];
    for model in ["tiny-llama31", "tiny-qwen2"] {
        fs::create_dir(dir.path().join(model)).unwrap();
        for file in ["config.json", "tokenizer_config.json"] {
            fs::copy(from.join(model).join(file), dir.path().join(model).join(file)).unwrap();
        }
        folders.push(model.to_owned());
    }
    let mut rope: Value = serde_json::from_slice(&fs::read(from.join("rope_golden.json")).unwrap()).unwrap();
    for (model, field) in
        [("llama-3.1-8b", "inv_freq"), ("llama-3.1-70b", "attention_scaling"), ("llama-3-8b", "cos"), ("llama-3.2-1b", "sin")]
    {
        damage(&mut rope[model][field]);
    }
    fs::write(dir.path().join("rope_golden.json"), rope.to_string()).unwrap();
    let template = dir.path().join("chat-templates/qwen25.jinja");
    let text = fs::read_to_string(&template).unwrap();
    fs::write(&template, text.replacen("system", "System", 1)).unwrap();
    let report = models::flat(dir.path(), &folders).unwrap();
    let found: BTreeSet<(&str, &str)> = report.mismatches.iter().map(|m| (m.row.as_str(), m.field.as_str())).collect();
    let expected = [
        ("llama-3.1-8b", "inv_freq"),
        ("llama-3.1-70b", "attention_scaling"),
        ("llama-3-8b", "cos"),
        ("llama-3.2-1b", "sin"),
        ("", "template"),
    ];
    assert_eq!(found, expected.into_iter().collect());
    assert_eq!(report.mismatches.len(), expected.len(), "{:#?}", report.mismatches);
}

#[test]
fn what_is_no_golden_of_a_model_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    copy(&micro(), dir.path());
    let said = |what: &str| {
        let error = models::folder(dir.path()).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    fs::write(dir.path().join("golden/logits_v2.safetensors"), "").unwrap();
    said("golden/logits_v2.safetensors is not a file of a golden folder of kind 'models'");
    fs::remove_file(dir.path().join("golden/logits_v2.safetensors")).unwrap();
    let chat = dir.path().join("golden/chat.jsonl");
    let text = fs::read_to_string(&chat).unwrap();
    fs::write(&chat, text.replacen("\"rendered\"", "\"rendering\"", 1)).unwrap();
    said("chat.jsonl, line 1: unknown field `rendering`");
    fs::remove_file(&chat).unwrap();
    said("chat.jsonl is missing");
}

#[test]
fn the_engine_contract() {
    contract::cases(&mut load(&micro(), Limits::default(), None));
    let files = ModelFiles::built_in(&demo::FILES).unwrap();
    let mut demo = Llama::from_files(&files, &LoadOptions { model: "demo".into(), ..LoadOptions::default() }).unwrap().named("demo");
    assert_eq!(demo.identity().short(), "demo-cpu-f32");
    contract::cases(&mut demo);
}

/// One row of `generate.jsonl`.
fn golden_generations() -> Vec<Value> {
    let text = fs::read_to_string(micro().join("golden/generate.jsonl")).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// Texts through [`Engine::serve`], stop strings among them: what transformers says, cut.
#[test]
fn served_texts_are_the_goldens() {
    let rules = TokenRules { end: EndTokens::GenerationConfig, decode: Decode::Alone, ..generate("", 1).rules };
    let ask = |prompt: &str, stop: &Value| {
        let stop = stop.as_array().into_iter().flatten().map(|s| s.as_str().unwrap().to_owned()).collect();
        request(Generate { stop, rules: rules.clone(), ..generate(prompt, 64) })
    };
    let goldens: BTreeMap<String, Value> = golden_generations()
        .into_iter()
        .filter(|g| !g["ignore_eos"].as_bool().unwrap())
        .map(|g| (g["id"].as_str().unwrap().to_owned(), g))
        .collect();
    let mut asked: Vec<(Request, &Value, Finish)> = Vec::new();
    for golden in goldens.values() {
        let finish = if golden["finish"] == "eos" { Finish::EndToken } else { Finish::Length };
        asked.push((ask(golden["prompt"].as_str().unwrap(), &Value::Null), &golden["text"], finish));
    }
    let stops = fs::read_to_string(micro().join("golden/stop.jsonl")).unwrap();
    let stops: Vec<Value> = stops.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    for row in &stops {
        let Some(golden) = goldens.get(row["gen_id"].as_str().unwrap()) else { continue };
        let unstopped = if golden["finish"] == "eos" { Finish::EndToken } else { Finish::Length };
        let finish = if row["stopped"].as_bool().unwrap() { Finish::Stop } else { unstopped };
        asked.push((ask(golden["prompt"].as_str().unwrap(), &row["stop"]), &row["text"], finish));
    }
    let requests: Vec<Request> = asked.iter().map(|(r, ..)| r.clone()).collect();
    let outcomes = serve_all(&mut load(&micro(), Limits::default(), None), &requests);
    for ((_, text, finish), outcome) in asked.iter().zip(&outcomes) {
        assert_eq!((&json!(generated(outcome).text), generated(outcome).finish), (*text, *finish));
    }
    assert!(asked.iter().any(|(.., f)| *f == Finish::Stop) && asked.iter().any(|(.., f)| *f == Finish::EndToken));
}

#[test]
fn notes_and_failures_of_single_requests() {
    let mut llama = load(&micro(), Limits::default(), None);
    let positions = llama.config().max_position_embeddings;
    let word = "選択肢：";
    let tokens = |text: &str| llama.tokenizer().encode(text, swallow_eval::text::tokenizer::Special::Add).unwrap().len();
    let per_word = tokens(&word.repeat(9)) - tokens(&word.repeat(8));
    let long = word.repeat(positions / per_word + 2);
    assert!(tokens(&long) > positions);
    let rules = generate("", 1).rules;
    let score = |context: &str, continuations: &[&str]| {
        let continuations = continuations.iter().map(|c| (*c).to_owned()).collect();
        Request::new(RequestKind::LogLikelihood(LogLikelihood { context: context.into(), continuations, rules: rules.clone() }))
    };
    let requests = [request(generate(&long, 2)), request(generate(word, 2)), score(word, &["A", ""]), score(word, &[]), score("", &["A"])];
    let outcomes = serve_all(&mut llama, &requests);
    assert!(generated(&outcomes[0]).notes.contains(&Note::BeyondContext), "{:?}", outcomes[0]);
    assert!(!generated(&outcomes[1]).notes.contains(&Note::BeyondContext), "{:?}", outcomes[1]);
    let failure = outcomes[2].as_ref().unwrap_err();
    assert!(failure.message.contains("continuation \"\" has no token"), "{}", failure.message);
    let counts = |outcome: usize| match outcomes[outcome].as_ref().map(|r| &r.output) {
        Ok(Output::LogLikelihoods { continuations }) => continuations.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!((counts(3), counts(4)), (0, 1));
}

/// A request set in which prompts share beginnings of lengths around the borders of pages.
fn request_sets() -> impl Strategy<Value = Vec<TokenRequest>> {
    let lengths = prop::sample::select(vec![1usize, 2, 30, 31, 32, 33, 63, 64, 65]);
    let prompt = (0..3u32, lengths, prop::collection::vec(0..448u32, 0..4)).prop_map(|(root, shared, own)| {
        // Three long texts, of which every prompt begins with one; some go on by themselves.
        let shared = (0..shared as u32).map(|i| (root * 131 + i * i * 7 + i * 29) % 448);
        shared.chain(own).collect::<Vec<u32>>()
    });
    let sampling = prop::sample::select(vec![(0.0, 1.0), (0.0, 1.3), (1.0, 1.0), (0.7, 1.2)]);
    let one = (prompt, 1..12usize, sampling, prop::collection::vec(0..448u32, 1..5), any::<bool>(), 0..2u32, any::<u64>());
    let one = one.prop_map(|(prompt, max_new, (temperature, repetition_penalty), continuation, scored, sample, seed)| {
        if scored {
            return TokenRequest::Score { context: prompt, continuation };
        }
        let sampling = Sampling { temperature, repetition_penalty, top_k: 20, top_p: 0.9, seed };
        TokenRequest::Generate { prompt, max_new, end: vec![7, 445, 447], sampling, sample }
    });
    prop::collection::vec(one, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Company, the size of a step, how many generations run at once and the number of threads change no answer. Every run also checks
    /// that it gives all pages back (`batch::run`).
    #[test]
    fn company_changes_no_answer(requests in request_sets(), rows in 1..80usize, live in 1..6usize, threads in 1..4usize) {
        let mut plain = load(&micro(), Limits::default(), Some(1));
        let mut other = load(&micro(), Limits { rows, live, ..Limits::default() }, Some(threads));
        let (together, stats) = run(&mut plain, &requests);
        let mut nothing_shared = load(&micro(), Limits { sharing: Sharing::Nothing, ..Limits::default() }, Some(2));
        let (apart, stats_apart) = run(&mut nothing_shared, &requests);
        prop_assert_eq!((stats_apart.prefill_tokens, stats_apart.shared_tokens), (stats.prefill_tokens + stats.shared_tokens, 0));
        let (small_steps, other_stats) = run(&mut other, &requests);
        prop_assert_eq!((stats.prefill_tokens, stats.shared_tokens), (other_stats.prefill_tokens, other_stats.shared_tokens));
        let mut computed = 0;
        for (index, request) in requests.iter().enumerate() {
            let (alone, stats) = run(&mut other, std::slice::from_ref(request));
            prop_assert_eq!(stats.shared_tokens, 0);
            computed += stats.prefill_tokens;
            // To the last bit: no near tie, draw or log-likelihood depends on company.
            prop_assert_eq!(&alone[0], &together[index]);
            prop_assert_eq!(&alone[0], &small_steps[index]);
            prop_assert_eq!(&alone[0], &apart[index]);
        }
        prop_assert_eq!(computed, stats.prefill_tokens + stats.shared_tokens, "what is shared is what others would compute again");
    }
}

/// Two questions of a multiple choice behind the same shots: what they share is computed once, and a choice of one token costs no input and
/// one row of logits together with the others of its question.
#[test]
fn choices_share_their_question_and_questions_their_shots() {
    let ids = |from: u32, n: u32| (from..from + n).map(|i| i * 7 % 448).collect::<Vec<u32>>();
    let question = |own: u32| [ids(0, 100), ids(own, 20)].concat();
    let choices = |own: u32, choices: &[&[u32]]| -> Vec<TokenRequest> {
        choices.iter().map(|c| TokenRequest::Score { context: question(own), continuation: c.to_vec() }).collect()
    };
    let mut llama = load(&micro(), Limits::default(), None);
    let letters: Vec<TokenRequest> = [choices(200, &[&[1], &[2], &[3], &[4]]), choices(300, &[&[1], &[2], &[3], &[4]])].concat();
    let (_, stats) = run(&mut llama, &letters);
    assert_eq!((stats.prefill_tokens, stats.shared_tokens, stats.logit_rows), (100 + 20 + 20, 8 * 120 - 140, 2));
    // Longer choices: the last token is no input, and the first row is one for all.
    let (_, stats) = run(&mut llama, &choices(200, &[&[1, 5, 6], &[2, 5], &[1, 5, 7]]));
    assert_eq!((stats.prefill_tokens, stats.logit_rows), (120 + 2 + 1, 1 + 2 + 1));
    // A generation and a continuation after the same prompt.
    let generate = TokenRequest::Generate { prompt: question(200), max_new: 1, end: vec![], sampling: Sampling::GREEDY, sample: 0 };
    let (_, stats) = run(&mut llama, &[vec![generate], choices(200, &[&[1, 2]])].concat());
    assert_eq!((stats.prefill_tokens, stats.shared_tokens, stats.logit_rows), (121, 120, 2));
}

#[test]
fn a_run_can_end_at_any_answer() {
    let requests: Vec<TokenRequest> = (0..20u32)
        .map(|i| TokenRequest::Generate {
            prompt: (0..40 + i % 3).map(|t| t * 11 % 448).chain([i]).collect(),
            max_new: 1 + i as usize % 5,
            end: Vec::new(),
            sampling: Sampling::GREEDY,
            sample: 0,
        })
        .collect();
    let mut llama = load(&micro(), Limits { rows: 48, live: 4, ..Limits::default() }, None);
    for wanted in 1..20 {
        let mut answered = 0;
        let mut done = |_, output| {
            assert!(matches!(output, TokenOutput::Generated { finish: TokenFinish::Length, .. }));
            answered += 1;
            if answered == wanted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        // With pages left over, this run would panic in a debug build.
        llama.run(&requests, &mut Listener { stops: &|_, _| false, done: &mut done, go_on: &|| true }).unwrap();
        assert_eq!(answered, wanted);
    }
}

/// A real trained checkpoint. It has no tokenizer at hand, so it is asked in ids and carries another model's.
#[test]
fn stories260k_continues_as_transformers_does() {
    let Some(data) = folder_of("SWALLOW_EVAL_DATA") else { return };
    let hf = data.join("stories260K/hf");
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        fs::copy(hf.join(file), dir.path().join(file)).unwrap();
    }
    fs::copy(micro().join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let mut llama = load(dir.path(), Limits::default(), None);
    let goldens: Vec<Value> = serde_json::from_slice(&fs::read(hf.join("golden_generate.json")).unwrap()).unwrap();
    let ids = |value: &Value| -> Vec<u32> { value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect() };
    let requests: Vec<TokenRequest> = goldens
        .iter()
        .map(|golden| TokenRequest::Generate {
            prompt: ids(&golden["prompt_ids"]),
            max_new: golden["max_new_tokens"].as_u64().unwrap() as usize,
            end: ids(&golden["stop_token_ids"]),
            sampling: Sampling::GREEDY,
            sample: 0,
        })
        .collect();
    assert!(!requests.is_empty());
    for (output, golden) in run(&mut llama, &requests).0.iter().zip(&goldens) {
        let TokenOutput::Generated { tokens, .. } = output else { panic!("{output:?}") };
        assert_eq!(*tokens, ids(&golden["output_ids"]));
    }
}

/// Breaks one file of the micro model, and gives what loading says about it.
fn broken(change: impl Fn(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    copy(&micro(), dir.path());
    change(dir.path());
    let options = LoadOptions { model: "broken".into(), ..LoadOptions::default() };
    Llama::load(dir.path(), &options).err().expect("a broken model does not load").message
}

fn set(dir: &Path, file: &str, field: &str, value: Value) {
    let mut object: Value = serde_json::from_slice(&fs::read(dir.join(file)).unwrap()).unwrap();
    object[field] = value;
    fs::write(dir.join(file), object.to_string()).unwrap();
}

fn cut(path: &Path, len: usize) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..len.min(bytes.len())]).unwrap();
}

#[test]
fn broken_models_are_refused_by_name() {
    type Change = Box<dyn Fn(&Path)>;
    let config = |field: &'static str, value: Value| -> Change { Box::new(move |d| set(d, "config.json", field, value.clone())) };
    let cut_at = |len: usize| -> Change { Box::new(move |d| cut(&d.join("model.safetensors"), len)) };
    let remove = |file: &'static str| -> Change { Box::new(move |d| fs::remove_file(d.join(file)).unwrap()) };
    let write = |file: &'static str, text: &'static str| -> Change { Box::new(move |d| fs::write(d.join(file), text).unwrap()) };
    let cases: Vec<(Change, &[&str])> = vec![
        (cut_at(0), &["model.safetensors is not a whole safetensors file", "(0 bytes)"]),
        (cut_at(7), &["model.safetensors is not a whole safetensors file"]),
        (cut_at(100_000), &["model.safetensors is not a whole safetensors file", "(100000 bytes)"]),
        (remove("config.json"), &["config.json is missing"]),
        (remove("tokenizer.json"), &["tokenizer.json is missing"]),
        (remove("model.safetensors"), &["model.safetensors.index.json is missing"]),
        (write("config.json", "{"), &["config.json is not valid"]),
        (write("generation_config.json", "{"), &["generation_config.json is not valid"]),
        (write("tokenizer.json", "{}"), &["tokenizer.json is not valid"]),
        (write("tokenizer_config.json", "["), &["tokenizer_config.json is not valid"]),
        (config("architectures", json!(["MistralForCausalLM"])), &["architectures is MistralForCausalLM", "LlamaForCausalLM"]),
        (config("vocab_size", json!(300)), &["token ids up to 447", "only 300"]),
        (config("num_hidden_layers", json!(99)), &["tensor model.layers.", "is missing in", "model.safetensors"]),
        (config("intermediate_size", json!(16)), &["model.safetensors: tensor model.layers.0.mlp.", "has shape"]),
        (config("hidden_size", json!(usize::MAX)), &["hidden_size is 18446744073709551615"]),
        (config("layer_types", json!(["sliding_attention"])), &["layer_types", "sliding_attention"]),
        (config("rope_scaling", json!({"rope_type": "yarn"})), &["rope_scaling.rope_type is yarn"]),
    ];
    for (change, expected) in cases {
        let message = broken(change);
        assert!(message.starts_with("model ") || message.contains("is missing"), "{message}");
        for part in expected {
            assert!(message.contains(part), "{part:?} in {message:?}");
        }
    }
}

#[test]
fn weights_that_are_no_numbers_end_the_run() {
    let dir = tempfile::tempdir().unwrap();
    copy(&micro(), dir.path());
    let path = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[header..].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let mut llama = load(dir.path(), Limits::default(), None);
    let error = llama.logits(&[1, 2], &[1]).unwrap_err().message;
    assert!(error.contains("not a number"), "{error}");
}

#[test]
fn what_a_build_cannot_do_is_said() {
    // No machine has a hundredth GPU.
    let gpu = if cfg!(feature = "cuda") { "device cuda:99 cannot be used" } else { "this build has no CUDA support" };
    for (options, expected) in [
        (LoadOptions { device: Some("cuda:99".into()), ..LoadOptions::default() }, gpu),
        (LoadOptions { device: Some("tpu".into()), ..LoadOptions::default() }, "unknown device \"tpu\""),
        (LoadOptions { dtype: Some("int8".into()), ..LoadOptions::default() }, "unknown data type \"int8\""),
    ] {
        let error = Llama::load(&micro(), &options).err().expect("refused");
        assert!(error.message.contains(expected) && error.hint.is_some(), "{error:?}");
    }
    let load = |logits| Llama::load(&micro(), &LoadOptions { dtype: Some("bf16".into()), logits, ..LoadOptions::default() }).unwrap();
    for (logits, dtype, rounded) in
        [(LogitType::AsWeights, "f32(bf16-weights-and-logits)", true), (LogitType::F32, "f32(bf16-weights)", false)]
    {
        let mut llama = load(logits);
        assert_eq!(llama.identity().dtype.as_deref(), Some(dtype));
        let row = llama.logits(&[1, 2, 3], &[2]).unwrap().remove(0);
        assert_eq!(row.iter().all(|logit| logit.to_bits() & 0xffff == 0), rounded, "bf16 has the upper half of the bits");
    }
}
