//! Formulas: from evidence and references to scores, from scores to aggregates. No I/O and no errors: odd input has a defined score.

pub mod accuracy;
pub mod aggregate;
pub mod answer_ratio;
pub mod bleu;
pub mod bootstrap;
pub mod char_f1;
pub mod exact_match;
pub mod numpy_random;
pub mod parts;
pub mod pass_at_k;
pub mod rating;
pub mod rouge;
pub mod segment;
pub mod squad;
pub mod tokenizer_13a;

use serde::{Deserialize, Serialize};

/// What a right answer looks like. Only this room and `task` hold one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// Accepted texts; the first is *the* gold where a protocol uses one only. Of a multiple choice, all choices.
    pub texts: Vec<String>,
    /// Position of the right choice; `None` where nothing is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right: Option<usize>,
}

impl Reference {
    /// Accepted texts, nothing to choose.
    pub fn of(texts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Reference { texts: texts.into_iter().map(Into::into).collect(), right: None }
    }
}

/// What is known of a model's answer once everything that can be executed or judged has been.
#[derive(Clone, Debug, PartialEq)]
pub enum Evidence {
    /// The extracted text.
    Text(String),
    /// Log-likelihoods of given continuations: of the choices in their order, or of what a metric looks at beside a text.
    LogLikelihoods(Vec<f64>),
    /// Whether a program ran to its end in the sandbox.
    Passed(bool),
    /// A judge's rating of one turn (counted from 0) of one choice; the choices of a turn stand in their order. `None` where the judge gave
    /// none.
    Rating {
        /// Which turn.
        turn: u32,
        /// 1 to 10, as a rule.
        rating: Option<f64>,
    },
}

/// The score of one document by one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The document's own value, 0..=1 unless the metric says otherwise.
    pub value: f64,
    /// Additive statistics from which corpus metrics are computed; empty where the mean of `value` is the aggregate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stats: Vec<f64>,
}

impl Score {
    /// A score without further statistics.
    pub fn of(value: f64) -> Self {
        Score { value, stats: Vec::new() }
    }
}

/// What a metric cannot do without and cannot load itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The tokenizer of the evaluated model.
    ModelTokenizer,
    /// nagisa's word segmentation.
    Nagisa,
}

/// Text to the evaluated model's token ids, without special tokens.
pub type TokenIds<'r> = &'r (dyn Fn(&str) -> Vec<u32> + Sync);

/// Text to its words.
pub type Words<'r> = &'r (dyn Fn(&str) -> Vec<String> + Sync);

/// Loaded resources, for the metrics that [need](Metric::needs) them. The default has none.
#[derive(Clone, Copy, Default)]
pub struct Resources<'r> {
    /// The evaluated model's tokenizer.
    pub tokens: Option<TokenIds<'r>>,
    /// nagisa.
    pub segment: Option<Words<'r>>,
}

/// One way of scoring.
pub trait Metric: Sync {
    /// Name in task files and result files.
    fn name(&self) -> &'static str;

    /// What [`Metric::score`] must find in its resources. A run checks it before the first request.
    fn needs(&self) -> &'static [Need] {
        &[]
    }

    /// Scores one document.
    ///
    /// # Panics
    /// When a resource that [`Metric::needs`] lists is missing: a fault of the caller.
    fn score(&self, resources: &Resources<'_>, reference: &Reference, evidence: &[Evidence]) -> Score;

    /// One number from the scores of all documents, in protocol order; `None` without documents.
    fn aggregate(&self, scores: &[Score]) -> Option<f64>;

    /// Standard error of the aggregate as the harness prints it; `None` where it prints none, and for fewer than two documents.
    fn stderr(&self, scores: &[Score]) -> Option<f64> {
        aggregate::standard_error(&scores.iter().map(|s| s.value).collect::<Vec<_>>())
    }

    /// Half the width of the 95 % confidence interval shown beside the aggregate: that of the mean of the values, unless the metric says
    /// otherwise. `None` for fewer than two documents.
    fn half_width_95(&self, scores: &[Score]) -> Option<f64> {
        aggregate::half_width_95(&scores.iter().map(|s| s.value).collect::<Vec<_>>())
    }

    /// What the harness's own number is where ours is 1.
    fn in_full(&self) -> f64 {
        1.0
    }

    /// What a reader must know of that interval, where it is not one of the aggregate.
    fn about_interval(&self) -> Option<&'static str> {
        None
    }
}

/// The gold and the answer, each empty where there is none.
fn texts<'t>(reference: &'t Reference, evidence: &'t [Evidence]) -> (&'t str, &'t str) {
    let answer = match evidence.first() {
        Some(Evidence::Text(text)) => text,
        Some(Evidence::LogLikelihoods(_) | Evidence::Passed(_) | Evidence::Rating { .. }) | None => "",
    };
    (reference.texts.first().map_or("", String::as_str), answer)
}

/// Every metric, by name.
pub const METRICS: [&dyn Metric; 24] = [
    &exact_match::ExactMatch,
    &char_f1::CharF1,
    &rouge::Rouge::ONE,
    &rouge::Rouge::TWO,
    &rouge::Rouge::L,
    &bleu::Bleu::Plain,
    &bleu::Bleu::Nagisa,
    &pass_at_k::PassAtK::ONE,
    &pass_at_k::PassAtK::TEN,
    &answer_ratio::AnswerRatio,
    &rating::Rating(rating::Figure::Mean),
    &rating::Rating(rating::Figure::FirstTurn),
    &rating::Rating(rating::Figure::SecondTurn),
    &rating::Rating(rating::Figure::Deviation),
    &accuracy::Accuracy::Plain,
    &accuracy::Accuracy::PerCharacter,
    &squad::Squad::ALL[0],
    &squad::Squad::ALL[1],
    &squad::Squad::ALL[2],
    &squad::Squad::ALL[3],
    &squad::Squad::ALL[4],
    &squad::Squad::ALL[5],
    &squad::Squad::ALL[6],
    &squad::Squad::ALL[7],
];

/// The metric of that name.
pub fn by_name(name: &str) -> Option<&'static dyn Metric> {
    METRICS.into_iter().find(|m| m.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for m in METRICS {
            assert_eq!(METRICS.iter().filter(|o| o.name() == m.name()).count(), 1, "{}", m.name());
            assert!(by_name(m.name()).is_some());
        }
        assert!(by_name("no such metric").is_none());
    }
}
