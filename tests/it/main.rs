//! One integration-test binary.

mod results;
