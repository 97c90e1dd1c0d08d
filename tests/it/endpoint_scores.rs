//! Log-likelihoods over servers that tell them in every way we know, over servers that lie about them, and over servers that fail.

use crate::endpoint::options;
use crate::support::faults::{Act, Asked, FaultServer};
use crate::support::hash_model::{HashModel, Lie, Voice, answer};
use crate::support::openai::Rules;
use crate::support::{generate, request, serve_all};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use swallow_eval::engine::endpoint::{Endpoint, EndpointOptions, PromptIds, Scoring};
use swallow_eval::engine::llama::encode::scored_pair;
use swallow_eval::engine::{
    Bos, ContinuationScore, Engine, Generate, LogLikelihood, ModelFacts, Outcome, Output, Request, RequestKind, TokenRules,
};
use swallow_eval::text::tokenizer::Tokenizer;

const VOICES: [(Voice, Scoring); 5] = [
    (Voice::PromptLogprobs, Scoring::PromptLogprobs),
    (Voice::Echo, Scoring::Echo),
    (Voice::Sglang, Scoring::SglangGenerate),
    (Voice::TopById, Scoring::TopLogprobs { most: 1000 }),
    (Voice::TopByText, Scoring::TopLogprobs { most: 5 }),
];

const BARE: TokenRules = TokenRules {
    bos: Bos::Never,
    end: swallow_eval::engine::EndTokens::Tokenizer,
    decode: swallow_eval::engine::Decode::AfterPrompt,
    cleanup: swallow_eval::engine::Cleanup::Off,
    truncation: None,
    form: swallow_eval::engine::AnswerForm::Text,
};

fn server(model: &Arc<HashModel>, voice: Voice, lie: Lie) -> FaultServer {
    let model = Arc::clone(model);
    FaultServer::start(move |asked| answer(&model, voice, lie, asked).unwrap_or(Act::Answer))
}

fn options_with(url: &str, tokenizer: Option<Arc<Tokenizer>>) -> EndpointOptions {
    EndpointOptions { facts: ModelFacts { tokenizer, ..ModelFacts::default() }, ..options(&[url]) }
}

fn connect(url: &str, model: &HashModel) -> Endpoint {
    Endpoint::connect(options_with(url, Some(Arc::clone(&model.tokenizer)))).unwrap()
}

fn ask(context: &str, continuations: &[&str]) -> Request {
    let continuations = continuations.iter().map(|c| (*c).to_owned()).collect();
    Request::new(RequestKind::LogLikelihood(LogLikelihood { context: context.into(), continuations, rules: BARE }))
}

/// What the model itself says.
fn expected(model: &HashModel, request: &Request) -> Vec<ContinuationScore> {
    let RequestKind::LogLikelihood(scored) = &request.kind else { panic!("{request:?}") };
    let one = |continuation: &String| {
        let (context, tokens) = scored_pair(&model.tokenizer, scored, continuation).unwrap();
        let own = model.score(&[&context[..], &tokens].concat())[context.len()..].to_vec();
        let own: Vec<(f64, bool)> = own.into_iter().flatten().collect();
        ContinuationScore {
            logprob: own.iter().map(|(v, _)| v).sum(),
            is_greedy: own.iter().all(|(_, best)| *best),
            tokens: tokens.len() as u32,
        }
    };
    scored.continuations.iter().map(one).collect()
}

fn scores(outcome: &Outcome) -> &[ContinuationScore] {
    match outcome.as_ref().map(|r| &r.output) {
        Ok(Output::LogLikelihoods { continuations }) => continuations,
        other => panic!("{other:?}"),
    }
}

fn assert_close(got: &[ContinuationScore], expected: &[ContinuationScore]) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got.logprob - expected.logprob).abs() < 1e-9, "{got:?} {expected:?}");
        assert_eq!((got.is_greedy, got.tokens), (expected.is_greedy, expected.tokens));
    }
}

