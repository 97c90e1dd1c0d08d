//! Tensor parallelism: one model over several devices, a thread and a share of every layer each. Behind attention and behind the feed-forward
//! layer the devices' parts are summed; the parts of the logits are put side by side on the host.

use super::peers::{Peer, Peers, deserted};
use super::share::Share;
use crate::engine::EngineError;
use crate::engine::llama::config::Config;
use crate::engine::llama::device::{Place, failed, said};
use crate::engine::llama::kv::Pool;
use crate::engine::llama::model::{LOGIT_ROWS, MadeRows, RawLogits, Step};
use crate::engine::llama::ops::cpu::RopeTable;
use crate::engine::llama::tensors::{Tensors, Way, on_host, pages::TensorPages};
use crate::engine::llama::weights::Weights;
use candle_core::Result;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::Arc;
use std::thread;

/// Gives a share's weights on its device.
pub(in crate::engine::llama) type Open<'o, 'f> = &'o (dyn Fn(&Place, Share) -> std::result::Result<Weights<'f>, EngineError> + Sync);

/// All devices of one model.
pub(in crate::engine::llama) struct Ranks {
    ranks: Vec<Rank>,
    peers: Arc<Peers>,
}

/// One device.
struct Rank {
    name: String,
    tensors: Tensors,
    /// For what it computes on the host: of its own, because a rank that waits for another must not hold a thread that the other one needs.
    threads: ThreadPool,
}

impl Ranks {
    /// Loads every share onto its device, all side by side, and joins the devices.
    ///
    /// # Errors
    /// A model that does not divide; a missing or misshapen tensor; a device whose memory is used up; devices that cannot be joined.
    pub(in crate::engine::llama) fn load(
        config: &Config,
        places: &[Place],
        way: Way,
        threads: Option<usize>,
        open: Open<'_, '_>,
    ) -> std::result::Result<Self, EngineError> {
        Share::check(config, places.len())?;
        let each = (threads.unwrap_or_else(rayon::current_num_threads) / places.len()).max(1);
        let load = |(share, place): (Share, &Place)| {
            let threads = ThreadPoolBuilder::new().num_threads(each).build();
            let threads = threads.map_err(|e| EngineError::new(format!("failed to start threads: {e}")))?;
            let tensors = threads.install(|| Tensors::load(config, &open(place, share)?, place.device(), way));
            Ok(Rank { name: format!("{} (rank {} of {})", place.name(), share.rank, share.of), tensors: tensors?, threads })
        };
        let loaded: Vec<std::result::Result<Rank, EngineError>> = thread::scope(|scope| {
            let load = &load;
            let loading: Vec<_> = Share::all(places.len()).zip(places).map(|rank| scope.spawn(move || load(rank))).collect();
            loading.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let mut ranks = loaded.into_iter().collect::<std::result::Result<Vec<Rank>, EngineError>>()?;
        let peers = Peers::join(places)?;
        ranks.iter_mut().zip(peers.ends()).for_each(|(rank, peer)| rank.tensors.join(peer));
        Ok(Ranks { ranks, peers })
    }

    /// Pages of every rank for its heads, with room for so many tokens and no more.
    pub(in crate::engine::llama) fn pages(&self, tokens: Option<usize>) -> Vec<TensorPages> {
        self.ranks.iter().map(|rank| rank.tensors.pages(tokens)).collect()
    }

    /// One step, without what [`crate::engine::llama::model::Model`] does for every backend.
    ///
    /// # Errors
    /// What `read` says; a device that fails.
    pub(in crate::engine::llama) fn compute(
        &self,
        step: Step<'_>,
        rope: &RopeTable,
        pool: &mut Pool,
        read: RawLogits<'_>,
    ) -> std::result::Result<(), EngineError> {
        let pages: &[TensorPages] = pool.tensors()?;
        let streams = self.on_all(|rank, tensors| tensors.layers(step, rope, &pages[rank]))?;
        let Some(streams) = streams.into_iter().collect::<Option<Vec<_>>>() else { return Ok(()) };
        for first in (0..step.wanted.len()).step_by(LOGIT_ROWS) {
            let rows = LOGIT_ROWS.min(step.wanted.len() - first);
            let parts = self.on_all(|rank, tensors| on_host(&tensors.logits(&streams[rank], first, rows)?))?;
            read(first, MadeRows { logits: side_by_side(&parts, rows), read: Vec::new() })?;
        }
        Ok(())
    }

    /// Lets every rank work in its own threads; the results in the order of ranks, or the error of the rank that failed first.
    fn on_all<T: Send>(&self, work: impl Fn(usize, &Tensors) -> Result<T> + Sync) -> std::result::Result<Vec<T>, EngineError> {
        let ends = self.peers.ends();
        let mut results: Vec<Option<Result<T>>> = self.ranks.iter().map(|_| None).collect();
        let mut tasks =
            self.ranks.iter().zip(&ends).zip(&mut results).enumerate().map(|(at, ((rank, end), result))| (at, rank, end, result));
        start(&mut tasks, &work);
        let mut results: Vec<Result<T>> = results.into_iter().map(|result| result.unwrap_or_else(|| Err(deserted()))).collect();
        match self.peers.culprit().map(|culprit| (culprit, results.swap_remove(culprit))) {
            Some((culprit, Err(error))) => Err(EngineError::new(format!("device {} failed: {}", self.ranks[culprit].name, said(&error)))),
            Some((_, Ok(_))) => Err(EngineError::new(deserted().to_string())),
            None => results.into_iter().collect::<Result<_>>().map_err(failed("the devices failed")),
        }
    }
}

/// What one rank does: its number, its device, its end of the sums, and where its result goes.
type Task<'r, T> = (usize, &'r Rank, &'r Peer, &'r mut Option<Result<T>>);

/// Starts the first task in its rank's threads, then the others, and waits for all.
fn start<'r, T: Send>(tasks: &mut dyn Iterator<Item = Task<'r, T>>, work: &(impl Fn(usize, &Tensors) -> Result<T> + Sync)) {
    let Some((at, rank, end, result)) = tasks.next() else { return };
    rank.threads.in_place_scope(|scope| {
        scope.spawn(move |_| {
            // Dropped by an error or a panic, it tells the others.
            let presence = end.begin();
            let done = work(at, &rank.tensors);
            if done.is_ok() {
                presence.end();
            }
            *result = Some(done);
        });
        start(tasks, work);
    });
}

