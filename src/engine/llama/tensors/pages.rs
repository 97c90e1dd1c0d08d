//! Pages of keys and values in tensors. The pool above decides which page is whose; a copy it orders is made at the beginning of the next step,
//! together with all others, before anything is written.

use crate::engine::EngineError;
use crate::engine::llama::kv::PAGE;
use candle_core::{DType, Device, Result, Tensor};
use std::collections::BTreeMap;

/// What a page holds that nobody wrote. A token behind the ones a query may see weighs nothing, so that this never shows; it is finite, because
/// nothing times infinity is not a number, small enough for products in f16, and far from zero, so that a wrong weight is seen.
const UNWRITTEN: f32 = 8.0;
/// Pages that a pool grows by at least.
const GROWTH: usize = 16;

/// Pages of all layers on one device.
#[derive(Debug)]
pub(in crate::engine::llama) struct TensorPages {
    layers: Vec<PagedLayer>,
    /// Pages there is memory for.
    capacity: usize,
    /// Pages there may be at most, where the device's memory is known.
    ceiling: Option<usize>,
    /// Page to be written, page it is copied from.
    copies: BTreeMap<u32, u32>,
    /// Numbers of one token: `kv_heads * head_dim`.
    width: usize,
    dtype: DType,
    device: Device,
}

/// Keys and values of a layer, each `[page][token][kv_head * head_dim]`; `None` before the first page.
#[derive(Debug, Default)]
struct PagedLayer {
    keys: Option<Tensor>,
    values: Option<Tensor>,
}

impl TensorPages {
    /// No pages yet.
    pub(super) fn new(layers: usize, width: usize, dtype: DType, device: &Device, ceiling: Option<usize>) -> Self {
        let layers = (0..layers).map(|_| PagedLayer::default()).collect();
        TensorPages { layers, capacity: 0, ceiling, copies: BTreeMap::new(), width, dtype, device: device.clone() }
    }

    /// Orders a copy. What it reads is what the page holds now, whatever is ordered after it.
    pub(in crate::engine::llama) fn copy_later(&mut self, from: u32, to: u32) {
        let from = self.copies.get(&from).copied().unwrap_or(from);
        self.copies.insert(to, from);
    }

    /// Makes memory for so many pages, and the copies.
    ///
    /// # Errors
    /// When the device's memory is used up.
    pub(in crate::engine::llama) fn settle(&mut self, pages: usize) -> std::result::Result<(), EngineError> {
        if let Some(ceiling) = self.ceiling.filter(|ceiling| pages > *ceiling) {
            return Err(full(pages, &format!("there is room for those of {} tokens", ceiling * PAGE)));
        }
        self.grow(pages).map_err(|e| full(pages, &e.to_string()))?;
        self.copy().map_err(|e| EngineError::new(format!("copying keys and values failed: {e}")))
    }

    /// Grows by half at least, so that a long run does not copy its pages at every step.
    fn grow(&mut self, pages: usize) -> Result<()> {
        if pages <= self.capacity {
            return Ok(());
        }
        let wish = pages.max(self.capacity + (self.capacity / 2).max(GROWTH));
        let capacity = self.ceiling.map_or(wish, |ceiling| wish.min(ceiling));
        let more = capacity - self.capacity;
        let unwritten = Tensor::new(UNWRITTEN, &self.device)?.to_dtype(self.dtype)?;
        for layer in &mut self.layers {
            for pages in [&mut layer.keys, &mut layer.values] {
                let new = unwritten.broadcast_as((more, PAGE, self.width))?.contiguous()?;
                // The old ones are given back before the next layer's grow.
                *pages = Some(match pages.take() {
                    None => new,
                    Some(old) => Tensor::cat(&[old, new], 0)?,
                });
            }
        }
        self.capacity = capacity;
        Ok(())
    }

    fn copy(&mut self) -> Result<()> {
        let copies = std::mem::take(&mut self.copies);
        if copies.is_empty() {
            return Ok(());
        }
        let (to, from): (Vec<u32>, Vec<u32>) = copies.into_iter().unzip();
        let (count, page) = (to.len(), PAGE * self.width);
        let from = Tensor::from_vec(from, count, &self.device)?;
        let to = Tensor::from_vec(to, (count, 1), &self.device)?.broadcast_as((count, page))?.contiguous()?;
        for pages in self.layers.iter().flat_map(|layer| [&layer.keys, &layer.values]).flatten() {
            let flat = pages.reshape((self.capacity, page))?;
            // The sources are read as a whole before a target is written.
            flat.scatter_set(&to, &flat.index_select(&from, 0)?, 0)?;
        }
        Ok(())
    }

