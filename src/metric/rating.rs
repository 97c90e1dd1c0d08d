//! Ratings of a judge, averaged as FastChat's `show_result.py:16-24` does: the mean over the rows of every choice, then the mean of those.
//!
//! A rating that a judge did not give is left out of its choice's mean. A choice without any rating leaves no number (upstream: NaN).
//! Ratings run from 1 to 10; everything here is a tenth of them, as the published table has it.

use super::{Evidence, Metric, Reference, Resources, Score};

/// The best rating.
const BEST: f64 = 10.0;

/// Which rows are averaged, and what is told of the choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Mean over both turns.
    Mean,
    /// Mean over the first turn.
    FirstTurn,
    /// Mean over the second turn.
    SecondTurn,
    /// Standard deviation between the choices' means over both turns (n - 1), which upstream calls `new_variance`.
    Deviation,
}

/// Mean rating, or one of the figures beside it.
pub struct Rating(pub Figure);

/// Sum and number of the ratings of each choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns(Vec<(f64, f64)>);

impl Columns {
    /// Adds one row: a rating of each choice, in their order.
    pub fn add(&mut self, row: impl IntoIterator<Item = Option<f64>>) {
        for (choice, rating) in row.into_iter().enumerate() {
            if self.0.len() <= choice {
                self.0.push((0.0, 0.0));
            }
            let (sum, n) = &mut self.0[choice];
            *sum += rating.unwrap_or(0.0);
            *n += f64::from(u8::from(rating.is_some()));
        }
    }

    /// Mean of each choice; `None` where one has no rating or there is no choice.
    fn means(&self) -> Option<Vec<f64>> {
        let means: Option<Vec<f64>> = self.0.iter().map(|(sum, n)| (*n > 0.0).then(|| sum / n)).collect();
        means.filter(|m| !m.is_empty())
    }

    /// Mean of the choices' means, 1 to 10.
    pub fn mean(&self) -> Option<f64> {
        let means = self.means()?;
        Some(means.iter().sum::<f64>() / means.len() as f64)
    }

    /// Standard deviation of the choices' means (n - 1); `None` for fewer than two.
    pub fn deviation(&self) -> Option<f64> {
        let means = self.means().filter(|m| m.len() > 1)?;
        let mean = means.iter().sum::<f64>() / means.len() as f64;
        let squares: f64 = means.iter().map(|m| (mean - m) * (mean - m)).sum();
        Some((squares / (means.len() - 1) as f64).sqrt())
    }

    /// Ratings given.
    pub fn given(&self) -> u64 {
        self.0.iter().map(|(_, n)| *n as u64).sum()
    }
}

impl Metric for Rating {
    fn name(&self) -> &'static str {
        match self.0 {
            Figure::Mean => "rating",
            Figure::FirstTurn => "rating_first_turn",
            Figure::SecondTurn => "rating_second_turn",
            Figure::Deviation => "rating_stdev",
        }
    }

    /// `stats` holds sum and number of every choice: those of the first turn, then those of the second. A document without any rating has
    /// the value 0, which no aggregate reads.
    fn score(&self, _: &Resources<'_>, _: &Reference, evidence: &[Evidence]) -> Score {
        let turn = |wanted: u32| {
            let mut columns = Columns::default();
            columns.add(evidence.iter().filter_map(|e| match e {
                Evidence::Rating { turn, rating } if *turn == wanted => Some(*rating),
                _ => None,
            }));
            columns
        };
        let columns = [turn(0), turn(1)];
        let stats: Vec<f64> = columns.iter().flat_map(|c| c.0.iter().flat_map(|(sum, n)| [*sum, *n])).collect();
        let value = self.figure(&stats).unwrap_or(0.0);
        Score { value, stats }
    }

    fn aggregate(&self, scores: &[Score]) -> Option<f64> {
        let width = scores.iter().map(|s| s.stats.len()).max()?;
        let mut sums = vec![0.0; width];
        for score in scores {
            score.stats.iter().zip(&mut sums).for_each(|(part, sum)| *sum += part);
        }
        self.figure(&sums)
    }

    fn half_width_95(&self, scores: &[Score]) -> Option<f64> {
        let rated = |s: &&Score| s.stats.chunks_exact(2).any(|c| c[1] > 0.0);
        let values: Vec<f64> = scores.iter().filter(rated).map(|s| s.value).collect();
        if self.0 == Figure::Deviation { None } else { super::aggregate::half_width_95(&values) }
    }
}

impl Rating {
    fn figure(&self, stats: &[f64]) -> Option<f64> {
        let pairs: Vec<(f64, f64)> = stats.chunks_exact(2).map(|c| (c[0], c[1])).collect();
        let (first, second) = pairs.split_at(pairs.len() / 2);
        let both = || Columns(first.iter().zip(second).map(|(a, b)| (a.0 + b.0, a.1 + b.1)).collect());
        let figure = match self.0 {
            Figure::Mean => both().mean(),
            Figure::FirstTurn => Columns(first.to_vec()).mean(),
            Figure::SecondTurn => Columns(second.to_vec()).mean(),
            Figure::Deviation => both().deviation(),
        };
        figure.map(|f| f / BEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(first: &[Option<f64>], second: &[Option<f64>]) -> Vec<Evidence> {
        let evidence = |turn, row: &[Option<f64>]| row.iter().map(|rating| Evidence::Rating { turn, rating: *rating }).collect::<Vec<_>>();
        [evidence(0, first), evidence(1, second)].concat()
    }

    fn aggregate(figure: Figure, documents: &[Vec<Evidence>]) -> Option<f64> {
        let metric = Rating(figure);
        let score = |d: &Vec<Evidence>| metric.score(&Resources::default(), &Reference::default(), d);
        metric.aggregate(&documents.iter().map(score).collect::<Vec<_>>())
    }

    #[test]
    fn choices_are_averaged_before_they_meet() {
        let documents = [document(&[Some(8.0), Some(6.0)], &[Some(4.0), None]), document(&[None, Some(10.0)], &[Some(6.0), Some(2.0)])];
        // Choice 0: 8, 4, 6 = 6; choice 1: 6, 10, 2 = 6.
        assert_eq!(aggregate(Figure::Mean, &documents), Some(0.6));
        assert_eq!(aggregate(Figure::Deviation, &documents), Some(0.0));
        // First turn: 8 and 8; second: 5 and 2.
        assert_eq!(aggregate(Figure::FirstTurn, &documents), Some(0.8));
        assert_eq!(aggregate(Figure::SecondTurn, &documents), Some(0.35));
    }

    #[test]
    fn a_choice_without_any_rating_leaves_no_number() {
        let documents = [document(&[Some(8.0), None], &[Some(4.0), None])];
        assert_eq!(aggregate(Figure::Mean, &documents), None);
        assert_eq!(aggregate(Figure::Mean, &[]), None);
        assert_eq!(aggregate(Figure::Mean, &[vec![]]), None);
    }
}
