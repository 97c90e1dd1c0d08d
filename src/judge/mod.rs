//! Judging a conversation with another model: what the judge is asked ([`prompts`]), what its words mean ([`rating`]), what its calls cost
//! ([`cost`]), and a rule in a judge's place for demonstrations ([`demo`]).
//!
//! It does not know whose answers it judges, sends nothing (the engine does) and makes no score.

pub mod cost;
pub mod demo;
pub mod prompts;
pub mod rating;
