//! One integration-test binary.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod contract;
mod endpoint;
mod endpoint_faults;
mod llama_server;
mod support;
