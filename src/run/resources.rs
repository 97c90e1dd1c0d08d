//! What metrics need beside answers, and the steps of `answer` that need the model's tokenizer: brought once a run.

use crate::dataset::{DatasetError, fetch::Progress, manifest::Manifest, store::Store};
use crate::engine::ModelFacts;
use crate::metric::{
    self, Need, Resources,
    segment::{
        compile::{CompileError, compile},
        nagisa::Nagisa,
    },
};
use crate::results::{ResultsError, run_dir::RunDir};
use crate::task::{Defect, Task};
use crate::text::tokenizer::{Special, Tokenizer, TokenizerError};
use flate2::read::GzDecoder;
use std::{io::Read, sync::Arc};

/// A word segmenter.
pub type Segmenter = Arc<dyn Fn(&str) -> Vec<String> + Send + Sync>;

/// What is at hand.
#[derive(Clone, Default)]
pub struct Tools {
    /// The evaluated model's tokenizer.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// nagisa's words.
    pub segmenter: Option<Segmenter>,
}

/// Why a task cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The tokenizer is not at hand (exit code 5).
    #[error("task '{task}' counts the evaluated model's own tokens, and its tokenizer is not at hand")]
    NoTokenizer {
        /// Task name.
        task: String,
    },
    /// The tokenizer refuses texts that a model may write (exit code 5).
    #[error("task '{task}' counts the evaluated model's own tokens, and its tokenizer cannot encode every text: {cause}")]
    Refuses {
        /// Task name.
        task: String,
        /// What the tokenizer says.
        cause: TokenizerError,
    },
    /// The segmenter is not at hand (exit code 4).
    #[error("task '{task}' is scored on nagisa's words, and nagisa's model is not at hand")]
    NoSegmenter {
        /// Task name.
        task: String,
    },
    /// A file of nagisa's model (exit code 4).
    #[error(transparent)]
    Data(#[from] DatasetError),
    /// What is in it (exit code 4).
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The tokenizer in a run directory is broken.
    #[error("the tokenizer in {path}: {cause}")]
    Recorded {
        /// Which directory.
        path: String,
        /// What is wrong.
        cause: TokenizerError,
    },
    /// A file of the run.
    #[error(transparent)]
    Results(#[from] ResultsError),
}

impl ToolError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            ToolError::NoTokenizer { .. } => {
                Some("--tokenizer names a directory with the model's tokenizer.json, or its hub id".to_owned())
            }
            ToolError::Refuses { .. } => Some("its vocabulary lacks the unknown token: is this the model's own tokenizer.json?".to_owned()),
            ToolError::NoSegmenter { .. } => Some("`swallow-eval data fetch nagisa` brings it".to_owned()),
            ToolError::Data(error) => error.hint(),
            ToolError::Compile(_) | ToolError::Recorded { .. } | ToolError::Results(_) => None,
        }
    }
}

/// nagisa's segmenter, compiled from its model files once and kept in the cache under their digest.
///
/// # Errors
/// [`ToolError::Data`], [`ToolError::Compile`].
pub fn nagisa(store: &Store, progress: &dyn Fn(Progress)) -> Result<Segmenter, ToolError> {
    const COMPILED: &str = "nagisa-1";
    let manifest = Manifest::builtin("nagisa")?;
    let key = format!("{COMPILED}-{}", &manifest.sha256[..16]);
    let compiled = store.derived(&key, || -> Result<Vec<u8>, ToolError> {
        store.ensure(&manifest, &manifest.splits(), progress)?;
        let content = |split: &str| store.whole(&manifest, split);
        Ok(compile(&decompressed(&content("dict")?)?, &content("model")?)?)
    })?;
    let nagisa = Nagisa::from_bytes(&compiled)?;
    Ok(Arc::new(move |text: &str| nagisa.words(text)))
}

