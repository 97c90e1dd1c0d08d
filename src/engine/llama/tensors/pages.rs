//! Pages of keys and values in tensors. The pool above decides which page is whose; a copy it orders is made at the beginning of the next step,
//! together with all others, before anything is written.

use crate::engine::EngineError;
use crate::engine::llama::device::{failed, said};
use crate::engine::llama::kv::PAGE;
use crate::engine::llama::ops::Segment;
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

/// Where the rows of a step go: whole pages, and single tokens. A scatter goes over its targets one after the other and over the numbers of a
/// target side by side, so that few large targets are many times faster than many small ones.
pub(super) struct Targets(Vec<Part>);

struct Part {
    /// Rows of the step, `tokens` for each target.
    rows: Tensor,
    /// Number of the target, once for each of its numbers.
    to: Tensor,
    /// Tokens of a target: a page's, or one.
    tokens: usize,
}

impl TensorPages {
    /// No pages yet.
    pub(in crate::engine::llama) fn new(layers: usize, width: usize, dtype: DType, device: &Device, ceiling: Option<usize>) -> Self {
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
        self.grow(pages).map_err(|e| full(pages, &said(&e)))?;
        self.copy().map_err(failed("copying keys and values failed"))
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

    /// Writes keys and values of the rows of a step, `[row][kv_head * head_dim]`, to where [`TensorPages::targets`] says.
    pub(super) fn write(&self, layer: usize, targets: &Targets, keys: &Tensor, values: &Tensor) -> Result<()> {
        for Part { rows, to, tokens } in &targets.0 {
            let shape = (self.capacity * PAGE / tokens, tokens * self.width);
            for (pages, new) in [(self.keys(layer)?, keys), (self.values(layer)?, values)] {
                pages.reshape(shape)?.scatter_set(to, &new.index_select(rows, 0)?.reshape(((), shape.1))?, 0)?;
            }
        }
        Ok(())
    }

    /// Where the rows of a step go.
    pub(super) fn targets(&self, segments: &[Segment]) -> Result<Targets> {
        let (mut whole, mut single) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        for Segment { row, rows, position, pages } in segments {
            let end = position + rows;
            let row = |at: usize| (row + at - position) as u32;
            let mut at = *position;
            while at < end {
                let page = pages[at / PAGE];
                if at.is_multiple_of(PAGE) && at + PAGE <= end {
                    whole.0.extend((at..at + PAGE).map(row));
                    whole.1.push(page);
                    at += PAGE;
                } else {
                    single.0.push(row(at));
                    single.1.push(page * PAGE as u32 + (at % PAGE) as u32);
                    at += 1;
                }
            }
        }
        let part = |(rows, to): (Vec<u32>, Vec<u32>), tokens: usize| {
            let (count, width) = (to.len(), tokens * self.width);
            let to = Tensor::from_vec(to, (count, 1), &self.device)?.broadcast_as((count, width))?.contiguous()?;
            Ok(Part { rows: Tensor::new(rows, &self.device)?, to, tokens })
        };
        let parts = [(whole, PAGE), (single, 1)].into_iter().filter(|((rows, _), _)| !rows.is_empty());
        Ok(Targets(parts.map(|(rows_and_targets, tokens)| part(rows_and_targets, tokens)).collect::<Result<_>>()?))
    }

    /// Where the rows of a step go, one by one: the number of a row's place among those of all pages.
    pub(super) fn slots(&self, segments: &[Segment]) -> Result<Tensor> {
        let of = |segment: &Segment, at: usize| segment.pages[at / PAGE] * PAGE as u32 + (at % PAGE) as u32;
        let rows = |segment: &Segment| (segment.position..segment.position + segment.rows).map(|at| of(segment, at)).collect::<Vec<_>>();
        let slots: Vec<u32> = segments.iter().flat_map(rows).collect();
        Tensor::new(slots.as_slice(), &self.device)
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
            let targets = pages.targets(&[Segment { row: 0, rows: PAGE, position: 0, pages: vec![page as u32] }]).unwrap();
            let new = Tensor::full(*value, (PAGE, 1), &Device::Cpu).unwrap();
            pages.write(0, &targets, &new, &new).unwrap();
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
    fn whole_pages_and_single_tokens_go_where_they_belong() {
        // From the middle of a page over two whole ones into the next, and a token of another sequence.
        let (first, second) = (vec![3, 0, 4, 1], vec![2]);
        let mut pages = TensorPages::new(1, 1, DType::F32, &Device::Cpu, None);
        pages.settle(5).unwrap();
        let segments =
            [Segment { row: 0, rows: 1, position: 5, pages: second }, Segment { row: 1, rows: 80, position: 20, pages: first.clone() }];
        let new = Tensor::arange(0f32, 81.0, &Device::Cpu).unwrap().reshape((81, 1)).unwrap();
        pages.write(0, &pages.targets(&segments).unwrap(), &new, &new).unwrap();
        let all = pages.values(0).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mut expected = vec![UNWRITTEN; 5 * PAGE];
        expected[2 * PAGE + 5] = 0.0;
        for position in 20..100 {
            expected[first[position / PAGE] as usize * PAGE + position % PAGE] = (position - 20 + 1) as f32;
        }
        assert_eq!(all[..5 * PAGE], expected);
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
