//! What a step is made of, for every backend, and the CPU's own operations: rotary embedding by position, writes into pages, attention over
//! pages, log-probability rows.

pub mod blocks;
pub mod cpu;
pub mod linear;
pub mod simd;

/// One sequence's part of a packed step.
#[derive(Clone, Debug)]
pub struct Segment {
    /// First row of the packed step.
    pub row: usize,
    /// Rows: new tokens of this sequence.
    pub rows: usize,
    /// Position of the first of them.
    pub position: usize,
    /// Pages of the sequence, the new tokens' included.
    pub pages: Vec<u32>,
}

/// Heads of attention.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key and value heads.
    pub kv: usize,
    /// Width of a head.
    pub dim: usize,
}

/// What is read off one row of logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowChoice {
    /// The largest logit's index; the lowest id wins a tie.
    pub argmax: u32,
    /// Largest less second-largest logit.
    pub gap: f32,
}

/// What greedy decoding and scoring read off one row of logits.
#[derive(Clone, Debug, PartialEq)]
pub struct RowRead {
    /// The largest logit's index; the lowest id wins a tie.
    pub argmax: u32,
    /// The largest logit.
    pub largest: f32,
    /// Largest less second-largest logit.
    pub gap: f32,
    /// Log-probabilities of the tokens that were asked for.
    pub logprobs: Vec<f64>,
}

impl RowRead {
    /// Reads a row that is in memory.
    pub fn of(logits: &[f32], targets: &[u32]) -> Self {
        let (RowChoice { argmax, gap }, sum) = (cpu::choose(logits), cpu::log_sum_exp(logits));
        let logprobs = targets.iter().map(|id| f64::from(logits[*id as usize]) - sum).collect();
        RowRead { argmax, largest: logits[argmax as usize], gap, logprobs }
    }
}

/// The segments of some rows of a step, when these rows stand alone in their order.
pub(super) fn segments_of(segments: &[Segment], rows: &[u32]) -> Vec<Segment> {
    let mut picked: Vec<Segment> = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let row = *row as usize;
        let owner = segments.iter().find(|s| (s.row..s.row + s.rows).contains(&row)).expect("every row of a step is in a segment");
        let position = owner.position + row - owner.row;
        match picked.last_mut() {
            Some(last) if last.pages == owner.pages && last.position + last.rows == position => last.rows += 1,
            _ => picked.push(Segment { row: at, rows: 1, position, pages: owner.pages.clone() }),
        }
    }
    picked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_segments() {
        let segment = |row, rows, position, page| Segment { row, rows, position, pages: vec![page] };
        let segments = [segment(0, 1, 9, 1), segment(1, 4, 0, 2), segment(5, 3, 7, 3)];
        let picked: Vec<(usize, usize, usize, u32)> =
            segments_of(&segments, &[0, 2, 3, 5, 7]).iter().map(|s| (s.row, s.rows, s.position, s.pages[0])).collect();
        assert_eq!(picked, [(0, 1, 9, 1), (1, 2, 1, 2), (3, 1, 7, 3), (4, 1, 9, 3)]);
    }
}
