//! The signature: everything a number depends on, in one line beside it.
//!
//! In the manner of sacrebleu: `swallow-202407|jemhopqa|shots:4|char_f1|n:120|task:3fa9c1|data:77b0e2|engine:llama-cpu-f32|v0.1.0`. What makes
//! a number something else than the protocol's is said by marks before the version: `dtype:bf16->f32`, `defects:clean`, `fit:assumed`, `partial`,
//! `off-protocol:num_fewshot=2`. A demo begins with `DEMO`.

use super::spec::{Defects, Tool};
use crate::engine::Identity;

/// Hex digits of a hash that a signature shows.
const HASH_DIGITS: usize = 6;

/// Whether every document of the set was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// All documents.
    Full,
    /// `--limit`, `--samples` or `--shard` left some out.
    Partial,
}

/// Whether the numbers mean anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A measurement.
    Measurement,
    /// The bundled samples and the toy model.
    Demo,
}

/// Whether it is known that prompts fit the model's window, or how they were made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Known, or of no interest to the protocol.
    Known,
    /// The protocol counts the model's tokens, and nobody could.
    Assumed,
}

/// What a signature is made of.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// `swallow-202407`.
    pub protocol: &'a str,
    /// Task name.
    pub task: &'a str,
    /// Shots in force.
    pub shots: u32,
    /// Headline metric.
    pub metric: &'a str,
    /// Documents scored.
    pub n: u64,
    /// SHA-256 of the task file, hex.
    pub task_sha256: &'a str,
    /// SHA-256 over the data files, hex.
    pub data_sha256: &'a str,
    /// Who answered.
    pub engine: &'a Identity,
    /// Weight data type of the original runs, as the task file says.
    pub protocol_dtype: &'a str,
    /// What is done about the upstream defects of this task; `None` where it has none.
    pub defects: Option<Defects>,
    /// Interpreter and level that executed programs, `py3.11.7-namespaces`; `None` where nothing was executed.
    pub sandbox: Option<String>,
    /// Whether prompts were fitted to the model.
    pub window: Window,
    /// Whether all documents were asked.
    pub coverage: Coverage,
    /// Departures from the task file, `num_fewshot=2`.
    pub off_protocol: &'a [String],
    /// Whether the numbers mean anything.
    pub purpose: Purpose,
}

/// The signature of one task's number.
pub fn signature(parts: &Parts<'_>) -> String {
    let mut fields = Vec::new();
    if parts.purpose == Purpose::Demo {
        fields.push("DEMO".to_owned());
    }
    fields.extend([
        parts.protocol.to_owned(),
        parts.task.to_owned(),
        format!("shots:{}", parts.shots),
        parts.metric.to_owned(),
        format!("n:{}", parts.n),
        format!("task:{}", short(parts.task_sha256)),
        format!("data:{}", short(parts.data_sha256)),
        format!("engine:{}", parts.engine.short()),
    ]);
    // An endpoint does not say its data type: no difference is known, so none is claimed, and `engine:` shows that it was an endpoint.
    if let Some(dtype) = parts.engine.dtype.as_deref().map(canonical_dtype)
        && dtype != canonical_dtype(parts.protocol_dtype)
    {
        fields.push(format!("dtype:{}->{dtype}", canonical_dtype(parts.protocol_dtype)));
    }
    fields.extend(parts.defects.map(|d| format!("defects:{d}")));
    fields.extend(parts.sandbox.as_ref().map(|s| format!("sandbox:{s}")));
    if parts.window == Window::Assumed {
        fields.push("fit:assumed".to_owned());
    }
    if parts.coverage == Coverage::Partial {
        fields.push("partial".to_owned());
    }
    if !parts.off_protocol.is_empty() {
        fields.push(format!("off-protocol:{}", parts.off_protocol.join(",")));
    }
    fields.push(format!("v{}", Tool::current().version));
    // A bar or line break inside a field (a server's own name for itself) must not read as the next field.
    fields.iter().map(|f| f.replace(['|', '\n', '\r'], "_")).collect::<Vec<_>>().join("|")
}

/// One spelling of each data type.
fn canonical_dtype(dtype: &str) -> &str {
    match dtype {
        "bfloat16" => "bf16",
        "float16" | "half" => "f16",
        "float32" | "float" => "f32",
        other => other,
    }
}

fn short(hash: &str) -> &str {
    hash.get(..HASH_DIGITS).unwrap_or(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { engine: "llama".into(), device: Some("cpu".into()), dtype: Some("bf16".into()), ..Identity::default() }
    }

    fn parts(engine: &Identity) -> Parts<'_> {
        Parts {
            protocol: "swallow-202407",
            task: "jemhopqa",
            shots: 4,
            metric: "char_f1",
            n: 120,
            task_sha256: "3fa9c1ffff",
            data_sha256: "77b0e2ffff",
            engine,
            protocol_dtype: "bfloat16",
            defects: None,
            sandbox: None,
            window: Window::Known,
            coverage: Coverage::Full,
            off_protocol: &[],
            purpose: Purpose::Measurement,
        }
    }

    #[test]
    fn plain_and_marked() {
        let (engine, version) = (identity(), env!("CARGO_PKG_VERSION"));
        let plain = format!("swallow-202407|jemhopqa|shots:4|char_f1|n:120|task:3fa9c1|data:77b0e2|engine:llama-cpu-bf16|v{version}");
        assert_eq!(signature(&parts(&engine)), plain);

        let other = Identity { dtype: Some("f32".into()), ..identity() };
        let departures = ["num_fewshot=2".to_owned(), "temperature=1".to_owned()];
        let marked = Parts {
            n: 40,
            defects: Some(Defects::Faithful),
            sandbox: Some("py3.11.7-namespaces".into()),
            coverage: Coverage::Partial,
            off_protocol: &departures,
            purpose: Purpose::Demo,
            ..parts(&other)
        };
        let expected = format!(
            "DEMO|swallow-202407|jemhopqa|shots:4|char_f1|n:40|task:3fa9c1|data:77b0e2|engine:llama-cpu-f32|dtype:bf16->f32|defects:faithful|sandbox:py3.11.7-namespaces|\
             partial|off-protocol:num_fewshot=2,temperature=1|v{version}"
        );
        assert_eq!(signature(&marked), expected);
    }

    #[test]
    fn unknown_dtype_claims_no_difference_and_bars_stay_out() {
        let engine = Identity { engine: "endpoint".into(), device: Some("a|b\nc".into()), ..Identity::default() };
        let text = signature(&parts(&engine));
        assert!(text.contains("|engine:endpoint-a_b_c|v"), "{text}");
    }
}
