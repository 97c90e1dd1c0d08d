//! `bench` without a further word: prefill and decode of a model beside the peaks of this machine.

use super::{limits, tell};
use crate::{
    cli::{
        data_source,
        devices::DeviceArgs,
        engines,
        exit::{Exit, Failure, Verdict},
        model_choice::InProcess,
        output::note,
        threads::with_threads,
        values::{Dtype, Ops},
    },
    engine::llama::{
        LogitType,
        batch::Limits,
        config::Config,
        device::Numbers,
        dist::replicas::Replicas,
        memory, shapes,
        throughput::{self, Peaks, Workload},
    },
    results::spec::Machine,
    run::measure::Measurement,
};
use clap::builder::PossibleValuesParser;
use serde::Serialize;
use std::num::NonZeroUsize;

/// Time a model: prefill, decode, and what sharing saves.
#[derive(clap::Args, Clone, Debug)]
pub struct ModelArgs {
    /// Hub id or directory of the model
    #[arg(long, short = 'M', value_name = "NAME", required_unless_present = "random_weights")]
    pub model: Option<String>,
    /// A model of this shape with random weights, where the real ones are not at hand
    #[arg(long, value_name = "SHAPE", value_parser = PossibleValuesParser::new(shapes::NAMES), conflicts_with = "model")]
    pub random_weights: Option<String>,
    /// Data type of the weights
    #[arg(long, value_name = "TYPE", value_enum, default_value = "auto")]
    pub dtype: Dtype,
    /// Where it computes
    #[command(flatten)]
    pub devices: DeviceArgs,
    /// Operations of a GPU besides matrix products: eager (the tensor library's) or fused (this program's own) [default: eager]
    #[arg(long, value_name = "NAME", value_enum, hide_short_help = true)]
    pub tensor_ops: Option<Ops>,
    /// Threads; all cores unless given
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Tokens of the prompt whose prefill is timed
    #[arg(long, value_name = "N", default_value = "512")]
    pub prompt: NonZeroUsize,
    /// How many sequences are decoded at once, comma separated
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,16,64")]
    pub batch: Vec<NonZeroUsize>,
    /// New tokens of each sequence
    #[arg(long, value_name = "N", default_value = "32", value_parser = clap::value_parser!(u32).range(2..))]
    pub new: u32,
    /// Documents of the workload with shared shots; 0 leaves it out
    #[arg(long, value_name = "N", default_value = "16")]
    pub documents: usize,
    /// Tokens that their prompts begin with
    #[arg(long, value_name = "N", default_value = "400")]
    pub shared: usize,
    /// Further tokens of each
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    pub own: u32,
    /// Compute every prompt by itself
    #[arg(long)]
    pub no_prefix_sharing: bool,
    /// Open no connection
    #[arg(long)]
    pub offline: bool,
}

/// A measurement with what it says about the machine and the plan.
#[derive(Serialize)]
struct Detailed {
    #[serde(flatten)]
    measured: Measurement,
    /// What was measured: `cpu, kernels, f32`, `cuda:0, tensors, bf16, NVIDIA ...`.
    on: String,
    /// Part of the matrix-product peak.
    #[serde(skip_serializing_if = "Option::is_none")]
    share_of_matmul: Option<f64>,
    /// Part of the copy peak.
    #[serde(skip_serializing_if = "Option::is_none")]
    share_of_copy: Option<f64>,
    /// Prompt tokens that were not computed, because another prompt begins with them.
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_tokens: Option<u64>,
    /// Prompt tokens that were computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    computed_tokens: Option<u64>,
}

impl Detailed {
    fn new(measured: Measurement, model: &Replicas) -> Self {
        Detailed { measured, on: model.on(), share_of_matmul: None, share_of_copy: None, shared_tokens: None, computed_tokens: None }
    }
}

/// Prints a line each for: the documents, the two peaks (`n` in operations and bytes), prefill (tokens), decode at each batch size (tokens).
pub(super) fn run(args: &ModelArgs) -> Verdict {
    let mut model = load(args)?;
    with_threads(args.threads, || measure(args, &mut model))?
}

fn measure(args: &ModelArgs, model: &mut Replicas) -> Verdict {
    // First of all, so that its peak memory is its own.
    if args.documents > 0 {
        documents(args, model)?;
    }
    let peaks = throughput::peaks(model.first()).map_err(engines::failure)?;
    tell(&Detailed::new(Measurement::new("matmul", peaks.flops as u64, 1.0), model))?;
    tell(&Detailed::new(Measurement::new("copy", peaks.bytes as u64, 1.0), model))?;
    // Shares are of what all devices can do.
    let peaks = peaks.times(model.devices());
    prefill(args, model, peaks)?;
    for batch in &args.batch {
        decode(args, model, peaks, batch.get())?;
    }
    Ok(Exit::Ok)
}

