//! One integration-test binary; a module a topic.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod certify;
mod data;
mod results;
mod support;
