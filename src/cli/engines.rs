//! From the chosen model to an engine that answers.

use super::{
    exit::{Exit, Failure},
    model_choice::{EndpointChoice, InProcess, ModelChoice},
    settings,
};
use crate::engine::{
    Engine, EngineError,
    demo::FILES,
    endpoint::{Endpoint, EndpointOptions, Secret},
    llama::{
        Llama, LoadOptions,
        weights::{Bytes, ModelFiles, WeightFile},
    },
};
use std::{num::NonZeroUsize, path::Path};

/// Loads or connects.
///
/// # Errors
/// Exit 5: the model cannot be loaded, or the server does not answer or cannot do what is needed. Exit 4: the model is not at hand.
pub(super) fn build(choice: &ModelChoice, threads: Option<NonZeroUsize>) -> Result<Box<dyn Engine>, Failure> {
    match choice {
        ModelChoice::Demo => demo(threads),
        ModelChoice::InProcess(model) => in_process(model, threads),
        ModelChoice::Endpoint(servers) => Ok(Box::new(connect(servers)?)),
    }
}

/// Connects to servers and probes them.
pub(super) fn connect(choice: &EndpointChoice) -> Result<Endpoint, Failure> {
    let mut options = EndpointOptions::new(choice.base_urls.clone(), &choice.model);
    options.api_key = settings::env("SWALLOW_EVAL_API_KEY").or_else(|| settings::env("OPENAI_API_KEY")).map(Secret::new);
    options.max_connections = choice.max_connections.map_or(options.max_connections, std::num::NonZeroUsize::get);
    options.max_retries = choice.max_retries.unwrap_or(options.max_retries);
    options.timeout = choice.timeout.unwrap_or(options.timeout);
    Endpoint::connect(options).map_err(failure)
}

/// An engine's own words with its exit code.
pub(super) fn failure(EngineError { message, hint }: EngineError) -> Failure {
    Failure { exit: Exit::Engine, message, hint }
}

fn in_process(choice: &InProcess, threads: Option<NonZeroUsize>) -> Result<Box<dyn Engine>, Failure> {
    let options = LoadOptions {
        model: choice.model.clone(),
        revision: choice.revision.clone(),
        dtype: choice.dtype.clone(),
        device: choice.device.clone(),
        threads: threads.map(NonZeroUsize::get),
        ..LoadOptions::default()
    };
    Ok(Box::new(Llama::load(Path::new(&choice.model), &options).map_err(failure)?))
}

/// The built-in model, run by the real engine.
fn demo(threads: Option<NonZeroUsize>) -> Result<Box<dyn Engine>, Failure> {
    let file = |name: &str| FILES.iter().find(|(n, _)| *n == name).map(|(_, bytes)| *bytes);
    let small = |name: &str| file(name).map(<[u8]>::to_vec);
    let weights = file("model.safetensors").unwrap_or_default();
    let files = ModelFiles {
        config: small("config.json").unwrap_or_default(),
        generation_config: small("generation_config.json"),
        tokenizer: small("tokenizer.json").unwrap_or_default(),
        tokenizer_config: small("tokenizer_config.json"),
        special_tokens_map: None,
        weights: vec![WeightFile { name: "demo/model.safetensors".into(), bytes: Bytes::Static(weights) }],
    };
    let options = LoadOptions { model: "demo".into(), threads: threads.map(NonZeroUsize::get), ..LoadOptions::default() };
    Ok(Box::new(Llama::from_files(&files, &options).map_err(failure)?.named("demo")))
}
