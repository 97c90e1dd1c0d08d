//! A radar chart as one SVG file: a spoke for every column of a suite, ours in full, the published row dashed. Readable on light and dark
//! paper: colours follow `prefers-color-scheme`. The charts of the HTML page are drawn there.

use crate::results::{reference::ReferenceRow, scores::Scores};
use std::f64::consts::TAU;
use std::fmt::Write as _;

/// Width and height of the view box; centre and radius of the chart in it.
const SIZE: (u32, u32) = (520, 440);
const CENTRE: (f64, f64) = (260.0, 215.0);
const RADIUS: f64 = 160.0;
/// Rings, one for every fifth of the scale from 0 to 1.
const RINGS: u32 = 5;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#333}.grid{fill:none;stroke:#ccc}\
.ours{fill:#1f6feb33;stroke:#1f6feb;stroke-width:2}.theirs{fill:none;stroke:#c2410c;stroke-width:2;stroke-dasharray:6 4}\
@media(prefers-color-scheme:dark){text{fill:#ddd}.grid{stroke:#555}.ours{fill:#58a6ff33;stroke:#58a6ff}.theirs{stroke:#fb923c}}";

/// The chart of the columns that have a number, ours beside the published row; `None` for fewer than three of them. A spoke without a number in
/// one of the two leaves a gap in its line.
pub fn svg(scores: &Scores, published: Option<&ReferenceRow>, titles: &[&str]) -> Option<String> {
    let ours: Vec<Option<f64>> = titles.iter().map(|t| scores.by_title(t).and_then(|s| s.value)).collect();
    if ours.iter().flatten().count() < 3 {
        return None;
    }
    let (width, height) = SIZE;
    let mut out =
        format!("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n<style>{STYLE}</style>\n");
    let whole = vec![Some(1.0); titles.len()];
    for ring in 1..=RINGS {
        let share = f64::from(ring) / f64::from(RINGS);
        let _ = writeln!(out, "<polygon class=\"grid\" points=\"{}\"/>", points(&scaled(&whole, share)).join(" "));
    }
    for (spoke, title) in titles.iter().enumerate() {
        let ((x, y), (tx, ty)) = (at(spoke, titles.len(), 1.0), at(spoke, titles.len(), 1.13));
        let (cx, cy) = CENTRE;
        let _ = writeln!(out, "<path class=\"grid\" d=\"M{cx} {cy}L{x:.1} {y:.1}\"/>");
        let _ = writeln!(out, "<text x=\"{tx:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>", ty + 4.0, escape(title));
    }
    let theirs: Option<Vec<Option<f64>>> = published.map(|row| titles.iter().map(|t| row.value(t)).collect());
    for (class, values) in [("theirs", theirs.as_ref()), ("ours", Some(&ours))] {
        let Some(values) = values else { continue };
        let shape = if values.iter().all(Option::is_some) { "polygon" } else { "polyline" };
        let _ = writeln!(out, "<{shape} class=\"{class}\" points=\"{}\"/>", points(values).join(" "));
    }
    legend(&mut out, "ours", 20, &scores.model);
    if let Some(row) = published {
        legend(&mut out, "theirs", 40, &format!("{} (published)", row.model));
    }
    out.push_str("</svg>\n");
    Some(out)
}

fn legend(out: &mut String, class: &str, y: u32, name: &str) {
    let _ = writeln!(out, "<path class=\"{class}\" d=\"M12 {y}h26\"/><text x=\"46\" y=\"{}\">{}</text>", y + 4, escape(name));
}

fn scaled(values: &[Option<f64>], share: f64) -> Vec<Option<f64>> {
    values.iter().map(|v| v.map(|v| v * share)).collect()
}

/// Place of a value on a spoke; the first spoke points up, the others follow clockwise.
fn at(spoke: usize, spokes: usize, value: f64) -> (f64, f64) {
    let angle = TAU * spoke as f64 / spokes as f64;
    (CENTRE.0 + RADIUS * value * angle.sin(), CENTRE.1 - RADIUS * value * angle.cos())
}

fn points(values: &[Option<f64>]) -> Vec<String> {
    let placed = values.iter().enumerate().filter_map(|(spoke, v)| Some(at(spoke, values.len(), v.as_ref().copied()?.clamp(0.0, 1.1))));
    placed.map(|(x, y)| format!("{x:.1},{y:.1}")).collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::scores::TaskScore;

    fn scores(values: &[Option<f64>]) -> Scores {
        let task = |(i, value): (usize, &Option<f64>)| TaskScore { title: format!("t{i}"), value: *value, ..TaskScore::default() };
        Scores::new("p", "own", "a<b", false, values.iter().enumerate().map(task).collect())
    }

    #[test]
    fn every_column_has_its_spoke_and_missing_values_leave_a_gap() {
        let titles = ["t0", "t1", "t2", "t3"];
        let svg = svg(&scores(&[Some(0.5), None, Some(1.0), Some(0.0)]), None, &titles).expect("three numbers");
        assert_eq!(svg.matches("<text").count(), 5, "four columns and a name");
        // Half way up, all the way down, the centre.
        assert!(svg.contains("<polyline class=\"ours\" points=\"260.0,135.0 260.0,375.0 260.0,215.0\"/>"), "{svg}");
        assert!(svg.contains("a&lt;b") && svg.contains("prefers-color-scheme:dark"));
    }

    #[test]
    fn two_numbers_make_no_radar() {
        assert_eq!(svg(&scores(&[Some(0.5), None, Some(1.0)]), None, &["t0", "t1", "t2"]), None);
    }
}
