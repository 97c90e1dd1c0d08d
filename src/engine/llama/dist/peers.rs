//! The sum over devices that tensor parallelism needs: every rank gives a tensor, every rank gets the sum of all.
//!
//! On the host ranks meet in memory, and the sum is taken in the order of ranks in f32 and rounded once: the same bits at every run. On GPUs
//! in a build with the feature `nccl` NCCL adds up, each device by itself and without waiting for the host.
//!
//! A rank that fails takes the others with it: nobody waits for a sum that will never come.

use super::nccl::Nccl;
use crate::engine::EngineError;
use crate::engine::llama::device::Place;
use candle_core::{DType, Device, Error, Result, Tensor};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

/// The devices of one model.
#[derive(Debug)]
pub(in crate::engine::llama) struct Peers {
    ranks: usize,
    way: Way,
    /// The rank that failed first.
    culprit: OnceLock<usize>,
}

/// How a sum is taken.
#[derive(Debug)]
enum Way {
    Host(Meeting),
    Nccl(Nccl),
}

/// One rank's end.
#[derive(Clone, Debug)]
pub(in crate::engine::llama) struct Peer {
    rank: usize,
    peers: Arc<Peers>,
}

/// Tells the others when a rank goes without having done its work, by an error or a panic.
pub(super) struct Presence<'p> {
    peer: &'p Peer,
    done: bool,
}

impl Peers {
    /// Joins the devices of one model.
    ///
    /// # Errors
    /// When NCCL cannot join GPUs.
    pub(super) fn join(places: &[Place]) -> std::result::Result<Arc<Self>, EngineError> {
        let way = match Nccl::join(places)? {
            Some(nccl) => Way::Nccl(nccl),
            None => Way::Host(Meeting::new(places.len())),
        };
        Ok(Arc::new(Peers { ranks: places.len(), way, culprit: OnceLock::new() }))
    }

    /// The ends of all ranks, in order.
    pub(super) fn ends(self: &Arc<Self>) -> Vec<Peer> {
        (0..self.ranks).map(|rank| Peer { rank, peers: Arc::clone(self) }).collect()
    }

    /// Who failed first.
    pub(super) fn culprit(&self) -> Option<usize> {
        self.culprit.get().copied()
    }

    /// Nobody waits from now on: every sum is an error.
    pub(super) fn give_up(&self, rank: usize) {
        self.culprit.get_or_init(|| rank);
        match &self.way {
            Way::Host(meeting) => meeting.give_up(),
            Way::Nccl(nccl) => nccl.give_up(),
        }
    }
}

impl Peer {
    /// The sum of what all ranks give, on this rank's device. All ranks must ask for the same sums in the same order.
    ///
    /// # Errors
    /// When the shapes differ, when another rank failed, when a device fails.
    pub(in crate::engine::llama) fn sum(&self, own: &Tensor) -> Result<Tensor> {
        match &self.peers.way {
            Way::Nccl(nccl) => nccl.sum(self.rank, own),
            Way::Host(meeting) => meeting.sum(self.rank, own.to_device(&Device::Cpu)?)?.to_device(own.device()),
        }
    }

    /// Watches over a piece of this rank's work.
    pub(super) fn begin(&self) -> Presence<'_> {
        Presence { peer: self, done: false }
    }
}

impl Presence<'_> {
    /// The work is done.
    pub(super) fn end(mut self) {
        self.done = true;
    }
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.peer.peers.give_up(self.peer.rank);
        }
    }
}

/// What a rank is told that waits for one that failed. The run's error is that of the other one.
pub(super) fn deserted() -> Error {
    Error::Msg("another device of the model failed".into())
}

/// Where ranks meet on the host.
#[derive(Debug)]
struct Meeting {
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Debug)]
struct Table {
    /// What each rank gave for the sum that is being made.
    given: Vec<Option<Tensor>>,
    /// The sum, and how many ranks have still to take it.
    sum: Option<(Tensor, usize)>,
    over: bool,
}

impl Meeting {
    fn new(ranks: usize) -> Self {
        Meeting { table: Mutex::new(Table { given: vec![None; ranks], sum: None, over: false }), changed: Condvar::new() }
    }

