//! Llama and Qwen2 as a packed forward pass: rows of many sequences go through every layer together, keys and values live in pages,
//! logits are made only for the rows that are wanted.
//!
//! Two backends compute a step: the CPU's own kernels, and tensor operations on any device. Whoever runs steps does not know which.

use super::TensorOps;
use super::config::Config;
use super::device::{Numbers, Place};
use super::kernels::Kernels;
use super::kv::Pool;
use super::ops::{RowRead, Segment, cpu::RopeTable};
use super::tensors::Tensors;
use super::weights::{ModelFiles, Rounding, Weights};
use crate::engine::EngineError;
use rayon::{ThreadPool, prelude::*};

/// Rows of logits made at once: 256 rows of a 128k vocabulary are 131 MB in f32.
pub(super) const LOGIT_ROWS: usize = 256;

/// A loaded model.
pub struct Model {
    config: Config,
    rope: RopeTable,
    backend: Backend,
    numbers: Numbers,
    place: Place,
    /// Threads of its own; rayon's where `None`.
    threads: Option<ThreadPool>,
}

/// Who computes a step.
enum Backend {
    Kernels(Kernels),
    Tensors(Tensors),
}

/// The packed rows of one step.
#[derive(Clone, Copy)]
pub(super) struct Step<'s> {
    /// A token a row.
    pub(super) ids: &'s [u32],
    /// Whose rows they are.
    pub(super) segments: &'s [Segment],
    /// Rows whose logits are wanted, in order.
    pub(super) wanted: &'s [u32],
    /// What is wanted of each.
    pub(super) readings: &'s [Reading],
}

/// What is wanted of a row's logits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// All of them.
    Whole,
    /// The largest, and the log-probabilities of these tokens. A backend may give all nevertheless.
    Targets(Vec<u32>),
}

impl Reading {
    /// Tokens whose log-probabilities are wanted; none where the whole row is.
    pub fn targets(&self) -> &[u32] {
        match self {
            Reading::Whole => &[],
            Reading::Targets(targets) => targets,
        }
    }
}

