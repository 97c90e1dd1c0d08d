//! OpenAI-compatible servers: text in, text out over `/v1/completions`.
//!
//! A server is believed only as far as its probe goes ([`Capabilities`]): what it ignores or refuses is found out before the first
//! request, by asking. Stop strings are always cut here, with the full list, whatever was sent. Which token ids end a generation is the
//! server's own choice (usually generation_config.json's list); no route of `/v1/completions` can change that.
//!
//! A conversation in one of FastChat's templates is text too (`dialogue`); messages and Azure's paths are in [`chat_server`], and
//! messages by the thousand, at leisure and at a lower price, in [`batch`].

mod balance;
pub mod batch;
mod capabilities;
pub mod chat_server;
mod dialogue;
mod http;
mod probe;
#[cfg(test)]
mod recorded;
mod retry;
mod score;
mod score_probe;
mod serve;
mod stops;
mod url;
mod wire;

pub use capabilities::{
    Capabilities, Choices, Defaults, Effect, ModelName, PromptIds, Repeatable, Scoring, ServerKind, SpecialTokens, StopText,
};
pub use retry::Backoff;

use super::{
    AnswerForm, Bos, Decode, Engine, EngineError, Generate, Identity, LogLikelihood, ModelFacts, Request, RequestKind, Sink, Stats,
};
use crate::text::tokenizer::Special;
use balance::Pool;
use serve::Asker;
use std::{fmt, sync::Arc, time::Duration};
use tokio::runtime::Runtime;

/// A key or token. `Debug` shows nothing of it; it has no `Display` and is never serialised.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` less surrounding white space (a key read from a file often ends in a line feed).
    pub fn new(text: impl AsRef<str>) -> Self {
        Secret(text.as_ref().trim().to_owned())
    }

    fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// Where the servers are and how hard they may be pressed. `Debug` shows no user-info of the URLs.
#[derive(Clone)]
pub struct EndpointOptions {
    /// Base URLs of equal servers, `http://host:8000/v1`. User-info in them is sent and never shown.
    pub base_urls: Vec<String>,
    /// Model name as the servers know it.
    pub model: String,
    /// Sent as `Authorization: Bearer …`.
    pub api_key: Option<Secret>,
    /// Most requests in flight, over all servers together; at least 1.
    pub max_connections: usize,
    /// Attempts after the first, for each request.
    pub max_retries: u32,
    /// Limit of one attempt, from sending to the last byte.
    pub timeout: Duration,
    /// Pauses between attempts where the server names none.
    pub backoff: Backoff,
    /// What the user says of the model: a server does not tell.
    pub facts: ModelFacts,
}

impl EndpointOptions {
    /// 64 in flight, 5 retries, 10 minutes an attempt, pauses from 0.5 to 8 s, no key.
    pub fn new(base_urls: Vec<String>, model: impl Into<String>) -> Self {
        EndpointOptions {
            base_urls,
            model: model.into(),
            api_key: None,
            max_connections: 64,
            max_retries: 5,
            timeout: Duration::from_secs(600),
            backoff: Backoff::default(),
            facts: ModelFacts::default(),
        }
    }
}

impl fmt::Debug for EndpointOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointOptions")
            .field("base_urls", &self.base_urls.iter().map(|text| url::without_secret(text)).collect::<Vec<_>>())
            .field("model", &self.model)
            .field("api_key", &self.api_key)
            .field("max_connections", &self.max_connections)
            .field("max_retries", &self.max_retries)
            .field("timeout", &self.timeout)
            .field("backoff", &self.backoff)
            .finish()
    }
}

/// One model behind one or more equal servers.
pub struct Endpoint {
    runtime: Runtime,
    asker: Arc<Asker>,
    identity: Identity,
}

impl Endpoint {
    /// Connects to every base URL and probes it: about 25 short requests each, at most 16 tokens long.
    ///
    /// # Errors
    /// A bad URL or key, a server that cannot be reached or lets us not in, a model that is not served, servers that are not of one kind.
    pub fn connect(options: EndpointOptions) -> Result<Self, EngineError> {
        if options.base_urls.is_empty() {
            return Err(EngineError::with_hint("no base URL given", "name at least one, as http://host:8000/v1"));
        }
        let server = |text: &String| http::Server::new(url::BaseUrl::parse(text)?, options.api_key.as_ref());
        let servers = options.base_urls.iter().map(server).collect::<Result<Vec<_>, _>>()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("endpoint")
            .enable_all()
            .build()
            .map_err(|e| EngineError::new(format!("cannot start the network threads: {e}")))?;
        let pool = Arc::new(Pool::new(servers, aside(options.backoff)));
        let capabilities = runtime.block_on(probe::all(&pool, &options))?;
        let identity = Identity {
            engine: "endpoint".to_owned(),
            model: options.model.clone(),
            tokenizer_sha256: options.facts.tokenizer.as_ref().map(|t| t.sha256().to_owned()),
            capabilities: Some(serde_json::to_value(&capabilities).expect("capabilities are plain data")),
            ..Identity::default()
        };
        let asker = Arc::new(Asker::new(pool, capabilities, options));
        Ok(Endpoint { runtime, asker, identity })
    }