    fn sum(&self, rank: usize, own: Tensor) -> Result<Tensor> {
        // The sum before this one stays until the last rank has taken it.
        let mut table = self.wait(|table| table.sum.is_none())?;
        table.given[rank] = Some(own);
        if table.given.iter().all(Option::is_some) {
            let given: Vec<Tensor> = table.given.iter_mut().filter_map(Option::take).collect();
            // Where shapes differ this rank fails, and its presence tells the others.
            table.sum = Some((add_up(&given)?, given.len()));
            self.changed.notify_all();
        }
        drop(table);
        let mut table = self.wait(|table| table.sum.is_some())?;
        let Some((sum, left)) = table.sum.take() else { return Err(deserted()) };
        if left > 1 {
            table.sum = Some((sum.clone(), left - 1));
        } else {
            self.changed.notify_all();
        }
        Ok(sum)
    }

    fn wait(&self, ready: impl Fn(&Table) -> bool) -> Result<MutexGuard<'_, Table>> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_while(table, |table| !table.over && !ready(table));
        let table = waited.unwrap_or_else(PoisonError::into_inner);
        if table.over { Err(deserted()) } else { Ok(table) }
    }

    fn give_up(&self) {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        self.changed.notify_all();
    }
}

/// In the order of ranks, in f32, rounded once to the type that was given.
fn add_up(given: &[Tensor]) -> Result<Tensor> {
    let (first, rest) = given.split_first().ok_or_else(deserted)?;
    let mut sum = first.to_dtype(DType::F32)?;
    for part in rest {
        sum = (sum + part.to_dtype(DType::F32)?)?;
    }
    sum.to_dtype(first.dtype())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn peers(ranks: usize) -> Vec<Peer> {
        Peers::join(&vec![Place::find("cpu-tensors").unwrap(); ranks]).unwrap().ends()
    }

    fn row(values: &[f32], dtype: DType) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    }

    fn on_all<T: Send>(peers: &[Peer], work: impl Fn(usize, &Peer) -> T + Sync) -> Vec<thread::Result<T>> {
        thread::scope(|scope| {
            let work = &work;
            let running: Vec<_> = peers.iter().enumerate().map(|(rank, peer)| scope.spawn(move || work(rank, peer))).collect();
            running.into_iter().map(|thread| thread.join()).collect()
        })
    }

    #[test]
    fn every_rank_gets_every_sum_in_the_order_of_ranks() {
        // 1e8 swallows a 1 beside it: the order of the sum shows.
        let given = [1e8f32, 1.0, -1e8];
        let peers = peers(3);
        for round in 0..200 {
            let sums = on_all(&peers, |rank, peer| {
                let later = peer.sum(&row(&[given[rank], round as f32], DType::F32)).unwrap();
                (later.to_vec1::<f32>().unwrap(), peer.sum(&row(&[1.0], DType::BF16)).unwrap().dtype())
            });
            for sum in sums {
                assert_eq!(sum.unwrap(), (vec![0.0, 3.0 * round as f32], DType::BF16));
            }
        }
    }

    #[test]
    fn sums_of_rounded_numbers_are_rounded_once() {
        // Four times 2^-9 beside 1: in bf16 each by itself is lost.
        let peers = peers(5);
        let sums = on_all(&peers, |rank, peer| peer.sum(&row(&[if rank == 0 { 1.0 } else { 1.0 / 512.0 }], DType::BF16)).unwrap());
        for sum in sums {
            assert_eq!(sum.unwrap().to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap(), [1.0 + 1.0 / 128.0]);
        }
    }

    /// A rank that ends by an error, one that panics, and one that gives another shape: no other waits, and it is known who it was.
    #[test]
    fn nobody_waits_for_a_rank_that_failed() {
        for (shape, panics) in [(2, false), (0, true), (0, false)] {
            let peers = peers(3);
            let ends = on_all(&peers, |rank, peer| {
                let presence = peer.begin();
                peer.sum(&row(&[1.0], DType::F32))?;
                if rank == 1 && shape == 0 {
                    assert!(!panics, "a rank that panics");
                    return Err(Error::Msg("out of memory".into()));
                }
                let own = if rank == 1 { vec![1.0; shape] } else { vec![1.0] };
                let sum = peer.sum(&row(&own, DType::F32))?;
                presence.end();
                Ok(sum)
            });
            let failed = ends.iter().filter(|end| !matches!(end, Ok(Ok(_)))).count();
            assert_eq!(failed, 3, "{shape} {panics}: {ends:?}");
            if shape == 0 {
                assert_eq!(peers[0].peers.culprit(), Some(1), "{panics}");
            }
            assert!(peers[2].sum(&row(&[1.0], DType::F32)).is_err(), "and nobody begins again");
        }
    }
}
