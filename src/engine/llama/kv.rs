//! The key-value pool: pages of [`PAGE`] tokens with reference counts. Sequences that share a beginning share its pages; a page that is
//! shared and only partly filled is copied before it is written (copy-on-write).

use super::tensors::pages::TensorPages;
use crate::engine::EngineError;

/// Tokens a page holds.
pub const PAGE: usize = 32;

/// Keys and values of all layers, in pages. Who owns which page is decided here, for every backend alike; where the pages lie is `Storage`.
#[derive(Debug)]
pub struct Pool {
    storage: Storage,
    references: Vec<u32>,
    free: Vec<u32>,
}

/// Where pages lie.
#[derive(Debug)]
enum Storage {
    /// In memory of the CPU's kernels.
    Host(HostPages),
    /// In tensors on a device, or on several that hold the heads of one model together.
    Tensors(Vec<TensorPages>),
}

/// Pages of the CPU's kernels.
#[derive(Debug)]
struct HostPages {
    layers: Vec<Layer>,
    /// Floats of one page's keys (or values) in one layer: `kv_heads * PAGE * head_dim`.
    page_len: usize,
}

/// Pages of one layer: keys `[page][kv_head][head_dim][token]`, so that a page is the right side of a product with queries; values
/// `[page][kv_head][token][head_dim]`, for the product with weights.
#[derive(Debug, Default)]
struct Layer {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl HostPages {
    fn add_page(&mut self) {
        for layer in &mut self.layers {
            let len = layer.keys.len() + self.page_len;
            layer.keys.resize(len, f32::NAN);
            layer.values.resize(len, f32::NAN);
        }
    }

    fn copy_page(&mut self, from: u32, to: u32) {
        let (from, to, len) = (from as usize * self.page_len, to as usize * self.page_len, self.page_len);
        for layer in &mut self.layers {
            layer.keys.copy_within(from..from + len, to);
            layer.values.copy_within(from..from + len, to);
        }
    }
}

/// The tokens of one sequence in the pool. Dropping it without [`Pool::release`] leaks its pages for the life of the pool.
#[derive(Debug, Default)]
pub struct Sequence {
    pages: Vec<u32>,
    len: usize,
}

impl Sequence {
    /// Tokens with keys and values, reserved ones included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its pages, in order.
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }
}

impl Pool {
    /// An empty pool for the CPU's kernels.
    pub fn new(layers: usize, kv_heads: usize, head_dim: usize) -> Self {
        let layers = (0..layers).map(|_| Layer::default()).collect();
        Pool::over(Storage::Host(HostPages { layers, page_len: kv_heads * PAGE * head_dim }))
    }

    /// An empty pool over pages in tensors, of each device.
    pub(super) fn of_tensors(pages: Vec<TensorPages>) -> Self {
        Pool::over(Storage::Tensors(pages))
    }

    fn over(storage: Storage) -> Self {
        Pool { storage, references: Vec::new(), free: Vec::new() }
    }

    /// Pages in use.
    pub fn used(&self) -> usize {
        self.references.len() - self.free.len()
    }

    /// A second sequence with the same tokens, sharing all pages.
    pub fn fork(&mut self, sequence: &Sequence) -> Sequence {
        for page in &sequence.pages {
            self.references[*page as usize] += 1;
        }
        Sequence { pages: sequence.pages.clone(), len: sequence.len }
    }

    /// Gives a sequence's pages back.
    pub fn release(&mut self, sequence: Sequence) {
        for page in sequence.pages {
            self.unreference(page);
        }
    }

    fn unreference(&mut self, page: u32) {
        let count = &mut self.references[page as usize];
        *count -= 1;
        if *count == 0 {
            self.free.push(page);
        }
    }

    /// Makes room for `more` tokens at the end: their pages exist, belong to this sequence alone and may be written.
    pub fn reserve(&mut self, sequence: &mut Sequence, more: usize) {
        if more == 0 {
            return;
        }
        if !sequence.len.is_multiple_of(PAGE)
            && let Some(last) = sequence.pages.last_mut()
            && self.references[*last as usize] > 1
        {
            let copy = self.take();
            self.copy_page(*last, copy);
            self.unreference(*last);
            *last = copy;
        }
        sequence.len += more;
        while sequence.pages.len() * PAGE < sequence.len {
            let page = self.take();
            sequence.pages.push(page);
        }
    }

