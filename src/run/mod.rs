//! The order of things: plan, ask, grade, score.

pub mod plan;
