//! Llama and Qwen2 as a packed forward pass: rows of many sequences go through every layer together, keys and values live in pages,
//! logits are made only for the rows that are wanted.
//!
//! Two backends compute a step: the CPU's own kernels, and tensor operations on any device, or on several that hold the model together.
//! Whoever runs steps does not know which.

use super::TensorOps;
use super::config::Config;
use super::device::{Numbers, Place};
use super::dist::{
    ranks::{Open, Ranks},
    share::Share,
};
use super::kernels::Kernels;
use super::kv::Pool;
use super::ops::{RowRead, Segment, cpu::RopeTable};
use super::tensors::{Tensors, Way};
use super::weights::Rounding;
use crate::engine::EngineError;
use rayon::{ThreadPool, prelude::*};
use std::sync::Arc;

/// Rows of logits made at once: 256 rows of a 128k vocabulary are 131 MB in f32.
pub(super) const LOGIT_ROWS: usize = 256;

/// A loaded model.
pub struct Model {
    config: Config,
    rope: RopeTable,
    backend: Arc<Backend>,
    numbers: Numbers,
    ops: TensorOps,
    /// Devices that hold it together; mostly one.
    places: Vec<Place>,
    /// Threads of its own; rayon's where `None`.
    threads: Option<Arc<ThreadPool>>,
    /// Tokens whose keys and values there is room for, where that is known.
    room: Option<usize>,
}

/// Who computes a step.
enum Backend {
    Kernels(Kernels),
    Tensors(Tensors),
    Ranks(Ranks),
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
    /// Takes the tensors out of what `open` gives, to where they are computed with: one device, or several with a share of the model each.
    ///
    /// # Errors
    /// A missing or misshapen tensor; a model that does not divide; a device whose memory is used up.
    pub(super) fn load(
        config: Config,
        places: &[Place],
        numbers: Numbers,
        ops: TensorOps,
        threads: Option<usize>,
        open: Open<'_, '_>,
    ) -> Result<Self, EngineError> {
        let whole = || open(&places[0], Share::WHOLE);
        let backend = match numbers {
            Numbers::Tensors { dtype, logits } if places.len() > 1 => {
                Backend::Ranks(Ranks::load(&config, places, Way { dtype, logits, ops }, threads, open)?)
            }
            Numbers::Tensors { dtype, logits } => {
                Backend::Tensors(Tensors::load(&config, &whole()?, places[0].device(), Way { dtype, logits, ops })?)
            }
            Numbers::Kernels { .. } => Backend::Kernels(Kernels::load(&config, &whole()?)?),
        };
        let rope = RopeTable::new(config.rope.inverse_frequencies(config.head_dim));
        let threads = super::threads(threads)?.map(Arc::new);
        Ok(Model { config, rope, backend: Arc::new(backend), numbers, ops, places: places.to_vec(), threads, room: None })
    }

    /// The same model over the same weights, for other requests at the same time.
    pub(super) fn twin(&self) -> Self {
        Model {
            config: self.config.clone(),
            rope: self.rope.clone(),
            backend: Arc::clone(&self.backend),
            numbers: self.numbers,
            ops: self.ops,
            places: self.places.clone(),
            threads: self.threads.clone(),
            room: self.room,
        }
    }

    /// The same with room for the keys and values of so many tokens at once and no more. The CPU's kernels take what they need.
    #[must_use]
    pub fn within(self, tokens: usize) -> Self {
        Model { room: Some(tokens), ..self }
    }

    /// How far logits can be trusted: what they, or what they are made of, were rounded to.
    pub fn logits(&self) -> Rounding {
        self.numbers.noise()
    }

    /// In which numbers it computes.
    pub fn numbers(&self) -> Numbers {
        self.numbers
    }

    /// The first of the devices where it computes.
    pub fn place(&self) -> &Place {
        &self.places[0]
    }

    /// All devices that hold it together.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Their names: `cuda:0+cuda:1`.
    pub fn places_named(&self) -> String {
        self.places.iter().map(Place::name).collect::<Vec<_>>().join("+")
    }

    /// Where, by whom and in which numbers, for people: `cpu, kernels, f32`.
    pub fn on(&self) -> String {
        let (places, ranks) = (self.places_named(), format!("tensor parallel {}", self.places.len()));
        let by = match &*self.backend {
            Backend::Kernels(_) => "kernels",
            Backend::Tensors(_) | Backend::Ranks(_) if self.ops == TensorOps::Fused => "fused tensors",
            Backend::Tensors(_) | Backend::Ranks(_) => "tensors",
        };
        let ranks = (self.places.len() > 1).then_some(ranks.as_str());
        let words = [Some(places.as_str()), Some(by), Some(self.numbers.label()), self.place().hardware(), ranks];
        words.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// Shape and constants.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A pool for this model's keys and values.
    pub fn pool(&self) -> Pool {
        match &*self.backend {
            Backend::Kernels(_) => Pool::new(self.config.layers, self.config.kv_heads, self.config.head_dim),
            Backend::Tensors(tensors) => Pool::of_tensors(vec![tensors.pages(self.room)]),
            Backend::Ranks(ranks) => Pool::of_tensors(ranks.pages(self.room)),
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
        match &*self.backend {
            Backend::Kernels(kernels) => kernels.compute(step, &self.rope, pool, &mut check),
            Backend::Tensors(tensors) => tensors.compute(step, &self.rope, pool, &mut check),
            Backend::Ranks(ranks) => ranks.compute(step, &self.rope, pool, &mut check),
        }
    }
}