fn decompressed(gzip: &[u8]) -> Result<Vec<u8>, CompileError> {
    let mut plain = Vec::new();
    GzDecoder::new(gzip).read_to_end(&mut plain).map_err(|e| CompileError::Dictionary(e.to_string()))?;
    Ok(plain)
}

/// The first task that needs something.
pub fn needing<'t>(tasks: impl IntoIterator<Item = &'t Task>, need: Need) -> Option<&'t Task> {
    tasks.into_iter().find(|task| needs(task).contains(&need))
}

/// No vocabulary has these characters: a tokenizer takes them byte by byte, as unknown, or refuses.
const UNSEEN: &str = "\u{e000}\u{10fffd} \u{fdd0}";

impl Tools {
    /// Of a run that begins.
    pub fn of(facts: &ModelFacts, segmenter: Option<Segmenter>) -> Self {
        Tools { tokenizer: facts.tokenizer.clone(), segmenter }
    }

    /// Of a recorded run, which keeps the tokenizer that it needs.
    ///
    /// # Errors
    /// [`ToolError::Recorded`].
    pub fn recorded(dir: &RunDir, segmenter: Option<Segmenter>) -> Result<Self, ToolError> {
        let Some(path) = dir.tokenizer() else { return Ok(Tools { tokenizer: None, segmenter }) };
        let tokenizer = Tokenizer::from_dir(&path).map_err(|cause| ToolError::Recorded { path: path.display().to_string(), cause })?;
        Ok(Tools { tokenizer: Some(Arc::new(tokenizer)), segmenter })
    }

    /// Whether everything is at hand that scoring these tasks needs.
    ///
    /// # Errors
    /// The first thing that is not.
    pub fn check<'t>(&self, tasks: impl IntoIterator<Item = &'t Task>) -> Result<(), ToolError> {
        for task in tasks {
            let name = task.name.clone();
            match needs(task).into_iter().find(|need| !self.has(*need)) {
                Some(Need::ModelTokenizer) => return Err(ToolError::NoTokenizer { task: name }),
                Some(Need::Nagisa) => return Err(ToolError::NoSegmenter { task: name }),
                None => {}
            }
            let counted = needs(task).contains(&Need::ModelTokenizer);
            if let Some(Err(cause)) = self.tokenizer.as_ref().filter(|_| counted).map(|t| t.encode(UNSEEN, Special::None)) {
                return Err(ToolError::Refuses { task: name, cause });
            }
        }
        Ok(())
    }

    fn has(&self, need: Need) -> bool {
        match need {
            Need::ModelTokenizer => self.tokenizer.is_some(),
            Need::Nagisa => self.segmenter.is_some(),
        }
    }

    /// Hands everything to `work` as metrics take it.
    pub fn with<T>(&self, work: impl FnOnce(&Resources<'_>) -> T) -> T {
        let tokens = self.tokenizer.as_ref().map(|tokenizer| {
            // `check` has seen that it refuses no text.
            move |text: &str| tokenizer.encode(text, Special::None).unwrap_or_default()
        });
        let segment = self.segmenter.as_ref().map(|words| move |text: &str| words(text));
        work(&Resources { tokens: tokens.as_ref().map(|f| f as _), segment: segment.as_ref().map(|f| f as _) })
    }
}

/// What scoring a task needs.
pub fn needs(task: &Task) -> Vec<Need> {
    let of_metrics = task.file.metrics.iter().filter_map(|name| metric::by_name(name)).flat_map(|m| m.needs().iter().copied());
    let of_defects = task.file.request.defects.iter().filter_map(|defect| match defect {
        Defect::LostTokens => Some(Need::ModelTokenizer),
        Defect::ForeignEndTokens => None,
    });
    let of_limits = task.file.request.max_total_tokens.map(|_| Need::ModelTokenizer);
    let mut needs: Vec<Need> = of_metrics.chain(of_defects).chain(of_limits).collect();
    needs.sort_unstable();
    needs.dedup();
    needs
}
