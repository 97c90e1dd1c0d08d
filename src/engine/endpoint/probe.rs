//! What a server can do, found out by asking it: a status of 200 proves nothing, so every answer is looked at.
//!
//! Only what generation needs. Nothing here is a guess from a version number, but the names of fields and the service routes that tell
//! the kinds of servers apart.

use super::balance::Pool;
use super::capabilities::{
    Capabilities, Choices, Defaults, Effect, ModelName, PromptIds, Repeatable, Scoring, ServerKind, SpecialTokens, StopText,
};
use super::http::{Class, Fault, Server};
use super::retry::Again;
use super::score_probe::ScoreProbe;
use super::{EndpointOptions, serve, wire};
use crate::engine::{EngineError, Generate, Sampling, TokenRules};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// A prompt that any language model continues with something.
const PROMPT: &str = "Question: Which country is Oslo in?\nAnswer: Norway";
/// Enough new tokens for two different samples to differ.
const TOKENS: u32 = 16;
/// Hot enough that a sample is rarely the greedy text; vLLM and OpenAI refuse more than 2.
const HOT: f64 = 1.5;
/// Numbers of stop strings to try: SGLang takes 32, newer vLLM, OpenAI and TGI 4.
const STOPS: [usize; 5] = [33, 8, 5, 4, 1];
/// Largest `n` to send where the server states no limit of its own.
const MAX_CHOICES: u32 = 32;
/// A probe waits no longer than this for one answer.
const LIMIT: Duration = Duration::from_secs(120);
/// Service routes answer at once or are of no interest.
const SERVICE_LIMIT: Duration = Duration::from_secs(20);
/// Attempts after the first, for answers that are worth asking again.
const RETRIES: u32 = 2;

/// Probes all servers at once; the result is what all of them can do.
pub(super) async fn all(pool: &Arc<Pool>, options: &EndpointOptions) -> Result<Capabilities, EngineError> {
    let mut probes = JoinSet::new();
    for index in 0..pool.servers().len() {
        let (pool, options) = (Arc::clone(pool), options.clone());
        probes.spawn(async move { (index, Probe { server: &pool.servers()[index], options: &options }.run().await) });
    }
    let mut found = probes.join_all().await;
    found.sort_by_key(|(index, _)| *index);
    let mut common: Option<Capabilities> = None;
    for (index, one) in found {
        let one = one?;
        common = Some(match common {
            None => one,
            Some(sofar) => sofar.weakest(one).map_err(|field| {
                let (first, this) = (&pool.servers()[0].base, &pool.servers()[index].base);
                EngineError::with_hint(
                    format!("{first} and {this} differ in {field}: they are not copies of one engine"),
                    "give base URLs of equal servers only",
                )
            })?,
        });
    }
    common.ok_or_else(|| EngineError::new("no base URL given"))
}

/// Limit of one probing attempt.
pub(super) fn limit(options: &EndpointOptions) -> Duration {
    options.timeout.min(LIMIT)
}

/// A body that the server answered when it was probed.
pub(super) fn plain(model: &str, capabilities: &Capabilities) -> Value {
    wire::body(model, &Generate { max_new_tokens: 1, ..greedy() }, 1, capabilities)
}

/// A fault that ends everything, with what can be done about it.
pub(super) fn engine_error(fault: &Fault) -> EngineError {
    let hint = match fault.class {
        Class::Unreachable => "is the server running, and is the base URL right?",
        Class::Denied => "check the API key (OPENAI_API_KEY)",
        Class::Quota => "the account behind the API key is used up",
        Class::Missing => "check the base URL and the model name",
        Class::TimedOut | Class::Interrupted | Class::Broken | Class::Busy => "look at the server's log, then try again",
        Class::Garbage | Class::Refused => "is this the base URL of an OpenAI-compatible server (http://host:8000/v1)?",
    };
    EngineError::with_hint(fault.message.clone(), hint)
}

fn greedy() -> Generate {
    Generate {
        prompt: PROMPT.to_owned(),
        sample: 0,
        max_new_tokens: TOKENS,
        stop: vec![],
        enough: vec![],
        sampling: Sampling::GREEDY,
        rules: TokenRules::default(),
    }
}

