//! The demo model's files, so that a demo and the tests run the real engine offline.
//!
//! A Llama of about a million parameters that has learnt the bundled samples by heart (`demo/README.md`); it knows nothing. Loading and
//! running it is the business of [`super::llama`].

/// Name and content of each file of the model directory.
pub const FILES: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("demo/config.json")),
    ("generation_config.json", include_bytes!("demo/generation_config.json")),
    ("model.safetensors", include_bytes!("demo/model.safetensors")),
    ("tokenizer.json", include_bytes!("demo/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("demo/tokenizer_config.json")),
];
