//! The flags of `run`: exactly what was typed or set, and what is said about flags that change nothing here or that cannot work here.
//!
//! Names are those of lm-eval 0.4.13 where it has the flag (its underscore spellings are accepted for every flag, see `layers`).

use super::{
    devices::DeviceArgs,
    exit::{Exit, Failure},
    judge::JudgeFlags,
    model_choice::{self, ModelChoice},
    values::{self, Dtype, Ops, SampleSelection},
};
use crate::{
    results::spec::{Defects, Limit, Shard},
    run::{MaxFailures, overrides::Override},
};
use clap::Args;
use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

/// Flags of `swallow-eval run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Suites to run, comma separated, each a run of its own: ja, en, mt-bench
    #[arg(long, value_name = "NAME", value_parser = values::suite, value_delimiter = ',', help_heading = "Tasks")]
    pub suite: Vec<String>,
    /// Tasks to run, comma or space separated; names of the original harnesses are accepted
    #[arg(long, short = 't', value_name = "NAME", value_delimiter = ',', num_args = 1.., help_heading = "Tasks")]
    pub tasks: Vec<String>,
    /// Ask only the first N documents of each task, or a fraction below 1; the result is marked partial
    #[arg(long, short = 'L', value_name = "N", value_parser = values::limit, allow_negative_numbers = true, help_heading = "Tasks")]
    pub limit: Option<Limit>,
    /// Ask only these documents: JSON of task to indices, or a file that holds it; the result is marked partial
    #[arg(long, short = 'E', value_name = "JSON", value_parser = values::samples, conflicts_with = "limit", help_heading = "Tasks")]
    pub samples: Option<SampleSelection>,
    /// Run the i-th of n parts, counted from 1; `auto` takes them from a SLURM job array
    #[arg(long, value_name = "I/N", value_parser = values::shard, help_heading = "Tasks")]
    pub shard: Option<Shard>,
    /// Another number of shots than the protocol's; the result is marked off-protocol
    #[arg(long, short = 'f', value_name = "N", help_heading = "Tasks")]
    pub num_fewshot: Option<u32>,
    /// Generation settings, key=value,... or JSON, over the protocol's; the result is marked off-protocol
    #[arg(long, value_name = "ARGS", help_heading = "Tasks")]
    pub gen_kwargs: Option<String>,
    /// Reproduce the upstream harness's defects (the published numbers), or avoid them
    #[arg(long, value_name = "HOW", value_parser = values::defects(), default_value = "faithful", help_heading = "Tasks")]
    pub defects: Defects,
    /// Read task files from this folder too
    #[arg(long, value_name = "DIR", help_heading = "Tasks")]
    pub include_path: Option<PathBuf>,
    /// Leave out tasks whose data is missing instead of stopping
    #[arg(long, help_heading = "Tasks")]
    pub skip_missing: bool,

    /// Hub id (org/name), directory or .gguf file for the in-process engine; the model's name when --base-url is given
    #[arg(long, short = 'M', value_name = "MODEL", help_heading = "Model")]
    pub model: Option<String>,
    /// lm-eval model arguments, key=value,... or JSON; with it, --model is read as lm-eval's engine name
    #[arg(long, short = 'a', value_name = "ARGS", num_args = 1.., help_heading = "Model")]
    pub model_args: Vec<String>,
    /// Bundled samples and the built-in demo model: offline, in seconds, and no result of any meaning
    #[arg(long, conflicts_with_all = ["model", "model_args", "base_url"], help_heading = "Model")]
    pub demo: bool,
    /// Tokenizer of the served model: hub id or directory
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    pub tokenizer: Option<String>,
    /// Revision of the hub repository: branch, tag or commit
    #[arg(long, value_name = "REV", help_heading = "Model")]
    pub revision: Option<String>,
    /// Data type of the weights; unless given the model's own on a GPU, and f32 on the CPU, where weights then stay in memory as their file has
    /// them and are widened where they are used: f32 widens them when they are loaded, which takes more memory and, in prefill, a little less time
    #[arg(long, value_name = "TYPE", value_enum, help_heading = "Model")]
    pub dtype: Option<Dtype>,
    /// Keep logits in f32 where --dtype rounds the weights: finer than a harness in that type has them
    #[arg(long, help_heading = "Model")]
    pub logits_f32: bool,
    /// Where it computes
    #[command(flatten)]
    pub devices: DeviceArgs,
    /// Operations of a GPU besides matrix products: eager (the tensor library's) or fused (this program's own) [default: eager]
    #[arg(long, value_name = "NAME", value_enum, hide_short_help = true, help_heading = "Model")]
    pub tensor_ops: Option<Ops>,
    /// Threads of the in-process engine; all cores unless given
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub threads: Option<NonZeroUsize>,

    /// OpenAI-compatible servers, comma separated, such as http://localhost:8000/v1; the key is read from OPENAI_API_KEY
    #[arg(long, value_name = "URL", value_delimiter = ',', help_heading = "Endpoint")]
    pub base_url: Vec<String>,
    /// Requests in flight at once
    #[arg(long, alias = "num-concurrent", value_name = "N", help_heading = "Endpoint")]
    pub max_connections: Option<NonZeroUsize>,
    /// Further tries for a request that failed for a passing reason
    #[arg(long, value_name = "N", help_heading = "Endpoint")]
    pub max_retries: Option<u32>,
    /// Seconds to wait for one answer
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds, help_heading = "Endpoint")]
    pub timeout: Option<Duration>,

    /// Folder for results; the run goes to runs/ID/ in it
    #[arg(long, short = 'o', alias = "output-path", value_name = "DIR", default_value = "results", help_heading = "Run")]
    pub output: PathBuf,
    /// Go on with an interrupted run: only what its journal lacks is asked
    #[arg(long, value_name = "RUN", help_heading = "Run")]
    pub resume: Option<PathBuf>,
    /// Failed requests that the run may have and still be complete: a number, or a ratio such as 0.01
    #[arg(long, alias = "fail-on-error", value_name = "N", default_value = "0", value_parser = values::max_failures)]
    #[arg(allow_negative_numbers = true, help_heading = "Run")]
    pub max_failures: MaxFailures,
    /// Say what would be asked, and ask nothing
    #[arg(long, help_heading = "Run")]
    pub dry_run: bool,
    /// Open no connection but to --base-url
    #[arg(long, help_heading = "Run")]
    pub offline: bool,
    /// Replace scheme and host of every data-set URL (a mirror)
    #[arg(long, value_name = "URL", help_heading = "Run")]
    pub data_url: Option<String>,
    /// Show this published row beside ours, such as "Llama 3.1 Swallow 70B Instruct"
    #[arg(long, value_name = "NAME", help_heading = "Run")]
    pub against: Option<String>,
    /// Print the first prompt of each task
    #[arg(long, short = 'w', help_heading = "Run")]
    pub write_out: bool,
    /// Ask and keep the answers, do not score; `score RUN` does that later
    #[arg(long, short = 'x', help_heading = "Run")]
    pub predict_only: bool,
    /// Do not write samples.jsonl
    #[arg(long, conflicts_with = "log_samples", help_heading = "Run")]
    pub no_log_samples: bool,
    /// No progress lines
    #[arg(long, short = 'q', help_heading = "Run")]
    pub quiet: bool,
    /// Read settings from this file too: TOML, or JSON with lm-eval's names
    #[arg(long, short = 'C', value_name = "FILE", help_heading = "Run")]
    pub config: Option<PathBuf>,

    /// How conversations are written: a family of FastChat's (llama-3, qwen-7b-chat, swallow, one_shot), `model` for the model's own
    /// template, or a Jinja file [default: the family that FastChat takes for the model's name]
    #[arg(long, value_name = "HOW", help_heading = "Model")]
    pub chat_template: Option<String>,
    /// Who judges
    #[command(flatten)]
    pub judge: JudgeFlags,

    #[command(flatten)]
    pub(crate) programs: super::sandbox::SandboxArgs,
    #[command(flatten)]
    pub(crate) compatibility: Compatibility,
}