    /// Writes keys and values of some tokens, `[token][kv_head * head_dim]`, into slots made by [`TensorPages::slots`].
    pub(super) fn write(&self, layer: usize, slots: &Tensor, keys: &Tensor, values: &Tensor) -> Result<()> {
        for (pages, new) in [(self.keys(layer)?, keys), (self.values(layer)?, values)] {
            pages.reshape((self.capacity * PAGE, self.width))?.scatter_set(slots, new, 0)?;
        }
        Ok(())
    }

    /// Where tokens go: `page * PAGE + place in the page`, once for every number of a token.
    pub(super) fn slots(&self, slots: Vec<u32>) -> Result<Tensor> {
        let count = slots.len();
        Tensor::from_vec(slots, (count, 1), &self.device)?.broadcast_as((count, self.width))?.contiguous()
    }

    /// Keys of a layer, `[page][token][kv_head * head_dim]`.
    pub(super) fn keys(&self, layer: usize) -> Result<&Tensor> {
        self.layers[layer].keys.as_ref().ok_or_else(|| candle_core::Error::Msg("no page was reserved".into()))
    }

    /// Values of a layer, laid out as the keys.
    pub(super) fn values(&self, layer: usize) -> Result<&Tensor> {
        self.layers[layer].values.as_ref().ok_or_else(|| candle_core::Error::Msg("no page was reserved".into()))
    }
}

fn full(pages: usize, why: &str) -> EngineError {
    EngineError::with_hint(
        format!("the device has no room for keys and values of {} tokens at once: {why}", pages * PAGE),
        "use a device with more free memory or --device cpu, or serve the model with vLLM and name it with --base-url",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One layer whose pages hold one number each.
    fn pages(values: &[f32]) -> TensorPages {
        let mut pages = TensorPages::new(1, 1, DType::F32, &Device::Cpu, None);
        pages.settle(values.len()).unwrap();
        for (page, value) in values.iter().enumerate() {
            let slots = pages.slots((0..PAGE as u32).map(|at| (page * PAGE) as u32 + at).collect()).unwrap();
            let new = Tensor::full(*value, (PAGE, 1), &Device::Cpu).unwrap();
            pages.write(0, &slots, &new, &new).unwrap();
        }
        pages
    }

    fn firsts(pages: &TensorPages, count: usize) -> Vec<f32> {
        let all = pages.keys(0).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        (0..count).map(|page| all[page * PAGE]).collect()
    }

    #[test]
    fn ordered_copies_are_those_of_their_moment() {
        // A copy of a copy; a source that is overwritten by a later copy; a target that is given away and copied to again.
        for (orders, expected) in [
            (&[(0, 1), (1, 2)][..], [10.0, 10.0, 10.0, 13.0]),
            (&[(0, 1), (3, 0)], [13.0, 10.0, 12.0, 13.0]),
            (&[(0, 1), (3, 0), (1, 2)], [13.0, 10.0, 10.0, 13.0]),
            (&[(0, 1), (2, 1)], [10.0, 12.0, 12.0, 13.0]),
        ] {
            let mut pages = pages(&[10.0, 11.0, 12.0, 13.0]);
            for (from, to) in orders {
                pages.copy_later(*from, *to);
            }
            pages.settle(4).unwrap();
            assert_eq!(firsts(&pages, 4), expected, "{orders:?}");
        }
    }

    #[test]
    fn growing_keeps_what_was_written_and_ends_at_the_ceiling() {
        let mut grown = pages(&[1.0, 2.0]);
        grown.settle(40).unwrap();
        assert_eq!(firsts(&grown, 3), [1.0, 2.0, UNWRITTEN]);
        assert!(grown.capacity >= 40);
        let mut bounded = TensorPages { ceiling: Some(3), ..pages(&[1.0, 2.0]) };
        bounded.settle(3).unwrap();
        let error = bounded.settle(4).unwrap_err();
        assert_eq!(error.message, "the device has no room for keys and values of 128 tokens at once: there is room for those of 96 tokens");
    }
}