    /// What the probe found.
    pub fn capabilities(&self) -> &Capabilities {
        &self.asker.capabilities
    }
}

/// How long a sick server is set aside: long enough not to waste attempts, short enough to use it again soon.
fn aside(backoff: Backoff) -> Backoff {
    Backoff { first: backoff.first * 2, longest: backoff.longest * 4 }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Engine for Endpoint {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn facts(&self) -> ModelFacts {
        self.asker.options.facts.clone()
    }

    fn refusal(&self, request: &Request) -> Option<EngineError> {
        refusal(request, &self.asker.capabilities, &self.asker.options.facts)
    }

    fn serve(&mut self, requests: &[Request], sink: &mut Sink<'_>) -> Result<Stats, EngineError> {
        self.runtime.block_on(serve::run(&self.asker, requests, sink))
    }
}

/// Why servers with these capabilities cannot answer `request` as its protocol wants it.
fn refusal(request: &Request, capabilities: &Capabilities, facts: &ModelFacts) -> Option<EngineError> {
    let generate = match &request.kind {
        RequestKind::Generate(generate) => generate,
        RequestKind::LogLikelihood(scored) => return refused_scoring(scored, capabilities, facts),
        RequestKind::Chat(chat) => return dialogue::refusal(chat, capabilities, facts),
    };
    let by_ids = capabilities.prompt_ids == PromptIds::AsGiven;
    if generate.rules.bos == Bos::Never && capabilities.special_tokens == SpecialTokens::AsTokenizer && !by_ids {
        return Some(EngineError::with_hint(
            "the task wants a prompt without special tokens, and the server was not seen to leave them out (add_special_tokens: false)",
            "name the model's tokenizer with --tokenizer (token ids have no BOS added), use vLLM, or run this task in-process",
        ));
    }
    if generate.rules.form == AnswerForm::TokenIds {
        return Some(EngineError::with_hint(
            "the task reproduces an upstream defect on token ids, and a server gives text",
            "--defects clean asks it without the defect, or run this task in-process",
        ));
    }
    if generate.rules.decode == Decode::WithSpecials {
        return Some(EngineError::with_hint(
            "the task reproduces an upstream defect that shows in the text of end tokens, and a server leaves them out",
            "--defects clean asks it without the defect, or run this task in-process",
        ));
    }
    if let Some(too_long) = too_long(generate, facts).filter(|_| !by_ids) {
        return Some(too_long);
    }
    let sampling = &generate.sampling;
    let sampled = sampling.temperature > 0.0;
    let needed = [
        ("top_p", sampling.top_p.to_string(), sampled && sampling.top_p < 1.0, capabilities.top_p),
        ("top_k", sampling.top_k.to_string(), sampled && sampling.top_k > 0, capabilities.top_k),
        (
            "repetition_penalty",
            sampling.repetition_penalty.to_string(),
            sampling.repetition_penalty != 1.0,
            capabilities.repetition_penalty,
        ),
    ];
    needed.into_iter().find(|(.., needed, effect)| *needed && *effect != Effect::Seen).map(|(name, value, ..)| {
        EngineError::with_hint(
            format!("the task wants {name} {value}, and the server was not seen to honour {name}"),
            "use a server that does (vLLM), or run this task in-process",
        )
    })
}

/// Why these log-likelihoods cannot be had. What was not proved is not asked: a server that ignores `echo` answers with status 200.
fn refused_scoring(scored: &LogLikelihood, capabilities: &Capabilities, facts: &ModelFacts) -> Option<EngineError> {
    const WHO: &str = "vLLM (prompt_logprobs), SGLang (/generate) and servers whose echo returns log-probabilities of the prompt can";
    let missing = capabilities.scoring_missing.as_deref().unwrap_or("nothing was found");
    let Some(tokenizer) = &facts.tokenizer else {
        let message = "log-likelihoods over an endpoint need the model's tokenizer, to ask for exact token ids";
        return Some(EngineError::with_hint(message, "name it with --tokenizer DIRECTORY or --tokenizer HUB-ID"));
    };
    let pairs = match (capabilities.scoring, score::pairs(tokenizer, scored, facts.max_positions)) {
        (Scoring::None, _) => {
            let message = format!("the server gives no log-probabilities of a prompt that can be believed: {missing}");
            return Some(EngineError::with_hint(message, format!("{WHO}; or run this task in-process")));
        }
        (Scoring::TopLogprobs { .. }, Ok(pairs)) => pairs,
        // What has no token becomes a failure of that request, as in-process.
        _ => return None,
    };
    let long = pairs.iter().position(|p| p.continuation.len() > 1)?;
    let (text, tokens) = (&scored.continuations[long], pairs[long].continuation.len());
    let message =
        format!("the server gives log-probabilities of single tokens only, and the choice {text:?} has {tokens} tokens: {missing}");
    Some(EngineError::with_hint(message, format!("{WHO}; or run this task in-process")))
}

/// A prompt that the protocol cuts on its left, token by token: no text says the same.
fn too_long(generate: &Generate, facts: &ModelFacts) -> Option<EngineError> {
    let (truncation, tokenizer) = generate.rules.truncation.zip(facts.tokenizer.as_ref())?;
    let room = truncation.length(facts.max_positions).saturating_sub(generate.max_new_tokens) as usize;
    let tokens = tokenizer.encode(&generate.prompt, Special::None).map_or(0, |ids| ids.len());
    (tokens > room).then(|| {
        EngineError::with_hint(
            format!("a prompt has {tokens} tokens, and the protocol cuts it on the left to {room}, which cannot be said in text"),
            "run this task in-process",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::wire::tests::{capabilities, request};
    use super::*;
    use crate::engine::{LogLikelihood, Sampling, TokenRules, Truncation};
    use crate::text::tokenizer::Tokenizer;

    #[test]
    fn a_prompt_that_the_protocol_cuts_is_refused() {
        let file = |name: &str| crate::engine::demo::FILES.iter().find(|(n, _)| *n == name).expect("built in").1;
        let tokenizer = Tokenizer::from_bytes(file("tokenizer.json"), None, None).expect("valid");
        let facts = ModelFacts { tokenizer: Some(tokenizer.into()), max_positions: Some(20), ..ModelFacts::default() };
        let rules = TokenRules { truncation: Some(Truncation { max_length: 4096 }), ..TokenRules::default() };
        let asked = |prompt: &str| Generate { prompt: prompt.into(), max_new_tokens: 16, rules: rules.clone(), ..request(&[], &[]) };
        assert!(too_long(&asked("東"), &facts).is_none());
        let refused = too_long(&asked(&"東京の天気。".repeat(9)), &facts).expect("longer than 4 tokens");
        assert!(refused.message.contains("on the left to 4"), "{}", refused.message);
        assert!(too_long(&asked(&"東京の天気。".repeat(9)), &ModelFacts::default()).is_none());
    }

    #[test]
    fn secrets_do_not_show() {
        let options =
            EndpointOptions { api_key: Some(Secret::new(" sk-secret\n")), ..EndpointOptions::new(vec!["http://me:hunter2@h".into()], "m") };
        assert_eq!(options.api_key.as_ref().unwrap().expose(), "sk-secret");
        let shown = format!("{options:?}");
        assert!(!shown.contains("sk-secret") && !shown.contains("hunter2") && shown.contains("\"h\""), "{shown}");
    }

    #[test]
    fn what_a_server_cannot_do_is_refused_by_name() {
        let mut weak = capabilities(ServerKind::Other);
        (weak.top_p, weak.top_k, weak.repetition_penalty) = (Effect::Seen, Effect::Unseen, Effect::Absent);
        weak.special_tokens = SpecialTokens::AsTokenizer;
        let plain = request(&[], &[]);
        let sampling = |s: Sampling| Request::new(RequestKind::Generate(super::super::Generate { sampling: s, ..plain.clone() }));
        let rules = TokenRules { bos: Bos::Never, ..plain.rules.clone() };
        let never = Request::new(RequestKind::Generate(super::super::Generate { rules: rules.clone(), ..plain.clone() }));
        let form = TokenRules { form: AnswerForm::TokenIds, ..plain.rules.clone() };
        let to_the_end = Request::new(RequestKind::Generate(super::super::Generate { rules: form, ..plain.clone() }));
        let scored = RequestKind::LogLikelihood(LogLikelihood { context: "a".into(), continuations: vec!["b".into()], rules });
        for (request, expected) in [
            (sampling(Sampling::GREEDY), None),
            (sampling(Sampling { top_k: 5, ..Sampling::GREEDY }), None),
            (sampling(Sampling { top_p: 0.9, temperature: 0.2, ..Sampling::GREEDY }), None),
            (sampling(Sampling { top_k: 5, temperature: 0.2, ..Sampling::GREEDY }), Some("top_k 5")),
            (sampling(Sampling { repetition_penalty: 1.05, ..Sampling::GREEDY }), Some("repetition_penalty 1.05")),
            (never, Some("without special tokens")),
            (to_the_end, Some("on token ids")),
            (Request::new(scored), Some("log-likelihoods")),
        ] {
            let message = refusal(&request, &weak, &ModelFacts::default()).map(|e| e.message);
            match expected {
                None => assert_eq!(message, None),
                Some(part) => assert!(message.as_ref().is_some_and(|m| m.contains(part)), "{message:?}"),
            }
        }
    }
}