/// A row of logits, or what was wanted of it.
#[derive(Clone, Copy, Debug)]
pub enum RowLogits<'l> {
    /// `vocab_size` values.
    Whole(&'l [f32]),
    /// Read where the logits were made.
    Read(&'l RowRead),
}

/// Some wanted rows as a backend made them.
pub(super) struct MadeRows {
    /// Whole rows, `vocab_size` values each: those that are not in `read`.
    pub(super) logits: Vec<f32>,
    /// For each row what was read off it, `None` where the row is whole; empty where all are.
    pub(super) read: Vec<Option<RowRead>>,
}

/// Takes some wanted rows as a backend made them: the first one's index into the wanted rows, then the rows.
pub(super) type RawLogits<'r> = &'r mut (dyn FnMut(usize, MadeRows) -> Result<(), EngineError> + Send);

/// Takes some wanted rows: the first one's index into the wanted rows, then the rows.
pub type ReadLogits<'r> = &'r mut (dyn FnMut(usize, &[RowLogits<'_>]) + Send);

impl Model {
    /// Takes the tensors out of the weight files, to where they are computed with.
    ///
    /// # Errors
    /// A missing or misshapen tensor; a device whose memory is used up.
    pub fn load(
        config: Config,
        files: &ModelFiles,
        place: &Place,
        numbers: Numbers,
        threads: Option<ThreadPool>,
    ) -> Result<Self, EngineError> {
        let weights = Weights::open(files, place.device(), numbers.weights())?;
        Model::with_weights(config, &weights, place, numbers, threads)
    }

    /// A model of this shape with random weights: as fast as a real one, and good for nothing else.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn random(config: Config, place: &Place, numbers: Numbers, threads: Option<ThreadPool>) -> Result<Self, EngineError> {
        Model::with_weights(config, &Weights::random(place.device(), numbers.weights()), place, numbers, threads)
    }

    fn with_weights(
        config: Config,
        weights: &Weights<'_>,
        place: &Place,
        numbers: Numbers,
        threads: Option<ThreadPool>,
    ) -> Result<Self, EngineError> {
        let backend = match numbers {
            Numbers::Kernels { .. } => Backend::Kernels(Kernels::load(&config, weights)?),
            Numbers::Tensors { dtype, logits } => Backend::Tensors(Tensors::load(&config, weights, place.device(), dtype, logits)?),
        };
        let rope = RopeTable::new(config.rope.inverse_frequencies(config.head_dim));
        Ok(Model { config, rope, backend, numbers, place: place.clone(), threads })
    }

    /// The same with room for the keys and values of so many tokens at once and no more. The CPU's kernels take what they need.
    #[must_use]
    pub fn within(self, tokens: usize) -> Self {
        let backend = match self.backend {
            Backend::Kernels(kernels) => Backend::Kernels(kernels),
            Backend::Tensors(tensors) => Backend::Tensors(tensors.within(tokens)),
        };
        Model { backend, ..self }
    }

    /// The same by other operations. The CPU's kernels have no others.
    #[must_use]
    pub fn by(self, ops: TensorOps) -> Self {
        let backend = match self.backend {
            Backend::Kernels(kernels) => Backend::Kernels(kernels),
            Backend::Tensors(tensors) => Backend::Tensors(tensors.by(ops)),
        };
        Model { backend, ..self }
    }

    /// How far logits can be trusted: what they, or what they are made of, were rounded to.
    pub fn logits(&self) -> Rounding {
        self.numbers.noise()
    }

    /// In which numbers it computes.
    pub fn numbers(&self) -> Numbers {
        self.numbers
    }

    /// Where it computes.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Where, by whom and in which numbers, for people: `cpu, kernels, f32`.
    pub fn on(&self) -> String {
        let by = match &self.backend {
            Backend::Kernels(_) => "kernels",
            Backend::Tensors(tensors) if tensors.ops() == TensorOps::Fused => "fused tensors",
            Backend::Tensors(_) => "tensors",
        };
        let words = [Some(self.place.name()), Some(by), Some(self.numbers.label()), self.place.hardware()];
        words.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// Shape and constants.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A pool for this model's keys and values.
    pub fn pool(&self) -> Pool {
        match &self.backend {
            Backend::Kernels(_) => Pool::new(self.config.layers, self.config.kv_heads, self.config.head_dim),
            Backend::Tensors(tensors) => Pool::of_tensors(tensors.pages()),
        }
    }

    /// One step: `ids` are the packed rows, `segments` say whose they are; the pages of every segment must be reserved. Hands all wanted rows
    /// (`readings` say what is wanted of each) to `read`, in order, some rows at a time.
    ///
    /// # Errors
    /// Where a logit is not a number; where a device fails.
    pub fn step(
        &mut self,
        (ids, segments): (&[u32], &[Segment]),
        (wanted, readings): (&[u32], &[Reading]),
        pool: &mut Pool,
        read: ReadLogits<'_>,
    ) -> Result<(), EngineError> {
        self.rope.reach(segments.iter().map(|s| s.position + s.rows).max().unwrap_or(0));
        let step = Step { ids, segments, wanted, readings };
        match &self.threads {
            Some(threads) => threads.install(|| self.compute(step, pool, read)),
            None => self.compute(step, pool, read),
        }
    }

    fn compute(&self, step: Step<'_>, pool: &mut Pool, read: ReadLogits<'_>) -> Result<(), EngineError> {
        let (rounding, vocab) = (self.numbers.rounding(), self.config.vocab_size);
        let mut check = |first: usize, MadeRows { mut logits, read: of_rows }: MadeRows| {
            logits.par_chunks_mut(1 << 16).for_each(|part| rounding.apply(part));
            let is_nan = logits.par_chunks(1 << 16).any(|part| part.iter().any(|l| l.is_nan()));
            if is_nan || of_rows.iter().flatten().any(|row| row.largest.is_nan()) {
                let why = "the model failed: a logit is not a number: the weights are broken, or too large for the data type";
                return Err(EngineError::new(why));
            }
            let mut whole = logits.chunks_exact(vocab).map(RowLogits::Whole);
            let rows: Vec<RowLogits<'_>> = if of_rows.is_empty() {
                whole.collect()
            } else {
                of_rows.iter().filter_map(|row| row.as_ref().map(RowLogits::Read).or_else(|| whole.next())).collect()
            };
            read(first, &rows);
            Ok(())
        };
        match &self.backend {
            Backend::Kernels(kernels) => kernels.compute(step, &self.rope, pool, &mut check),
            Backend::Tensors(tensors) => tensors.compute(step, &self.rope, pool, &mut check),
        }
    }
}