/// Flags of other harnesses that are accepted so that their command lines work, and that say what becomes of them.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Accepted for compatibility")]
pub(crate) struct Compatibility {
    /// No effect: samples are logged unless --no-log-samples is given
    #[arg(long, short = 's')]
    log_samples: bool,
    /// No effect: batches are packed by token budget
    #[arg(long, short = 'b', value_name = "N")]
    batch_size: Option<String>,
    /// No effect: the shots of a pinned protocol have their own seed
    #[arg(long, value_name = "SEEDS", value_parser = values::seeds)]
    seed: Option<String>,
    /// No effect: the run's journal keeps every answer (--resume)
    #[arg(long, short = 'c', value_name = "PATH", conflicts_with = "no_cache")]
    use_cache: Option<PathBuf>,
    /// No effect: no answer is taken from another run
    #[arg(long)]
    no_cache: bool,
    /// No effect: code of a model's repository is never run
    #[arg(long)]
    trust_remote_code: bool,
    /// No effect: programs are executed in a sandbox (--sandbox)
    #[arg(long)]
    confirm_run_unsafe_code: bool,
    /// Refused: off-protocol for every task
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "default")]
    apply_chat_template: Option<String>,
    /// Refused: off-protocol for every task
    #[arg(long, value_name = "TEXT")]
    system_instruction: Option<String>,
    /// Refused: off-protocol for every task
    #[arg(long)]
    fewshot_as_multiturn: bool,
}

