//! SQuAD 2.0: exact match and token F1 of normalised texts, over all, answerable and unanswerable questions, and with the best threshold.
//!
//! The official script as huggingface/datasets 2.20.0 ships it (`metrics/squad_v2/evaluate.py`). Its numbers are percentages; the values
//! here are those divided by 100. The threshold of no answer is 1.0 and compared with `>`, so that the probability of no answer decides the
//! `best_*` numbers alone.

use super::{Evidence, Metric, Reference, Resources, Score, aggregate};
use crate::text::python::{is_space, is_word, without_punctuation};
use std::collections::BTreeMap;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Equality of the normalised texts.
    Exact,
    /// F1 over the words of the normalised texts.
    F1,
}

/// Over which questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// All.
    All,
    /// Those that have an answer.
    Answerable,
    /// Those that have none.
    Unanswerable,
    /// All, where the threshold of no answer is chosen after the fact.
    BestThreshold,
}

/// One of the eight numbers of the official script.
pub struct Squad(pub Of, pub Over);

impl Squad {
    /// All eight, in the order of the script's output.
    pub const ALL: [Squad; 8] = [
        Squad(Of::Exact, Over::All),
        Squad(Of::F1, Over::All),
        Squad(Of::Exact, Over::Answerable),
        Squad(Of::F1, Over::Answerable),
        Squad(Of::Exact, Over::Unanswerable),
        Squad(Of::F1, Over::Unanswerable),
        Squad(Of::Exact, Over::BestThreshold),
        Squad(Of::F1, Over::BestThreshold),
    ];

    /// The script's percentage; `None` where it counts no question.
    pub fn percent(&self, scores: &[Score]) -> Option<f64> {
        let questions: Vec<Question> = scores.iter().map(Question::of).collect();
        let counted = |question: &&Question| match self.1 {
            Over::All | Over::BestThreshold => true,
            Over::Answerable => question.answerable,
            Over::Unanswerable => !question.answerable,
        };
        let counted: Vec<&Question> = questions.iter().filter(counted).collect();
        if counted.is_empty() {
            return None;
        }
        let total = counted.len() as f64;
        Some(match self.1 {
            Over::BestThreshold => 100.0 * best(&questions) / total,
            _ => 100.0 * counted.iter().map(|question| question.value).sum::<f64>() / total,
        })
    }
}

impl Metric for Squad {
    fn name(&self) -> &'static str {
        match (self.0, self.1) {
            (Of::Exact, Over::All) => "exact",
            (Of::F1, Over::All) => "f1",
            (Of::Exact, Over::Answerable) => "HasAns_exact",
            (Of::F1, Over::Answerable) => "HasAns_f1",
            (Of::Exact, Over::Unanswerable) => "NoAns_exact",
            (Of::F1, Over::Unanswerable) => "NoAns_f1",
            (Of::Exact, Over::BestThreshold) => "best_exact",
            (Of::F1, Over::BestThreshold) => "best_f1",
        }
    }

    /// The evidence is the answer, then the log-probability of "unanswerable"; without the latter a question counts as surely answerable.
    fn score(&self, _: &Resources<'_>, reference: &Reference, evidence: &[Evidence]) -> Score {
        let mut answer = None;
        let mut no_answer = 0.0;
        for piece in evidence {
            match piece {
                Evidence::Text(text) => answer = Some(text.as_str()),
                Evidence::LogLikelihoods(values) => no_answer = values.first().map_or(0.0, |v| no_answer_probability(*v)),
                Evidence::Passed(_) | Evidence::Rating { .. } => {}
            }
        }
        let Some(answer) = answer else {
            return Question { value: 0.0, answerable: !reference.texts.is_empty(), answered: true, no_answer: 0.0 }.score();
        };
        let golds = golds(&reference.texts);
        let value = golds.iter().map(|gold| self.0.pair(gold, answer)).fold(0.0, f64::max);
        Question { value, answerable: !reference.texts.is_empty(), answered: !answer.is_empty(), no_answer }.score()
    }

    fn aggregate(&self, scores: &[Score]) -> Option<f64> {
        self.percent(scores).map(|percent| percent / 100.0)
    }

    fn in_full(&self) -> f64 {
        100.0
    }

    fn stderr(&self, _: &[Score]) -> Option<f64> {
        // The harness prints none.
        None
    }

    fn half_width_95(&self, scores: &[Score]) -> Option<f64> {
        match self.1 {
            Over::All => aggregate::half_width_95(&scores.iter().map(|s| s.value).collect::<Vec<_>>()),
            _ => None,
        }
    }
}

/// What the harness makes of the log-probability of "unanswerable".
pub fn no_answer_probability(logprob: f64) -> f64 {
    logprob.exp()
}

/// One scored question: what [`Score::stats`] holds after the value.
struct Question {
    value: f64,
    answerable: bool,
    answered: bool,
    no_answer: f64,
}

