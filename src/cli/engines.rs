//! From the chosen model to an engine that answers.

use super::{
    exit::{Exit, Failure},
    model_choice::{EndpointChoice, InProcess, ModelChoice},
    settings,
};
use crate::engine::{
    Engine, EngineError,
    endpoint::{Endpoint, EndpointOptions, Secret},
};

/// Loads or connects.
///
/// # Errors
/// Exit 5: the model cannot be loaded, or the server does not answer or cannot do what is needed. Exit 4: the model is not at hand.
pub(super) fn build(choice: &ModelChoice) -> Result<Box<dyn Engine>, Failure> {
    match choice {
        ModelChoice::Demo => demo(),
        ModelChoice::InProcess(model) => in_process(model),
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

fn in_process(_model: &InProcess) -> Result<Box<dyn Engine>, Failure> {
    Err(Failure::new(Exit::Engine, "the in-process engine is not part of this build"))
}

fn demo() -> Result<Box<dyn Engine>, Failure> {
    Err(Failure::new(Exit::Engine, "the in-process engine is not part of this build"))
}
