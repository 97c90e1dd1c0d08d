//! `verdicts.jsonl`: a line an executed program, and `sandbox.json`: what held them. With both, scoring again executes nothing.
//!
//! `{"v":1,"key":"<32 hex>","verdict":"failed","message":"...","seconds":0.02,"crowded":{"verdict":"timed out","seconds":3.0}}`

use serde::{Deserialize, Serialize};

/// Number of the `verdicts.jsonl` format.
pub const FORMAT: u32 = 1;

/// The verdict on one program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Hash of the program and of everything else the verdict depends on: driver, interpreter, limits, sandbox level.
    pub key: String,
    /// What became of it.
    #[serde(flatten)]
    pub run: Run,
    /// An earlier run beside others that came too near to its limit, so that the program was run again, alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crowded: Option<Run>,
}

/// One run of a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// `passed`, `failed` or `timed out`, as the original harness says.
    pub verdict: String,
    /// The exception's text, or what is known of an end without a report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Seconds it took.
    pub seconds: f64,
}

impl Verdict {
    /// Whether the program counts as right.
    pub fn passed(&self) -> bool {
        self.run.verdict == "passed"
    }
}