impl Question {
    fn score(self) -> Score {
        let flag = |on: bool| f64::from(u8::from(on));
        Score { value: self.value, stats: vec![flag(self.answerable), flag(self.answered), self.no_answer] }
    }

    fn of(score: &Score) -> Self {
        let stat = |at: usize| score.stats.get(at).copied().unwrap_or_default();
        Question { value: score.value, answerable: stat(0) > 0.0, answered: stat(1) > 0.0, no_answer: stat(2) }
    }
}

/// `find_best_thresh`: questions by rising probability of no answer; all answered "none" at first, then one by one as they were.
fn best(questions: &[Question]) -> f64 {
    let mut order: Vec<&Question> = questions.iter().collect();
    // The probability travelled as a float32.
    order.sort_by(|a, b| (a.no_answer as f32).total_cmp(&(b.no_answer as f32)));
    let mut current = questions.iter().filter(|question| !question.answerable).count() as f64;
    let mut best = current;
    for question in order {
        current += match (question.answerable, question.answered) {
            (true, _) => question.value,
            (false, true) => -1.0,
            (false, false) => 0.0,
        };
        best = best.max(current);
    }
    best
}

/// The golds that count: those of which normalisation leaves something, else the empty one.
fn golds(texts: &[String]) -> Vec<&str> {
    let left: Vec<&str> = texts.iter().map(String::as_str).filter(|text| !normalized(text).is_empty()).collect();
    if left.is_empty() { vec![""] } else { left }
}

impl Of {
    /// 0 to 1 for one gold and one answer.
    pub fn pair(self, gold: &str, answer: &str) -> f64 {
        let (gold, answer) = (normalized(gold), normalized(answer));
        match self {
            Of::Exact => f64::from(u8::from(gold == answer)),
            Of::F1 => f1(&gold, &answer),
        }
    }
}

fn f1(gold: &str, answer: &str) -> f64 {
    let words = |text: &str| -> Vec<String> { text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect() };
    let (gold, answer) = (words(gold), words(answer));
    if gold.is_empty() || answer.is_empty() {
        return f64::from(u8::from(gold == answer));
    }
    let mut left: BTreeMap<&str, u32> = BTreeMap::new();
    for word in &gold {
        *left.entry(word).or_default() += 1;
    }
    let mut same = 0;
    for word in &answer {
        if let Some(count) = left.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            same += 1;
        }
    }
    if same == 0 {
        return 0.0;
    }
    let (precision, recall) = (f64::from(same) / answer.len() as f64, f64::from(same) / gold.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

/// Lower case, without ASCII punctuation and English articles, words with one blank between them.
pub fn normalized(text: &str) -> String {
    let text = without_articles(&without_punctuation(&text.to_lowercase()));
    text.split(is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// `re.sub(r"\b(a|an|the)\b", " ", text)`.
fn without_articles(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_inside = is_word(first);
        let end = rest.find(|c| is_word(c) != is_inside).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        kept += if ["a", "an", "the"].contains(&run) { " " } else { run };
        rest = after;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_normalised_as_the_script_does() {
        for (text, expected) in [
            ("The  Cat's a-n \u{3000}hat", "cats hat"),
            ("a’s", "’s"),
            ("theatre an-the", "theatre anthe"),
            ("\u{c9}t\u{e9} AN", "\u{e9}t\u{e9}"),
            ("$5.00", "500"),
            (" \n", ""),
        ] {
            assert_eq!(normalized(text), expected, "{text:?}");
        }
    }

    #[test]
    fn numbers_of_four_questions() {
        let resources = Resources::default();
        let questions: [(&[&str], &str, f64); 4] =
            [(&["the red cat", "cat"], "Red cat.", -3.0), (&["Paris"], "Rome", -0.1), (&[], "", -0.2), (&[], "no", -4.0)];
        let scores = |metric: &Squad| -> Vec<Score> {
            let one = |(golds, answer, na): &(&[&str], &str, f64)| {
                let reference = Reference { texts: golds.iter().map(|g| (*g).to_owned()).collect(), right: None };
                metric.score(&resources, &reference, &[Evidence::Text((*answer).to_owned()), Evidence::LogLikelihoods(vec![*na])])
            };
            questions.iter().map(one).collect()
        };
        let got: Vec<Option<f64>> = Squad::ALL.iter().map(|metric| metric.percent(&scores(metric))).collect();
        assert_eq!(got, [50.0, 50.0, 50.0, 50.0, 50.0, 50.0, 50.0, 50.0].map(Some));
        let unanswerable = scores(&Squad(Of::Exact, Over::All)).split_off(2);
        assert_eq!(Squad(Of::Exact, Over::Answerable).percent(&unanswerable), None);
        assert_eq!(Squad(Of::Exact, Over::BestThreshold).percent(&unanswerable), Some(100.0));
    }

    #[test]
    fn a_question_without_an_answer_of_the_model_scores_nothing() {
        let score = Squad(Of::Exact, Over::All).score(&Resources::default(), &Reference::default(), &[]);
        assert_eq!(score.value, 0.0);
    }
}