impl RunArgs {
    /// Which engine answers.
    ///
    /// # Errors
    /// Exit 2: no model named, or lm-eval arguments that contradict each other or cannot be honoured.
    pub fn model_choice(&self) -> Result<ModelChoice, Failure> {
        model_choice::of(self)
    }

    /// The generation settings of `--gen-kwargs`, checked.
    ///
    /// # Errors
    /// Exit 2, naming the setting, its value and what it may be.
    pub fn generation(&self) -> Result<Vec<Override>, Failure> {
        let usage = |why| Failure::new(Exit::Usage, format!("--gen-kwargs: {why}"));
        let pairs = values::key_values(self.gen_kwargs.as_deref().unwrap_or_default()).map_err(usage)?;
        pairs.iter().map(|(key, value)| Override::parse(key, value).map_err(usage)).collect()
    }

    /// Refuses what cannot work whatever the machine, and returns the notes that a person should see before the run starts.
    ///
    /// # Errors
    /// Exit 2, naming the flag.
    pub fn check(&self) -> Result<Vec<String>, Failure> {
        let given = &self.compatibility;
        let refused = [
            (given.apply_chat_template.is_some(), "--apply-chat-template"),
            (given.system_instruction.is_some(), "--system-instruction"),
            (given.fewshot_as_multiturn, "--fewshot-as-multiturn"),
        ];
        if let Some((_, flag)) = refused.into_iter().find(|(given, _)| *given) {
            let message =
                format!("{flag} is off-protocol for every task of this version, which all use plain completion, and is not built");
            return Err(Failure::new(Exit::Usage, message)
                .hint("leave the flag out: the protocol asks Instruct models without a chat template too"));
        }
        if self.suite.is_empty() && self.tasks.is_empty() && self.resume.is_none() {
            return Err(Failure::new(Exit::Usage, "nothing to run: neither --suite nor --tasks is given")
                .hint("add --suite ja, or --tasks with names from `swallow-eval tasks list`"));
        }
        let mut notes = self.without_effect();
        notes.extend(model_choice::notes(self));
        Ok(notes)
    }

    fn without_effect(&self) -> Vec<String> {
        let given = &self.compatibility;
        let table = [
            (given.log_samples, "--log-samples", "samples are logged unless --no-log-samples is given"),
            (given.batch_size.is_some(), "--batch-size", "batches are packed by token budget, and answers do not depend on them"),
            (given.seed.is_some(), "--seed", "it does not touch the shots of a pinned protocol, and greedy decoding draws nothing"),
            (given.use_cache.is_some(), "--use-cache", "the run's journal keeps every answer; --resume RUN goes on with it"),
            (given.no_cache, "--no-cache", "no answer is taken from another run"),
            (given.trust_remote_code, "--trust-remote-code", "code of a model's repository is never run"),
            (
                given.confirm_run_unsafe_code,
                "--confirm-run-unsafe-code",
                "programs run in the sandbox; --sandbox none --i-understand-untrusted-code runs them without",
            ),
        ];
        let said = table.into_iter().filter(|(given, ..)| *given);
        said.map(|(_, flag, why)| format!("{flag} is accepted for compatibility and has no effect: {why}")).collect()
    }
}
