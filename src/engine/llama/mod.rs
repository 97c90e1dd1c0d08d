//! In-process Llama-type models.

pub mod config;
