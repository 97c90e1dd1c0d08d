//! Numbers of the parts of a benchmark, and of the whole that is made of them.

use super::{Metric, Score, aggregate::Part};

/// Parts from their documents, groups from their parts, the whole from its groups, each in the order in which its members first appear.
/// The groups come in the order of their paths; there is no whole where no document has a path.
pub fn pooled(metric: &dyn Metric, paths: &[Option<&str>], scores: &[Score]) -> (Vec<(String, Part)>, Option<Part>) {
    let mut leaves: Vec<(&str, Vec<Score>)> = Vec::new();
    for (path, score) in paths.iter().zip(scores) {
        let Some(path) = path else { continue };
        match leaves.iter_mut().rev().find(|(leaf, _)| leaf == path) {
            Some((_, scores)) => scores.push(score.clone()),
            None => leaves.push((path, vec![score.clone()])),
        }
    }
    let part = |(path, scores): &(&'_ str, Vec<Score>)| {
        Some((path.to_string(), Part { value: metric.aggregate(scores)?, stderr: metric.stderr(scores), n: scores.len() as u64 }))
    };
    let mut level: Vec<(String, Part)> = leaves.iter().filter_map(part).collect();
    let mut all = level.clone();
    while let Some(depth) = level.iter().map(|(path, _)| path.matches('/').count()).max().filter(|depth| *depth > 0) {
        let mut above: Vec<(String, Vec<Part>)> = Vec::new();
        for (path, part) in level {
            let deepest = path.matches('/').count() == depth;
            let parent = if deepest { path.rsplit_once('/').map_or_else(String::new, |(parent, _)| parent.to_owned()) } else { path };
            match above.iter_mut().find(|(of, _)| *of == parent) {
                Some((_, parts)) => parts.push(part),
                None => above.push((parent, vec![part])),
            }
        }
        let pool = |(path, parts): (String, Vec<Part>)| {
            let whole = if let [only] = parts[..]
                && all.iter().any(|(of, _)| *of == path)
            {
                Some(only)
            } else {
                Part::pooled(&parts)
            };
            whole.map(|whole| (path, whole))
        };
        level = above.into_iter().filter_map(pool).collect();
        let new: Vec<_> = level.iter().filter(|(path, _)| !all.iter().any(|(of, _)| of == path)).cloned().collect();
        all.extend(new);
    }
    let whole = Part::pooled(&level.iter().map(|(_, part)| *part).collect::<Vec<_>>());
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    (all, whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::by_name;

    #[test]
    fn the_whole_is_pooled_from_groups_and_those_from_parts() {
        let metric = by_name("acc").expect("known");
        let paths = [Some("b/x"), Some("b/x"), Some("a/y"), Some("b/z"), Some("a/y"), Some("b/z"), Some("b/z")];
        let scores: Vec<Score> = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0].map(Score::of).into();
        let (groups, whole) = pooled(metric, &paths, &scores);
        let got: Vec<_> = groups.iter().map(|(path, part)| (path.as_str(), part.value, part.n)).collect();
        assert_eq!(got, [("a", 1.0, 2), ("a/y", 1.0, 2), ("b", 0.4, 5), ("b/x", 0.5, 2), ("b/z", 1.0 / 3.0, 3)]);
        let whole = whole.expect("parts");
        assert_eq!((whole.value, whole.n), (4.0 / 7.0, 7));
        // b: sqrt(((2-1)*0.25*2 + (3-1)/9*3) / (5-2) / 5); the whole of b and a (no spread): sqrt(4*se_b^2*5 / (7-2) / 7).
        let of_b = ((0.5 + 2.0 / 3.0) / 3.0 / 5.0_f64).sqrt();
        assert!((groups[2].1.stderr.expect("pooled") - of_b).abs() < 1e-15);
        assert!((whole.stderr.expect("pooled") - (4.0 * of_b * of_b * 5.0 / 5.0 / 7.0).sqrt()).abs() < 1e-15);
    }

    #[test]
    fn parts_without_groups_make_the_whole() {
        let metric = by_name("acc").expect("known");
        let (groups, whole) = pooled(metric, &[Some("x"), Some("y"), Some("y")], &[1.0, 0.0, 1.0].map(Score::of));
        assert_eq!(groups.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(whole.map(|w| (w.value, w.stderr)), Some((2.0 / 3.0, None)));
        assert_eq!(pooled(metric, &[None], &[Score::of(1.0)]).1, None);
    }
}