fn sampled(seed: u64) -> Generate {
    Generate { sampling: Sampling { temperature: HOT, seed, ..Sampling::GREEDY }, ..greedy() }
}

/// What a server says about itself.
#[derive(Default)]
pub(super) struct About {
    pub(super) kind: Option<ServerKind>,
    version: Option<String>,
    pub(super) listed: Vec<String>,
    pub(super) max_model_len: Option<u32>,
    slots: Option<u32>,
}

struct Probe<'a> {
    server: &'a Server,
    options: &'a EndpointOptions,
}

impl Probe<'_> {
    async fn run(&self) -> Result<Capabilities, EngineError> {
        let about = self.about().await?;
        let mut found = Capabilities {
            kind: about.kind.unwrap_or(ServerKind::Other),
            version: about.version.clone(),
            model_name: ModelName::Unproven,
            max_model_len: about.max_model_len,
            refused_fields: vec![],
            top_p: Effect::Absent,
            top_k: Effect::Absent,
            repetition_penalty: Effect::Absent,
            sampling_defaults: Defaults::NoneSeen,
            max_stops: 0,
            stop_text: StopText::Unknown,
            seeds: Effect::Absent,
            choices: Choices::One,
            max_choices: 1,
            greedy: Repeatable::No,
            special_tokens: SpecialTokens::AsTokenizer,
            prompt_ids: PromptIds::Unproven,
            scoring: Scoring::None,
            scoring_missing: None,
        };
        self.fields(&mut found, &about).await?;
        found.model_name = self.model_name(&found, &about).await?;
        self.sampling(&mut found, &about).await?;
        self.stops(&mut found).await?;
        found.special_tokens = self.special_tokens(&found).await?;
        self.scoring(&mut found).await;
        Ok(found)
    }

    /// `/v1/models`, then the one service route that belongs to the kind.
    async fn about(&self) -> Result<About, EngineError> {
        let mut about = About::default();
        let models = match self.server.get(self.server.base.api("models"), SERVICE_LIMIT).await {
            Ok(reply) => {
                let models: Value =
                    serde_json::from_slice(&reply.body).map_err(|_| engine_error(&self.server.garbage("GET /models gives no JSON")))?;
                about = read_models(&models, &self.options.model, reply.server.as_deref());
                models
            }
            // Not every server has the route.
            Err(f) if matches!(f.class, Class::Missing | Class::Refused | Class::Broken) => Value::Null,
            Err(f) => return Err(engine_error(&f)),
        };
        if self.server.base.host() == "api.openai.com" {
            about.kind = Some(ServerKind::OpenAi);
        }
        let text = |v: &Value, path: &str| v.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let number = |v: &Value, path: &str| v.pointer(path).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        match about.kind {
            Some(ServerKind::Vllm | ServerKind::TensorrtLlm) => about.version = text(&self.service("version").await, "/version"),
            Some(ServerKind::Sglang) => about.version = text(&self.service("server_info").await, "/version"),
            Some(ServerKind::LlamaServer) => {
                let props = self.service("props").await;
                about.version = text(&props, "/build_info");
                about.slots = number(&props, "/total_slots");
                about.max_model_len = number(&props, "/default_generation_settings/n_ctx").or(about.max_model_len);
            }
            None if models.pointer("/data").and_then(Value::as_array).is_some_and(Vec::is_empty) => {
                let serves = text(&self.service("health").await, "/status").is_some_and(|s| s == "ok");
                about.kind = serves.then_some(ServerKind::TransformersServe);
            }
            None => {
                let info = self.service("info").await;
                about.max_model_len = number(&info, "/max_total_tokens").or(about.max_model_len);
                about.kind = info.get("max_total_tokens").map(|_| ServerKind::Tgi);
                about.version = about.kind.and_then(|_| text(&info, "/version"));
            }
            Some(_) => {}
        }
        Ok(about)
    }

    /// A service route outside `/v1`; null where there is none.
    async fn service(&self, route: &str) -> Value {
        let reply = self.server.get(self.server.base.root(route), SERVICE_LIMIT).await;
        reply.ok().and_then(|r| serde_json::from_slice(&r.body).ok()).unwrap_or_default()
    }

    /// One question, asked again where that can help.
    async fn ask(&self, body: &Value) -> Result<wire::Answer, Fault> {
        let mut pauses = self.options.backoff.pauses();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let fault = match serve::post(self.server, body.to_string().into_bytes(), limit(self.options)).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            let hopeless = matches!(fault.class, Class::Unreachable | Class::TimedOut);
            let pause = match fault.again {
                Again::After(wished) if !hopeless => wished,
                Again::Yes if !hopeless => pauses.next().unwrap_or_default(),
                _ => return Err(fault),
            };
            if attempts > RETRIES.min(self.options.max_retries) {
                return Err(fault);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// The answer, or `None` where the server does not want such a request. A server that is not there is an error.
    async fn try_ask(&self, body: &Value) -> Result<Option<wire::Answer>, EngineError> {
        match self.ask(body).await {
            Ok(answer) => Ok(Some(answer)),
            Err(f) if matches!(f.class, Class::Refused | Class::Missing | Class::Broken | Class::Garbage) => Ok(None),
            Err(f) => Err(engine_error(&f)),
        }
    }

    /// The first choice's text, or `None` where the server does not want such a request.
    async fn text(&self, request: &Generate, found: &Capabilities) -> Result<Option<String>, EngineError> {
        let answer = self.try_ask(&self.body(request, found)).await?;
        Ok(answer.and_then(|a| a.choices.into_iter().next()).map(|c| c.text))
    }

    fn body(&self, request: &Generate, found: &Capabilities) -> Value {
        wire::body(&self.options.model, request, 1, found)
    }

    /// Drops optional fields until a request is accepted: those that the refusal names, else the last one.
    async fn fields(&self, found: &mut Capabilities, about: &About) -> Result<(), EngineError> {
        loop {
            let body = self.body(&Generate { max_new_tokens: 1, ..sampled(1) }, found);
            let fault = match self.ask(&body).await {
                Ok(_) => return Ok(()),
                Err(fault) => fault,
            };
            let optional =
                ["top_p", "seed", "top_k", "min_p", "repetition_penalty", "repeat_penalty", "presence_penalty", "frequency_penalty"];
            let sent: Vec<&str> = optional.into_iter().filter(|f| body.get(f).is_some()).collect();
            let words: Vec<&str> = fault.message.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            let mut refused: Vec<&str> = sent.iter().copied().filter(|f| words.contains(f)).collect();
            if refused.is_empty() {
                refused.extend(sent.last());
            }
            if fault.class != Class::Refused || refused.is_empty() {
                return Err(self.not_served(&fault, about).unwrap_or_else(|| engine_error(&fault)));
            }
            found.refused_fields.extend(refused.into_iter().map(str::to_owned));
            found.refused_fields.sort();
        }
    }

    /// An error about the model name, if that explains the fault.
    fn not_served(&self, fault: &Fault, about: &About) -> Option<EngineError> {
        let model = &self.options.model;
        let unlisted = !about.listed.is_empty() && !about.listed.contains(model);
        let about_model = fault.class == Class::Missing || (fault.class == Class::Refused && unlisted);
        about_model.then(|| EngineError::with_hint(format!("model `{model}` is not served: {}", fault.message), served(&about.listed)))
    }

    /// Asks for a model that nobody serves: an answer means that names prove nothing.
    async fn model_name(&self, found: &Capabilities, about: &About) -> Result<ModelName, EngineError> {
        let mut body = plain(&self.options.model, found);
        body["model"] = json!("swallow-eval/no-such-model");
        let answered = self.try_ask(&body).await?.is_some();
        match (answered, about.listed.contains(&self.options.model)) {
            (false, _) => Ok(ModelName::Checked),
            (true, true) => Ok(ModelName::Listed),
            (true, false) if about.listed.is_empty() => Ok(ModelName::Unproven),
            (true, false) => Err(EngineError::with_hint(
                format!(
                    "{} answers to any model name, and `{}` is not one that it lists: the answers would stand under a wrong name",
                    self.server.base, self.options.model
                ),
                served(&about.listed),
            )),
        }
    }

    /// Seeds, `n`, and which sampling fields act.
    async fn sampling(&self, found: &mut Capabilities, about: &About) -> Result<(), EngineError> {
        let unusable = || engine_error(&self.server.garbage("a plain greedy request was refused after a sampled one was answered"));
        let best = self.text(&greedy(), found).await?.ok_or_else(unusable)?;
        found.greedy = self.repeatable(&best, found).await?;
        let bare = json!({"model": self.options.model, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0});
        let bare = self.try_ask(&bare).await?.and_then(|a| a.choices.into_iter().next()).map(|c| c.text);
        if bare.is_some_and(|text| text != best) {
            found.sampling_defaults = Defaults::Own;
        }
        let (one, two) = (self.text(&sampled(1), found).await?, self.text(&sampled(2), found).await?);
        let again = self.text(&sampled(1), found).await?;
        let sends = |name: &str, found: &Capabilities| self.body(&sampled(1), found).get(name).is_some();
        let effect = |sent: bool, seen: bool| match (sent, seen) {
            (false, _) => Effect::Absent,
            (true, false) => Effect::Unseen,
            (true, true) => Effect::Seen,
        };
        found.seeds = effect(sends("seed", found), one == again && one != two);
        self.choices(found, about, one.as_deref(), two.as_deref()).await?;
        // Settings that leave only the best token must give the greedy text, with a seed that otherwise does not.
        if let Some(seed) = [(1, &one), (2, &two)].into_iter().find(|(_, text)| text.as_deref() != Some(&best)).map(|(seed, _)| seed) {
            let hot = Sampling { temperature: HOT, seed, ..Sampling::GREEDY };
            let narrow = |sampling| Generate { sampling, ..greedy() };
            let by_k = self.text(&narrow(Sampling { top_k: 1, ..hot.clone() }), found).await?;
            let by_p = self.text(&narrow(Sampling { top_p: 1e-4, ..hot }), found).await?;
            found.top_k = effect(sends("top_k", found), by_k.as_deref() == Some(&best));
            found.top_p = effect(sends("top_p", found), by_p.as_deref() == Some(&best));
        }
        let penalty = wire::penalty_field(found.kind).is_some_and(|name| sends(name, found));
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::GREEDY };
        let penalised = self.text(&Generate { sampling, ..greedy() }, found).await?;
        found.repetition_penalty = effect(penalty, penalised.is_some_and(|text| text != best));
        Ok(())
    }

    /// Temperature 0 again, alone and four at once.
    async fn repeatable(&self, best: &str, found: &Capabilities) -> Result<Repeatable, EngineError> {
        let request = greedy();
        if self.text(&request, found).await?.as_deref() != Some(best) {
            return Ok(Repeatable::No);
        }
        let one = || self.text(&request, found);
        let (a, b, c, d) = tokio::join!(one(), one(), one(), one());
        let company = [a?, b?, c?, d?];
        Ok(if company.iter().all(|text| text.as_deref() == Some(best)) { Repeatable::Yes } else { Repeatable::Alone })
    }

    /// Two samples in one request: are there two, and which?
    async fn choices(&self, found: &mut Capabilities, about: &About, one: Option<&str>, two: Option<&str>) -> Result<(), EngineError> {
        let body = wire::body(&self.options.model, &sampled(1), 2, found);
        let Some(answer) = self.try_ask(&body).await? else { return Ok(()) };
        let texts: Vec<&str> = answer.choices.iter().map(|c| c.text.as_str()).collect();
        found.choices = match &texts[..] {
            [a, b] if found.seeds == Effect::Seen && Some(*a) == one && Some(*b) == two => Choices::SeedPlusIndex,
            [_, _] => Choices::Unseeded,
            _ => Choices::One,
        };
        if found.choices == Choices::SeedPlusIndex {
            found.max_choices = about.slots.unwrap_or(MAX_CHOICES);
        }
        Ok(())
    }

    /// How many stop strings are accepted, and what is left of one that occurs.
    async fn stops(&self, found: &mut Capabilities) -> Result<(), EngineError> {
        for count in STOPS {
            let stop = (0..count).map(|i| format!("<no such text {i}>")).collect();
            let request = Generate { stop, max_new_tokens: 1, ..greedy() };
            let tried = Capabilities { max_stops: count, ..found.clone() };
            if self.try_ask(&self.body(&request, &tried)).await?.is_some() {
                found.max_stops = count;
                break;
            }
        }
        let best = self.text(&greedy(), found).await?.unwrap_or_default();
        let inside = best.chars().skip(1).find(|c| !c.is_whitespace()).map(String::from);
        let (Some(stop), true) = (inside, found.max_stops > 0) else { return Ok(()) };
        let cut = best.find(&stop).map_or(&best[..], |at| &best[..at]);
        found.stop_text = match self.text(&Generate { stop: vec![stop.clone()], ..greedy() }, found).await? {
            Some(text) if text == cut => StopText::Trimmed,
            Some(text) if text.contains(&stop) => StopText::Kept,
            _ => StopText::Unknown,
        };
        Ok(())
    }

    /// Whether `add_special_tokens: false` takes tokens away; where it does not, whether there are any (vLLM and llama-server can say).
    async fn special_tokens(&self, found: &Capabilities) -> Result<SpecialTokens, EngineError> {
        let mut body = plain(&self.options.model, found);
        let count = |answer: Option<wire::Answer>| answer.and_then(|a| a.usage.prompt_tokens);
        let with = count(self.try_ask(&body).await?);
        body["add_special_tokens"] = json!(false);
        let without = count(self.try_ask(&body).await?);
        if without < with && without.is_some() {
            return Ok(SpecialTokens::Optional);
        }
        let ask = |add: bool| match found.kind {
            ServerKind::Vllm => Some(json!({"model": self.options.model, "prompt": PROMPT, "add_special_tokens": add})),
            ServerKind::LlamaServer => Some(json!({"content": PROMPT, "add_special": add})),
            _ => None,
        };
        let (Some(with), Some(without)) = (ask(true), ask(false)) else { return Ok(SpecialTokens::AsTokenizer) };
        let (with, without) = (self.tokens(with).await, self.tokens(without).await);
        Ok(if with.is_some() && with == without { SpecialTokens::None } else { SpecialTokens::AsTokenizer })
    }

    /// Token ids and log-probabilities, which cannot be judged without the model's tokenizer.
    async fn scoring(&self, found: &mut Capabilities) {
        let Some(tokenizer) = &self.options.facts.tokenizer else {
            found.scoring_missing = Some("the model's tokenizer is not at hand".to_owned());
            return;
        };
        let probe = ScoreProbe { server: self.server, options: self.options, kind: found.kind, tokenizer };
        let score = probe.run().await;
        (found.prompt_ids, found.scoring, found.scoring_missing) = (score.prompt_ids, score.scoring, score.missing);
    }

    /// Number of ids that `/tokenize` gives.
    async fn tokens(&self, body: Value) -> Option<usize> {
        let reply = self.server.post(self.server.base.root("tokenize"), body.to_string().into_bytes(), SERVICE_LIMIT).await.ok()?;
        let reply: Value = serde_json::from_slice(&reply.body).ok()?;
        reply.get("tokens")?.as_array().map(Vec::len)
    }
}