/// Contexts that end in blanks, are empty or short; continuations of one token and of many.
fn requests() -> Vec<Request> {
    vec![
        ask("Question: Which country is Rome in?\nAnswer:", &[" Italy", " France, I think", " 日本"]),
        ask("質問：東京はどこですか？ \n", &["日本", "a b c"]),
        ask("", &["def f(x):", "x"]),
        ask("a ", &["b", " c"]),
    ]
}

#[test]
fn every_way_of_telling_gives_the_models_own_sums() {
    let model = Arc::new(HashModel::new());
    for (voice, scoring) in &VOICES[..3] {
        let server = server(&model, *voice, Lie::No);
        let mut endpoint = connect(&server.base_url, &model);
        let found = endpoint.capabilities().clone();
        assert_eq!((found.scoring, found.prompt_ids), (*scoring, PromptIds::AsGiven), "{:?}", found.scoring_missing);
        let requests = requests();
        assert!(requests.iter().all(|r| endpoint.refusal(r).is_none()));
        for (request, outcome) in requests.iter().zip(serve_all(&mut endpoint, &requests)) {
            assert_close(scores(&outcome), &expected(&model, request));
        }
    }
}

/// The best token after a context, and one that is not.
fn choices(model: &HashModel, context: &str) -> [String; 2] {
    let ids = model.tokenizer.encode(context, swallow_eval::text::tokenizer::Special::None).unwrap();
    let next = model.next(&ids);
    let mut order: Vec<usize> = (0..next.len()).collect();
    order.sort_by(|a, b| next[*b].total_cmp(&next[*a]));
    // A token that stays one token behind this context.
    let scored = |text: &str| LogLikelihood { context: context.into(), continuations: vec![text.into()], rules: BARE };
    let alone = |id: &usize| {
        let text = model.tokenizer.decode(&[*id as u32], swallow_eval::text::tokenizer::Specials::Keep);
        scored_pair(&model.tokenizer, &scored(&text), &text).is_ok_and(|(c, t)| c == ids && t == [*id as u32]).then_some(text)
    };
    let texts: Vec<String> = order.iter().filter_map(alone).collect();
    [texts[0].clone(), texts[texts.len() - 1].clone()]
}

#[test]
fn top_tokens_score_choices_of_one_token_and_nothing_else() {
    let model = Arc::new(HashModel::new());
    for (voice, scoring) in &VOICES[3..] {
        let server = server(&model, *voice, Lie::No);
        let mut endpoint = connect(&server.base_url, &model);
        assert_eq!(endpoint.capabilities().scoring, *scoring, "{:?}", endpoint.capabilities().scoring_missing);
        let refused = endpoint.refusal(&ask("a", &["b", "Italy and France"])).unwrap();
        assert!(refused.message.contains("\"Italy and France\" has") && refused.message.contains("single tokens"), "{}", refused.message);
        assert!(refused.hint.unwrap().contains("vLLM"));
        let [best, worst] = choices(&model, "Answer:");
        let (one, both) = (ask("Answer:", &[&best]), ask("Answer:", &[&best, &worst]));
        assert!(endpoint.refusal(&both).is_none());
        let outcomes = serve_all(&mut endpoint, &[one.clone(), both.clone()]);
        match voice {
            Voice::TopById if model.tokenizer.vocabulary() <= 1000 => assert_close(scores(&outcomes[1]), &expected(&model, &both)),
            // A choice beyond the tokens that are named has no value; it never becomes a small one.
            _ => {
                assert_close(scores(&outcomes[0]), &expected(&model, &one));
                let failure = outcomes[1].as_ref().unwrap_err();
                assert!(failure.message.contains("is not among the"), "{}", failure.message);
                assert_eq!(failure.attempts, 1);
            }
        }
    }
}

