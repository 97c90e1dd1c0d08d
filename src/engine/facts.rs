//! What is known of a model before it answers.

use super::{EngineError, Template};
use crate::text::tokenizer::Tokenizer;
use serde_json::Value;
use std::{path::Path, sync::Arc};

/// Some protocols count the evaluated model's tokens when they build prompts, or score with them. What is not known is `None`.
#[derive(Clone, Debug, Default)]
pub struct ModelFacts {
    /// Its tokenizer.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// `max_position_embeddings`.
    pub max_positions: Option<u32>,
    /// `repetition_penalty` of its generation_config.json.
    pub repetition_penalty: Option<f64>,
    /// `top_k` of its generation_config.json.
    pub top_k: Option<u32>,
    /// `top_p` of its generation_config.json.
    pub top_p: Option<f64>,
    /// How conversations with it are written, where that has been chosen.
    pub template: Option<Template>,
}

impl ModelFacts {
    /// Of the files of a directory that need not hold the weights: `tokenizer.json` with its companions, and where they are, `config.json`
    /// and `generation_config.json`.
    ///
    /// # Errors
    /// A missing tokenizer, a file that is not what its name says.
    pub fn of_dir(dir: &Path) -> Result<Self, EngineError> {
        let tokenizer = Tokenizer::from_dir(dir).map_err(|e| EngineError::new(e.to_string()))?;
        let (config, generation) = (object(&dir.join("config.json"))?, object(&dir.join("generation_config.json"))?);
        Ok(ModelFacts {
            tokenizer: Some(Arc::new(tokenizer)),
            max_positions: config.get("max_position_embeddings").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()),
            repetition_penalty: generation.get("repetition_penalty").and_then(Value::as_f64),
            top_k: generation.get("top_k").and_then(Value::as_u64).and_then(|k| u32::try_from(k).ok()),
            top_p: generation.get("top_p").and_then(Value::as_f64),
            template: None,
        })
    }
}

/// A JSON file; null where there is none.
fn object(path: &Path) -> Result<Value, EngineError> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| EngineError::new(format!("{} is not valid: {e}", path.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(e) => Err(EngineError::new(format!("failed to read {}: {e}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_files_are_optional_the_tokenizer_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(ModelFacts::of_dir(dir.path()).expect_err("empty").message.contains("tokenizer.json"));
        let tokenizer = crate::engine::demo::FILES.iter().find(|(name, _)| *name == "tokenizer.json").expect("built in").1;
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer).expect("written");
        let facts = ModelFacts::of_dir(dir.path()).expect("a tokenizer is enough");
        assert_eq!((facts.max_positions, facts.repetition_penalty), (None, None));
        std::fs::write(dir.path().join("config.json"), r#"{"max_position_embeddings": 2048}"#).expect("written");
        std::fs::write(dir.path().join("generation_config.json"), r#"{"repetition_penalty": 1.05}"#).expect("written");
        let facts = ModelFacts::of_dir(dir.path()).expect("valid");
        assert_eq!((facts.max_positions, facts.repetition_penalty), (Some(2048), Some(1.05)));
        std::fs::write(dir.path().join("config.json"), "{").expect("written");
        assert!(ModelFacts::of_dir(dir.path()).expect_err("broken").message.contains("config.json is not valid"));
    }
}