fn served(listed: &[String]) -> String {
    if listed.is_empty() { "the server lists no models".to_owned() } else { format!("served there: {}", listed.join(", ")) }
}

/// Names, owner and length out of `/v1/models`.
pub(super) fn read_models(models: &Value, model: &str, server_header: Option<&str>) -> About {
    let entries = models.get("data").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let listed = entries.iter().filter_map(|e| e.get("id")?.as_str().map(str::to_owned)).collect();
    let ours = entries.iter().find(|e| e.get("id").and_then(Value::as_str) == Some(model)).or(entries.first());
    let owner = ours.and_then(|e| e.get("owned_by")?.as_str());
    let kind = match owner {
        Some("vllm") => Some(ServerKind::Vllm),
        Some("llamacpp") => Some(ServerKind::LlamaServer),
        Some("sglang") => Some(ServerKind::Sglang),
        Some("tensorrt_llm") => Some(ServerKind::TensorrtLlm),
        Some("me") => Some(ServerKind::LlamaCppPython),
        _ if server_header == Some("llama.cpp") => Some(ServerKind::LlamaServer),
        _ => None,
    };
    let length = |path| ours.and_then(|e| e.pointer(path)).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let max_model_len = length("/max_model_len").or_else(|| length("/meta/n_ctx"));
    About { kind, listed, max_model_len, ..About::default() }
}
