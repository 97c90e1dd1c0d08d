//! Operations that no tensor library has: rotary embedding by position, writes into pages, attention over pages, log-probability rows.
//!
//! One implementation a device; `model` calls them by these names and knows none. Only the CPU exists in this version.

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
