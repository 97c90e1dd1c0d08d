//! Prompts: which shots a document gets ([`fewshot`]), the random streams that decide it ([`pyrandom`]), the requests made of it
//! ([`requests`]), and what depends on the model's tokens: what happens to a prompt that is too long ([`fit`]), which prompts a harness
//! answered together ([`neighbours`]).

pub mod fewshot;
pub mod fit;
pub mod neighbours;
pub mod pyrandom;
pub mod requests;
