//! In-process Llama-type models.
