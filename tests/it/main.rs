//! One integration-test binary; a module a topic.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod certify;
mod support;
//! One integration-test binary.

mod results;
