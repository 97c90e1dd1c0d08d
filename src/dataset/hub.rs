//! Models and tokenizers: a directory, or an id of the Hugging Face hub that becomes one.
