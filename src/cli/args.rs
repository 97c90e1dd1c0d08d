//! The verbs and their flags. Parsing only: what a verb does stands in its own file.

use super::{
    baseline::BaselineArgs, bench::BenchArgs, compare::CompareArgs, data::DataCommand, export::ExportArgs, gate::GateArgs,
    judge::JudgeArgs, leaderboard::LeaderboardArgs, merge::MergeArgs, report::ReportArgs, run_args::RunArgs, sandbox::SandboxArgs, values,
};
use clap::{Args, Parser, Subcommand};
use std::{num::NonZeroUsize, path::PathBuf};

const SETTINGS: &str = "\
Settings: every flag can also be set elsewhere. From strongest to weakest:
  1. the flag itself                       --limit 40
  2. the file named by --config            limit = 40
  3. an environment variable               SWALLOW_EVAL_LIMIT=40
  4. .env in the working directory         SWALLOW_EVAL_LIMIT=40
  5. swallow-eval.toml in the working directory: a top-level key for all verbs,
     or a key of the verb's table          [run]  limit = 40
Long flags may be written with underscores (--num_fewshot), as other harnesses do.

Keys and tokens come from the environment or .env only: OPENAI_API_KEY (or SWALLOW_EVAL_API_KEY), HF_TOKEN.

Exit codes: 0 done or gate GO, 1 certify mismatch or gate NO-GO, 2 usage or unreadable input, 3 run incomplete, 4 data missing or wrong,
5 engine or endpoint cannot do it, 6 gate inconclusive, 70 a bug, 130 interrupted (the journal is kept).";

/// Reproduces the evaluation tables of the Llama 3.1 Swallow model card.
#[derive(Debug, Parser)]
#[command(name = "swallow-eval", version, about, after_help = SETTINGS, max_term_width = 110)]
#[command(disable_help_subcommand = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask a model and score its answers
    #[command(after_help = SETTINGS)]
    Run(Box<RunArgs>),
    /// Score the recorded answers of a run again, without a model
    Score(ScoreArgs),
    /// Let a judge rate the recorded answers of a run: the first time, what is missing, or a second judge beside the first
    Judge(Box<JudgeArgs>),
    /// Show recorded runs as a table or a page: terminal, Markdown, CSV, JSON, LaTeX, JUnit, HTML
    Report(ReportArgs),
    /// Compare two runs document by document: paired tests, changed documents
    Compare(CompareArgs),
    /// Judge a comparison by a policy, for CI: GO 0, NO-GO 1, INCONCLUSIVE 6
    Gate(GateArgs),
    /// Write what a comparison needs of a run as one small file to commit
    Baseline(BaselineArgs),
    /// Put many runs into one table, published rows beside them
    Leaderboard(LeaderboardArgs),
    /// Join the shards of a run (`run --shard i/n`) into one run
    Merge(MergeArgs),
    /// Write a recorded run in the files of lm-eval, of the original team, or of the Hugging Face hub
    Export(ExportArgs),
    /// Replay recorded goldens of the original harnesses through this program
    Certify(CertifyArgs),
    /// List and show tasks, and preview their exact prompts
    #[command(subcommand)]
    Tasks(TasksCommand),
    /// List, download, verify and carry data sets
    #[command(subcommand)]
    Data(DataCommand),
    /// Measure how fast a model or another part is
    Bench(Box<BenchArgs>),
    /// Say what works on this machine
    Doctor(DoctorArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Run programs from standard input: what the sandbox starts as its helper
    #[command(name = crate::sandbox::pool::HELPER_VERB, hide = true)]
    Sandbox,
}

/// Flags of `score`.
#[derive(Clone, Debug, Args)]
pub struct ScoreArgs {
    /// Run directory
    pub run: PathBuf,
    /// Show this published row beside ours
    #[arg(long, value_name = "NAME")]
    pub against: Option<String>,
    /// Read task files from this folder too
    #[arg(long, value_name = "DIR")]
    pub include_path: Option<PathBuf>,
    /// Only the table
    #[arg(long, short = 'q')]
    pub quiet: bool,
    /// How programs are executed
    #[command(flatten)]
    pub programs: SandboxArgs,
}

/// Flags of `certify`.
#[derive(Clone, Debug, Args)]
pub struct CertifyArgs {
    /// Golden folders, or folders of them; the committed, self-written goldens unless given
    pub dirs: Vec<PathBuf>,
    /// Threads of the in-process engine; all cores unless given
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// How programs are executed
    #[command(flatten)]
    pub programs: SandboxArgs,
}

/// `tasks` and what follows it.
#[derive(Clone, Debug, Subcommand)]
pub enum TasksCommand {
    /// One line a task: name, column, metric, shots, data set, aliases
    List {
        /// Only the tasks of this suite
        #[arg(long, value_name = "NAME", value_parser = values::suite)]
        suite: Option<String>,
        /// Read task files from this folder too
        #[arg(long, value_name = "DIR")]
        include_path: Option<PathBuf>,
    },
    /// The task file, with where it comes from
    Show {
        /// Name or alias
        task: String,
        /// Read task files from this folder too
        #[arg(long, value_name = "DIR")]
        include_path: Option<PathBuf>,
    },
    /// The exact prompt of a document, and its token ids when a tokenizer is named
    Preview(PreviewArgs),
}

/// Flags of `tasks preview`.
#[derive(Clone, Debug, Args)]
pub struct PreviewArgs {
    /// Name or alias
    pub task: String,
    /// Which document: its index in the evaluation split, or the id that samples.jsonl shows
    #[arg(long, value_name = "ID", default_value = "0")]
    pub doc: String,
    /// Another number of shots than the protocol's
    #[arg(long, short = 'f', value_name = "N")]
    pub num_fewshot: Option<u32>,
    /// Show token ids of this tokenizer: hub id or directory
    #[arg(long, value_name = "NAME")]
    pub tokenizer: Option<String>,
    /// Use the bundled samples instead of the data set
    #[arg(long)]
    pub demo: bool,
    /// Open no connection
    #[arg(long)]
    pub offline: bool,
    /// Replace scheme and host of every data-set URL (a mirror)
    #[arg(long, value_name = "URL")]
    pub data_url: Option<String>,
    /// Read task files from this folder too
    #[arg(long, value_name = "DIR")]
    pub include_path: Option<PathBuf>,
}

/// Flags of `doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// Servers to look at, comma separated
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub base_url: Vec<String>,
    /// Name of the model those servers should have
    #[arg(long, short = 'M', value_name = "MODEL")]
    pub model: Option<String>,
    /// Open no connection but to --base-url
    #[arg(long)]
    pub offline: bool,
}

/// Flags of `completions`.
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell
    pub shell: clap_complete::Shell,
}
