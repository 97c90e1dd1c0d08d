//! Prompts: which shots a document gets ([`fewshot`]), the random streams that decide it ([`pyrandom`]), and the requests made of it
//! ([`requests`]).

pub mod fewshot;
pub mod pyrandom;
pub mod requests;