#[test]
fn liars_are_refused_with_what_gave_them_away() {
    let model = Arc::new(HashModel::new());
    for (lie, part) in [
        (Lie::Zeros, "differ: by up to"),
        (Lie::Late, "differ: by up to"),
        (Lie::Early, "differ: by up to"),
        (Lie::SilentBos, "the server adds a BOS to ids"),
        (Lie::CountedBos, "tokens, and"),
        (Lie::Rounds(0), "rounded to 0 decimals"),
        (Lie::Rounds(2), "rounded to 2 decimals"),
        (Lie::Rounds(4), "rounded to 4 decimals"),
    ] {
        for (voice, _) in &VOICES[..3] {
            refuses(&model, *voice, lie, part);
        }
    }
    for voice in [Voice::PromptLogprobs, Voice::Sglang] {
        refuses(&model, voice, Lie::OtherTokens, "sent");
    }
    for (lie, part) in [(Lie::Rounds(2), "rounded to 2 decimals"), (Lie::CountedBos, "tokens, and")] {
        refuses(&model, Voice::TopById, lie, part);
    }
}

fn refuses(model: &Arc<HashModel>, voice: Voice, lie: Lie, part: &str) {
    let server = server(model, voice, lie);
    let mut endpoint = connect(&server.base_url, model);
    let found = endpoint.capabilities();
    assert!(!matches!(found.scoring, Scoring::PromptLogprobs | Scoring::Echo | Scoring::SglangGenerate), "{voice:?} {lie:?} was believed");
    let asked = ask("Answer:", &[" Italy and France", " 7"]);
    let refused = endpoint.refusal(&asked).unwrap_or_else(|| panic!("{voice:?} {lie:?} is not refused"));
    assert!(refused.message.contains(part), "{voice:?} {lie:?}: {}", refused.message);
    assert!(refused.hint.unwrap().contains("vLLM (prompt_logprobs), SGLang (/generate)"));
    assert!(serve_all(&mut endpoint, &[asked])[0].is_err(), "what is refused is not answered");
}

/// D4 of the field's defects: a server that ignores `echo` gives every choice the log-likelihood 0, and accuracy is "the first choice".
#[test]
fn d4_a_server_that_ignores_echo_is_refused() {
    let model = Arc::new(HashModel::new());
    for (voice, part) in [
        (Voice::PromptLogprobs, "no prompt_logprobs"),
        (Voice::Echo, "token_logprobs has 1 entries"),
        (Voice::Sglang, "no input_token_logprobs"),
    ] {
        refuses(&model, voice, Lie::IgnoresEcho, part);
    }
}

#[test]
fn without_the_models_tokenizer_nothing_is_scored() {
    let model = Arc::new(HashModel::new());
    let server = server(&model, Voice::PromptLogprobs, Lie::No);
    let asked = ask("Answer:", &[" a"]);
    let endpoint = Endpoint::connect(options_with(&server.base_url, None)).unwrap();
    let refused = endpoint.refusal(&asked).unwrap();
    assert!(refused.message.contains("tokenizer") && refused.hint.unwrap().contains("--tokenizer"), "{}", refused.message);
    let letters = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": false}, "post_processor": null,
        "decoder": null, "model": {"type": "WordLevel", "vocab": {"a": 0, "?": 1}, "unk_token": "?"}});
    let foreign = Tokenizer::from_bytes(letters.to_string().as_bytes(), None, None).unwrap();
    let endpoint = Endpoint::connect(options_with(&server.base_url, Some(Arc::new(foreign)))).unwrap();
    let refused = endpoint.refusal(&asked).unwrap();
    assert!(refused.message.contains("it is not this model's"), "{}", refused.message);
}

