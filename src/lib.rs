//! swallow-eval: the tables of the Llama 3.1 Swallow model card from one program.
//!
//! Each module is a room with its own rules; `ARCHITECTURE.md` says what may live where and who may import whom, and a test holds it.
//! Nothing is re-exported here, so an import line always names its room.

// Answers: from a response to what is scored (clean-up steps, extraction). No I/O, no scores.
pub mod answer;
// Replays recorded goldens of the original harnesses through this program.
pub mod certify;
// Verbs, flags, messages, exit codes. The only room that prints.
pub mod cli;
// Comparing runs: paired tests, the gate's verdict. Chooses no exit code.
pub mod compare;
// Data sets: manifests, downloads, checksums, file formats. Knows no task.
pub mod dataset;
// Engines: requests in, responses out. Knows no right answer.
pub mod engine;
// What a judge is asked about an answer, and the rating in its words.
pub mod judge;
// Formulas: scores and aggregates. No I/O.
pub mod metric;
// Prompts: shot choice, random streams of the protocols, templates.
pub mod prompt;
// Tables for people: terminal, markdown, CSV, JSON. No file access.
pub mod report;
// The run directory: journal, run.json, scores.json, samples.jsonl, reference rows.
pub mod results;
// The order of things: plan, ask, grade, score.
pub mod run;
// Sandbox: programs in, verdicts out. The only room that starts processes.
pub mod sandbox;
// Task files (TOML) and documents.
pub mod task;
// Text: tokenizer, decode clean-up, stop strings, Python's string semantics.
pub mod text;
