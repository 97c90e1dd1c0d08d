//! Data parallelism: a whole model on every device, each with a part of the requests. Answers come back as they are known, in one stream.

use super::layout::{self, Layout};
use super::split::split;
use crate::engine::llama::TensorOps;
use crate::engine::llama::batch::{self, Limits, Listener, TokenOutput, TokenRequest};
use crate::engine::llama::config::Config;
use crate::engine::llama::device::{Numbers, Place};
use crate::engine::llama::model::Model;
use crate::engine::llama::weights::{ModelFiles, Weights};
use crate::engine::{EngineError, Stats};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// The same model once or several times.
pub struct Replicas {
    /// At least one.
    models: Vec<Model>,
}

/// What a replica sends: the request's index, and its answer.
type Answer = (usize, TokenOutput);

impl Replicas {
    /// Takes the tensors out of the weight files, to every device that computes with them.
    ///
    /// # Errors
    /// A missing or misshapen tensor; a model that does not divide; a device whose memory is used up.
    pub fn load(
        config: &Config,
        files: &ModelFiles,
        layout: &Layout,
        numbers: Numbers,
        ops: TensorOps,
        threads: Option<usize>,
    ) -> Result<Self, EngineError> {
        Replicas::of(layout, |replica| {
            Model::load(config.clone(), replica, numbers, ops, threads, &|place, share| {
                Ok(Weights::open(files, place.device(), numbers.weights())?.of_share(share))
            })
        })
    }

    /// Models of this shape with random weights: as fast as real ones, and good for nothing else.
    ///
    /// # Errors
    /// As [`Replicas::load`].
    pub fn random(config: &Config, layout: &Layout, numbers: Numbers, ops: TensorOps, threads: Option<usize>) -> Result<Self, EngineError> {
        Replicas::of(layout, |replica| {
            Model::load(config.clone(), replica, numbers, ops, threads, &|place, share| {
                Ok(Weights::random(place.device(), numbers.weights()).of_share(share))
            })
        })
    }

    /// Loads all side by side; replicas on one device use one copy of the weights.
    fn of(layout: &Layout, load: impl Fn(&[Place]) -> Result<Model, EngineError> + Sync) -> Result<Self, EngineError> {
        let replicas = layout.replicas();
        let twin_of = |at: usize| replicas[..at].iter().position(|other| layout::share_weights(other, &replicas[at]));
        let loaded: Vec<Option<Result<Model, EngineError>>> = thread::scope(|scope| {
            let load = &load;
            let mut loading = Vec::with_capacity(replicas.len());
            for (at, replica) in replicas.iter().enumerate() {
                loading.push(twin_of(at).is_none().then(|| scope.spawn(move || load(replica))));
            }
            let end = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            loading.into_iter().map(|thread| thread.map(end)).collect()
        });
        let mut models: Vec<Model> = Vec::with_capacity(replicas.len());
        for (at, loaded) in loaded.into_iter().enumerate() {
            models.push(match (loaded, twin_of(at)) {
                (None, Some(twin)) => models[twin].twin(),
                (Some(loaded), _) => loaded?,
                (None, None) => unreachable!("whoever has no twin was loaded"),
            });
        }
        Ok(Replicas { models })
    }

    /// The same with room for the keys and values of so many tokens at once, in every replica, and no more.
    #[must_use]
    pub fn within(self, tokens: usize) -> Self {
        Replicas { models: self.models.into_iter().map(|model| model.within(tokens)).collect() }
    }

    /// One of them: they compute alike.
    pub fn first(&self) -> &Model {
        &self.models[0]
    }

    /// One of them, to compute with.
    pub fn first_mut(&mut self) -> &mut Model {
        &mut self.models[0]
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.models.len()
    }

    /// Different devices that compute at once: the ranks of all replicas, of which those on a CPU are one.
    pub fn devices(&self) -> usize {
        let names = self.models.iter().flat_map(Model::places).map(|place| place.name());
        names.collect::<std::collections::BTreeSet<_>>().len()
    }

    /// Where, by whom and in which numbers, for people: `cpu, kernels, f32`.
    pub fn on(&self) -> String {
        match self.count() {
            1 => self.first().on(),
            count => {
                let each: Vec<String> = self.models.iter().map(Model::places_named).collect();
                format!("{}, data parallel {count}: {}", self.first().on(), each.join(" "))
            }
        }
    }

    /// Runs requests; a part of them in every replica: whole subtrees of their prefix tree.
    ///
    /// # Errors
    /// Broken weights; a device that fails. The others stop then.
    pub fn run(&mut self, requests: &[TokenRequest], limits: Limits, listener: &mut Listener<'_>) -> Result<Stats, EngineError> {
        if let [model] = self.models.as_mut_slice() {
            return batch::run(model, requests, limits, listener);
        }
        let parts = split(requests, self.models.len(), limits.sharing);
        let stop = AtomicBool::new(false);
        let (sender, receiver) = channel();
        let part_of = |part: &[usize]| part.iter().map(|at| requests[*at].clone()).collect::<Vec<_>>();
        let (stops, go_on) = (listener.stops, listener.go_on);
        let served: Vec<Result<Stats, EngineError>> = thread::scope(|scope| {
            let running: Vec<_> = self
                .models
                .iter_mut()
                .zip(&parts)
                .filter(|(_, part)| !part.is_empty())
                .map(|(model, part)| {
                    let (own, sender, stop) = (part_of(part), sender.clone(), &stop);
                    let go_on = move || !stop.load(Ordering::Relaxed) && go_on();
                    scope.spawn(move || {
                        let served = replica(model, &own, part, limits, stops, &go_on, &sender);
                        if served.is_err() {
                            stop.store(true, Ordering::Relaxed);
                        }
                        served
                    })
                })
                .collect();
            drop(sender);
            if pass_on(receiver, listener).is_break() {
                stop.store(true, Ordering::Relaxed);
            }
            running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        served.into_iter().try_fold(Stats::default(), |sum, stats| Ok(side_by_side(sum, &stats?)))
    }
}

/// One replica's part, its answers into the channel.
fn replica(
    model: &mut Model,
    own: &[TokenRequest],
    part: &[usize],
    limits: Limits,
    stops: &(dyn Fn(usize, &[u32]) -> bool + Sync),
    go_on: &(dyn Fn() -> bool + Sync),
    sender: &Sender<Answer>,
) -> Result<Stats, EngineError> {
    // Nobody takes answers any more when the channel is closed.
    let mut done = |at: usize, output| match sender.send((part[at], output)) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    };
    batch::run(model, own, limits, &mut Listener { stops: &|at, new| stops(part[at], new), done: &mut done, go_on })
}

/// Hands over every answer, until all replicas have ended or nobody wants more.
fn pass_on(receiver: Receiver<Answer>, listener: &mut Listener<'_>) -> ControlFlow<()> {
    receiver.into_iter().try_for_each(|(request, output)| (listener.done)(request, output))
}

/// What is counted is added; seconds pass at the same time, and the longest counts.
fn side_by_side(mut sum: Stats, other: &Stats) -> Stats {
    let (prefill, decode) = (sum.prefill_seconds.max(other.prefill_seconds), sum.decode_seconds.max(other.decode_seconds));
    sum.add(other);
    Stats { prefill_seconds: prefill, decode_seconds: decode, ..sum }
}