    fn take(&mut self) -> u32 {
        let page = self.free.pop().unwrap_or_else(|| {
            if let Storage::Host(pages) = &mut self.storage {
                pages.add_page();
            }
            self.references.push(0);
            (self.references.len() - 1) as u32
        });
        self.references[page as usize] = 1;
        page
    }

    fn copy_page(&mut self, from: u32, to: u32) {
        match &mut self.storage {
            Storage::Host(pages) => pages.copy_page(from, to),
            Storage::Tensors(devices) => devices.iter_mut().for_each(|pages| pages.copy_later(from, to)),
        }
    }

    /// The pages in tensors of each device, grown to what was reserved and with all copies made: to be asked for at the beginning of a step.
    ///
    /// # Errors
    /// When a device's memory is used up.
    pub(super) fn tensors(&mut self) -> Result<&mut [TensorPages], EngineError> {
        let Storage::Tensors(devices) = &mut self.storage else {
            unreachable!("a model makes its own pool, and this one computes in tensors")
        };
        devices.iter_mut().try_for_each(|pages| pages.settle(self.references.len()))?;
        Ok(devices)
    }

    fn host(&self) -> &HostPages {
        let Storage::Host(pages) = &self.storage else { unreachable!("a model makes its own pool, and this one computes in kernels") };
        pages
    }

    /// Floats of one page's keys in one layer.
    pub(super) fn page_len(&self) -> usize {
        self.host().page_len
    }

    /// All keys and values of a layer.
    pub(super) fn layer(&self, layer: usize) -> (&[f32], &[f32]) {
        let Layer { keys, values } = &self.host().layers[layer];
        (keys, values)
    }

    /// All keys and values of a layer, to write.
    pub(super) fn layer_mut(&mut self, layer: usize) -> (&mut [f32], &mut [f32]) {
        let Storage::Host(pages) = &mut self.storage else { unreachable!("a model makes its own pool, and this one computes in kernels") };
        let Layer { keys, values } = &mut pages.layers[layer];
        (keys, values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a sequence must read back: the value written for each of its tokens.
    type Model = Vec<f32>;

    fn write(pool: &mut Pool, sequence: &mut Sequence, model: &mut Model, more: usize, next: &mut f32) {
        let start = sequence.len();
        pool.reserve(sequence, more);
        let page_len = pool.page_len();
        for position in start..start + more {
            let at = sequence.pages()[position / PAGE] as usize * page_len + position % PAGE;
            pool.layer_mut(0).0[at] = *next;
            model.push(*next);
            *next += 1.0;
        }
    }

    fn read(pool: &Pool, sequence: &Sequence) -> Model {
        (0..sequence.len()).map(|p| pool.layer(0).0[sequence.pages()[p / PAGE] as usize * pool.page_len() + p % PAGE]).collect()
    }

    proptest! {
        /// Any history of appending, forking and releasing: every sequence reads what was written for it, and in the end nothing is in use.
        #[test]
        fn sequences_keep_their_own_tokens(history in proptest::collection::vec((0..3u8, 0..8usize, 0..70usize), 1..60)) {
            let mut pool = Pool::new(1, 1, 1);
            let mut live: Vec<(Sequence, Model)> = vec![(Sequence::default(), Vec::new())];
            let mut next = 0.0;
            for (action, who, more) in history {
                let who = who % live.len();
                match action {
                    0 => {
                        let (sequence, model) = &mut live[who];
                        write(&mut pool, sequence, model, more, &mut next);
                    }
                    1 => {
                        let fork = (pool.fork(&live[who].0), live[who].1.clone());
                        live.push(fork);
                    }
                    _ if live.len() > 1 => {
                        let (sequence, _) = live.swap_remove(who);
                        pool.release(sequence);
                    }
                    _ => {}
                }
                for (sequence, model) in &live {
                    prop_assert_eq!(&read(&pool, sequence), model);
                }
            }
            for (sequence, _) in live {
                pool.release(sequence);
            }
            prop_assert_eq!(pool.used(), 0);
        }
    }

    #[test]
    fn a_shared_full_page_is_not_copied() {
        let mut pool = Pool::new(2, 2, 4);
        let mut first = Sequence::default();
        pool.reserve(&mut first, PAGE);
        let mut second = pool.fork(&first);
        pool.reserve(&mut second, 1);
        assert_eq!(pool.used(), 2);
        assert_eq!(first.pages()[0], second.pages()[0]);
        let mut third = pool.fork(&second);
        pool.reserve(&mut third, 1);
        assert_eq!(pool.used(), 3, "the partly filled page is copied");
    }
}