/// `[row][token]` from the tokens of each rank.
fn side_by_side(parts: &[Vec<f32>], rows: usize) -> Vec<f32> {
    let mut logits = Vec::with_capacity(parts.iter().map(Vec::len).sum());
    for row in 0..rows {
        for part in parts {
            let width = part.len() / rows;
            logits.extend_from_slice(&part[row * width..(row + 1) * width]);
        }
    }
    logits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::llama::config;
    use crate::engine::llama::kv::Sequence;
    use crate::engine::llama::model::Reading;
    use crate::engine::llama::ops::Segment;
    use crate::engine::llama::weights::ModelFiles;
    use crate::engine::llama::{LogitType, TensorOps};
    use candle_core::{DType, Device};
    use std::path::Path;

    const WAY: Way = Way { dtype: DType::F32, logits: LogitType::AsWeights, ops: TensorOps::Eager };

    #[test]
    fn rows_of_logits_are_put_together_again() {
        assert_eq!(side_by_side(&[vec![1.0, 2.0, 5.0, 6.0], vec![3.0, 7.0], vec![4.0, 8.0]], 2), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    }

    /// A device that fails in the middle of a step, when the other one has begun to wait for its part of a sum: the step ends with that
    /// device's error, and so does every later one.
    #[test]
    fn a_device_that_fails_ends_the_step_with_its_error() {
        let files = ModelFiles::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/micro-llama")).unwrap();
        let config = config::parse(&files.config, None).unwrap();
        let places = vec![Place::find("cpu-tensors").unwrap(); 2];
        let open = |place: &Place, share| Ok(Weights::open(&files, place.device(), Some(DType::F32))?.of_share(share));
        for bad in 0..2 {
            let ranks = Ranks::load(&config, &places, WAY, None, &open).unwrap();
            let mut rope = RopeTable::new(config.rope.inverse_frequencies(config.head_dim));
            rope.reach(4);
            let step = |pages: Vec<TensorPages>| {
                let mut pool = Pool::of_tensors(pages);
                let mut sequence = Sequence::default();
                pool.reserve(&mut sequence, 3);
                let segments = [Segment { row: 0, rows: 3, position: 0, pages: sequence.pages().to_vec() }];
                let step = Step { ids: &[1, 2, 300], segments: &segments, wanted: &[2], readings: &[Reading::Whole] };
                let mut logits = Vec::new();
                ranks.compute(step, &rope, &mut pool, &mut |_, rows| {
                    logits = rows.logits;
                    Ok(())
                })?;
                Ok::<_, EngineError>(logits)
            };
            assert_eq!(step(ranks.pages(None)).unwrap().len(), config.vocab_size);
            // Pages that are too narrow for this device's keys.
            let mut pages = ranks.pages(None);
            pages[bad] = TensorPages::new(config.layers, 3, DType::F32, &Device::Cpu, None);
            let error = step(pages).unwrap_err();
            assert!(error.message.starts_with(&format!("device cpu-tensors (rank {bad} of 2) failed: ")), "{error}");
            assert!(step(ranks.pages(None)).is_err(), "nobody waits afterwards");
        }
    }
}