/// A prompt without BOS goes out as token ids to a server that would put one before a text.
#[test]
fn a_prompt_without_bos_is_sent_as_token_ids() {
    let model = Arc::new(HashModel::new());
    let (seen, inner) = (Arc::new(Mutex::new(Vec::new())), Arc::clone(&model));
    let log = Arc::clone(&seen);
    let server = FaultServer::start(move |asked: &Asked| {
        log.lock().unwrap().push(asked.body["prompt"].clone());
        let mut asked =
            Asked { method: asked.method.clone(), path: asked.path.clone(), bytes: vec![], body: asked.body.clone(), head: String::new() };
        // This server does as it likes.
        asked.body.as_object_mut().unwrap().remove("add_special_tokens");
        match answer(&inner, Voice::Echo, Lie::No, &asked) {
            Some(act) => act,
            None => {
                let (status, body) = crate::support::faults::answer(&asked.path, &asked.body, &Rules::new("scripted"));
                Act::Say(status, "", body.to_string())
            }
        }
    });
    let bare = request(Generate { rules: BARE, ..generate("東京はどこですか。", 1) });
    let blind = Endpoint::connect(options_with(&server.base_url, None)).unwrap();
    assert!(blind.refusal(&bare).unwrap().hint.unwrap().contains("--tokenizer"));
    let mut endpoint = connect(&server.base_url, &model);
    assert!(endpoint.refusal(&bare).is_none());
    seen.lock().unwrap().clear();
    serve_all(&mut endpoint, std::slice::from_ref(&bare));
    let ids = model.tokenizer.encode("東京はどこですか。", swallow_eval::text::tokenizer::Special::None).unwrap();
    assert_eq!(*seen.lock().unwrap(), [json!(ids)]);
}

/// Every fifth request meets trouble, of each kind in turn: what is told in the end is what an untroubled server tells.
#[test]
fn two_thousand_requests_with_faults_lose_and_double_nothing() {
    let model = Arc::new(HashModel::new());
    let requests: Vec<Request> = (0..2000).map(|i| ask(&format!("{i}:"), &[" a"])).collect();
    let inner = Arc::clone(&model);
    let (mut tries, mut turn) = (BTreeMap::<String, u32>::new(), 0usize);
    let faulty = FaultServer::start(move |asked| {
        let honest = answer(&inner, Voice::PromptLogprobs, Lie::No, asked).unwrap_or(Act::Answer);
        let tried = tries.entry(asked.body.to_string()).or_default();
        *tried += 1;
        turn += 1;
        if tries.len() < 60 || *tries.get(&asked.body.to_string()).unwrap() > 4 || turn % 5 != 0 {
            honest
        } else {
            trouble(turn / 5, &honest)
        }
    });
    let mut endpoint = connect(&faulty.base_url, &model);
    assert_eq!(endpoint.capabilities().scoring, Scoring::PromptLogprobs, "{:?}", endpoint.capabilities().scoring_missing);
    let outcomes = serve_all(&mut endpoint, &requests);
    let ids: BTreeSet<&str> = outcomes.iter().map(crate::support::outcome_id).collect();
    assert_eq!(ids.len(), 2000);
    for (request, outcome) in requests.iter().zip(&outcomes) {
        assert_close(scores(outcome), &expected(&model, request));
    }
}

/// Trouble of the kind `which`, made from what would have been the answer.
fn trouble(which: usize, honest: &Act) -> Act {
    let Act::Say(_, _, body) = honest else { return Act::Close };
    let whole: Value = serde_json::from_str(body).unwrap();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut body = whole.clone();
        change(&mut body);
        Act::Say(200, "", body.to_string())
    };
    match which % 11 {
        0 => Act::Say(429, "", r#"{"error":{"message":"slow down"}}"#.into()),
        1 => Act::Say(429, "Retry-After: 0.002\r\n", String::new()),
        2 => Act::Say(500, "", "Internal Server Error".into()),
        3 => Act::Close,
        4 => Act::Bytes(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", body.len(), &body[..body.len() / 2])),
        5 => Act::Say(200, "", "<html>".into()),
        6 => changed(&|b| b["choices"] = json!([b["choices"][0], b["choices"][0]])),
        7 => changed(&|b| drop(b["choices"][0]["prompt_logprobs"].as_array_mut().unwrap().pop())),
        8 => changed(&|b| b["choices"][0]["prompt_logprobs"].as_array_mut().unwrap().rotate_left(1)),
        9 => changed(&|b| b["usage"]["prompt_tokens"] = json!(1)),
        _ => changed(&|b| b["choices"][0]["prompt_logprobs"] = Value::Null),
    }
}
