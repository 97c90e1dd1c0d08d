//! One integration-test binary; a module a topic.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::type_complexity,
    reason = "a test fails by panicking, says what it skips, and has tables of cases"
)]

mod archive;
mod bad_input;
mod bad_server;
mod bench;
mod certify;
mod certify_en;
mod cli;
mod code_runs;
mod compare;
mod contract;
mod data;
mod data_verb;
mod dist;
mod en_harness;
mod endpoint;
mod endpoint_faults;
mod endpoint_scores;
mod export;
mod gate;
mod gguf;
mod house;
mod html;
mod hub;
mod jp_harness;
mod judge_batch;
mod leaderboard;
mod llama_server;
mod models;
mod mtbench;
mod oracle;
mod records;
mod results;
mod runs;
mod sandbox;
mod support;
mod tensors;