fn load(args: &ModelArgs) -> Result<Replicas, Failure> {
    let threads = args.threads.map(NonZeroUsize::get);
    let Some(name) = &args.random_weights else {
        let model = args.model.clone().unwrap_or_default();
        let dtype = args.dtype.name().map(str::to_owned);
        let choice = InProcess { model, dtype, devices: args.devices.clone(), tensor_ops: args.tensor_ops.into(), ..InProcess::default() };
        let llama = engines::load(&choice, args.threads, data_source::network(args.offline), Limits::default())?;
        return Ok(llama.into_models());
    };
    let config = shapes::config(name).ok_or_else(|| Failure::new(Exit::Bug, "a shape that is listed is not found"))?;
    let layout = args.devices.find()?;
    // The shapes are those of models whose weights are bf16.
    let numbers =
        Numbers::of(layout.first().backend(), args.dtype.name(), Some("bfloat16"), LogitType::AsWeights).map_err(engines::failure)?;
    let room = memory::room(&config, numbers, Limits::default(), &layout).map_err(engines::failure)?;
    if room.is_none() {
        fits(name, &config)?;
    }
    let model = Replicas::random(&config, &layout, numbers, args.tensor_ops.into(), threads).map_err(engines::failure)?;
    Ok(match room {
        None => model,
        Some(room) => {
            note(&room.told);
            model.within(room.tokens)
        }
    })
}

/// Refuses a model that this machine cannot hold, before minutes are spent on filling its memory.
fn fits(name: &str, config: &Config) -> Result<(), Failure> {
    const GIB: f64 = (1u64 << 30) as f64;
    let (needed, Some(kib)) = (config.weight_bytes() as f64, Machine::current().memory_kib) else { return Ok(()) };
    let memory = kib as f64 * 1024.0;
    if needed < memory {
        return Ok(());
    }
    let message = format!("{name} needs {:.1} GiB for its weights in f32, and this machine has {:.1} GiB", needed / GIB, memory / GIB);
    Err(Failure::new(Exit::Engine, message).hint(format!("--random-weights takes {}", shapes::NAMES.join(", "))))
}

/// A prompt by itself, of several replicas one for each; the best of some tries. Its last row goes through the head.
fn prefill(args: &ModelArgs, model: &mut Replicas, peaks: Peaks) -> Result<(), Failure> {
    const TRIES: usize = 3;
    let work = Workload { documents: model.count(), shared: 0, own: args.prompt.get(), new: 1 };
    let mut best: Option<throughput::Taken> = None;
    for _ in 0..TRIES {
        let taken = throughput::run(model, work, limits(args.no_prefix_sharing)).map_err(engines::failure)?;
        if best.as_ref().is_none_or(|best| taken.stats.prefill_seconds < best.stats.prefill_seconds) {
            best = Some(taken);
        }
    }
    let Some(best) = best else { return Ok(()) };
    let share_of_matmul = Some(best.share_of_flops(model.first().config(), model.count() as u64, peaks));
    let measured = Measurement::new("prefill", best.stats.prefill_tokens, best.stats.prefill_seconds);
    tell(&Detailed { share_of_matmul, ..Detailed::new(measured, model) })
}

/// Sequences that share the prompt and go their own ways after it.
fn decode(args: &ModelArgs, model: &mut Replicas, peaks: Peaks, batch: usize) -> Result<(), Failure> {
    let work = Workload { documents: batch, shared: args.prompt.get() - 1, own: 1, new: args.new as usize };
    let limits = Limits { live: batch, ..limits(args.no_prefix_sharing) };
    let taken = throughput::run(model, work, limits).map_err(engines::failure)?;
    let tokens = (batch * (work.new - 1)) as u64;
    let share_of_copy = Some(taken.share_of_bytes(model, work, peaks));
    let measured = Measurement::new(format!("decode {batch}"), tokens, taken.stats.decode_seconds);
    tell(&Detailed { share_of_copy, ..Detailed::new(measured, model) })
}

/// Documents from the first prompt token to the last new one; `n` counts documents.
fn documents(args: &ModelArgs, model: &mut Replicas) -> Result<(), Failure> {
    let work = Workload { documents: args.documents, shared: args.shared, own: args.own as usize, new: args.new as usize };
    let taken = throughput::run(model, work, limits(args.no_prefix_sharing)).map_err(engines::failure)?;
    let (shared_tokens, computed_tokens) = (Some(taken.stats.shared_tokens), Some(taken.stats.prefill_tokens));
    let measured = Measurement::new("documents", work.documents as u64, taken.seconds);
    tell(&Detailed { shared_tokens, computed_tokens, ..Detailed::new(measured, model) })
}
