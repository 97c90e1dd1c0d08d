//! From the chosen model to an engine that answers.

use super::{
    downloads::Downloads,
    exit::{Exit, Failure},
    model_choice::{EndpointChoice, InProcess, ModelChoice},
    output::note,
    progress::Show,
    settings,
};
use crate::{
    dataset::{DatasetError, Network, hub::Hub},
    engine::{
        Engine, EngineError, ModelFacts,
        demo::FILES,
        endpoint::{
            Endpoint, EndpointOptions,
            chat_server::{ChatOptions, ChatServer, Service},
        },
        llama::{
            Llama, LoadOptions,
            batch::Limits,
            weights::{ModelFiles, is_gguf},
        },
    },
};
use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

/// Loads or connects.
///
/// # Errors
/// Exit 5: the model cannot be loaded, or the server does not answer or cannot do what is needed. Exit 4: the model is not at hand.
pub(super) fn build(choice: &ModelChoice, threads: Option<NonZeroUsize>, network: Network) -> Result<Box<dyn Engine>, Failure> {
    match choice {
        ModelChoice::Demo => demo(threads),
        ModelChoice::InProcess(model) => in_process(model, threads, network),
        ModelChoice::Endpoint(servers) => Ok(Box::new(connect(servers, network)?)),
    }
}

/// Connects to servers and probes them.
pub(super) fn connect(choice: &EndpointChoice, network: Network) -> Result<Endpoint, Failure> {
    let mut options = EndpointOptions::new(choice.base_urls.clone(), &choice.model);
    if let Some(tokenizer) = &choice.tokenizer {
        options.facts = facts(tokenizer, choice.revision.as_deref(), network)?;
    }
    options.api_key = settings::api_key();
    options.max_connections = choice.max_connections.map_or(options.max_connections, std::num::NonZeroUsize::get);
    options.max_retries = choice.max_retries.unwrap_or(options.max_retries);
    options.timeout = choice.timeout.unwrap_or(options.timeout);
    Endpoint::connect(options).map_err(failure)
}

/// A service that answers messages.
///
/// # Errors
/// A bad URL or key, several URLs.
pub(super) fn chat(choice: &EndpointChoice) -> Result<Box<dyn Engine>, Failure> {
    let [base_url] = choice.base_urls.as_slice() else {
        let message = format!("conversations as messages go to one server, and {} are named", choice.base_urls.len());
        return Err(Failure::new(Exit::Usage, message).hint("name one --base-url, or shard the run over several"));
    };
    let mut options = ChatOptions::new(Service::OpenAi { base_url: base_url.clone() }, &choice.model);
    options.api_key = settings::api_key();
    options.max_connections = choice.max_connections.map_or(options.max_connections, NonZeroUsize::get);
    options.max_retries = choice.max_retries.unwrap_or(options.max_retries);
    options.timeout = choice.timeout.unwrap_or(options.timeout);
    Ok(Box::new(ChatServer::new(options).map_err(failure)?))
}

/// What `--tokenizer DIRECTORY or HUB-ID` says of a served model.
pub(super) fn facts(tokenizer: &str, revision: Option<&str>, network: Network) -> Result<ModelFacts, Failure> {
    let downloads = Downloads::new(Show::on_stderr(), tokenizer);
    let found = Hub::from_env(&settings::env, network).tokenizer_dir(tokenizer, revision, &|event| downloads.see(event));
    downloads.end();
    let dir = found.map_err(|e| not_at_hand(&e))?;
    ModelFacts::of_dir(&dir).map_err(|e| failure(EngineError { message: format!("--tokenizer {tokenizer}: {}", e.message), hint: e.hint }))
}

/// A model that neither lies in a directory nor comes from the hub.
fn not_at_hand(error: &DatasetError) -> Failure {
    Failure { exit: Exit::Engine, message: error.to_string(), hint: error.hint() }
}

/// An engine's own words with its exit code.
pub(super) fn failure(EngineError { message, hint }: EngineError) -> Failure {
    Failure { exit: Exit::Engine, message, hint }
}

fn in_process(choice: &InProcess, threads: Option<NonZeroUsize>, network: Network) -> Result<Box<dyn Engine>, Failure> {
    if choice.tokenizer.is_some() {
        let message = "--tokenizer is for servers: a model in this process uses the tokenizer in its own directory";
        return Err(Failure::new(Exit::Usage, message).hint("leave --tokenizer out"));
    }
    Ok(Box::new(load(choice, threads, network, Limits::default())?))
}

/// Loads a model into this process.
pub(super) fn load(choice: &InProcess, threads: Option<NonZeroUsize>, network: Network, limits: Limits) -> Result<Llama, Failure> {
    let dir = model_dir(&choice.model, choice.revision.as_deref(), network)?;
    let options = LoadOptions {
        model: choice.model.clone(),
        revision: choice.revision.clone(),
        dtype: choice.dtype.clone(),
        device: Some(choice.devices.names().to_owned()),
        tensor_parallel: choice.devices.tensor_parallel_size,
        data_parallel: choice.devices.data_parallel_size,
        logits: choice.logits,
        tensor_ops: choice.tensor_ops,
        threads: threads.map(NonZeroUsize::get),
        limits,
    };
    Ok(noted(Llama::load(&dir, &options).map_err(failure)?))
}

/// Says what a person should know about a loaded model.
fn noted(llama: Llama) -> Llama {
    llama.notes().iter().for_each(|text| note(text));
    llama
}

/// The directory that a hub id or a path names; a GGUF file is itself.
pub(super) fn model_dir(model: &str, revision: Option<&str>, network: Network) -> Result<PathBuf, Failure> {
    if is_gguf(Path::new(model)) {
        return Ok(PathBuf::from(model));
    }
    if model.ends_with(".gguf") {
        return Err(Failure::new(Exit::Engine, format!("model file {model} does not exist")).hint("check the path"));
    }
    let downloads = Downloads::new(Show::on_stderr(), model);
    let found = Hub::from_env(&settings::env, network).model_dir(model, revision, &|event| downloads.see(event));
    downloads.end();
    found.map_err(|e| not_at_hand(&e))
}

/// The built-in model, run by the real engine on the CPU: its answers are the same on every machine.
fn demo(threads: Option<NonZeroUsize>) -> Result<Box<dyn Engine>, Failure> {
    let files = ModelFiles::built_in(&FILES).map_err(failure)?;
    let options = LoadOptions {
        model: "demo".into(),
        dtype: Some("f32".to_owned()),
        threads: threads.map(NonZeroUsize::get),
        ..LoadOptions::default()
    };
    Ok(Box::new(noted(Llama::from_files(&files, &options).map_err(failure)?.named("demo"))))
}
