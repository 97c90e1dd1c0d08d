//! Geometry of the bar and radar charts of one suite; the template draws it as SVG. Units are those of the view box.

use super::Subject;
use crate::results::reference::ReferenceRow;
use serde::Serialize;
use std::f64::consts::TAU;

/// Models a chart can tell apart. The table has all of them.
const SERIES: usize = 4;

/// Of the bars: width of a column at least, of the axis' labels, height of the plot, of the head room.
const COLUMN: f64 = 76.0;
const LEFT: f64 = 34.0;
const PLOT: f64 = 190.0;
const HEAD: f64 = 10.0;

/// Of the radar.
const CENTRE: (f64, f64) = (210.0, 165.0);
const RADIUS: f64 = 125.0;

/// Both charts, with the same colours.
#[derive(Debug, Serialize)]
pub(super) struct Charts {
    legend: Vec<Name>,
    /// Models without a place in the charts.
    left_out: usize,
    bars: Option<Bars>,
    radar: Option<Radar>,
}

#[derive(Debug, Serialize)]
struct Name {
    model: String,
    published: bool,
}

/// One model's numbers, in the order of the titles.
struct Series {
    name: Name,
    values: Vec<Option<f64>>,
    half_widths: Vec<Option<f64>>,
}

#[derive(Debug, Serialize)]
struct Bars {
    width: f64,
    height: f64,
    floor: f64,
    left: f64,
    grid: Vec<Label>,
    bars: Vec<Bar>,
    labels: Vec<Label>,
}

#[derive(Debug, Serialize)]
struct Bar {
    series: usize,
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    /// Middle, top and bottom of the 95 % interval.
    whisker: Option<(f64, f64, f64)>,
    says: String,
}

/// A text and where it stands.
#[derive(Debug, Serialize)]
struct Label {
    x: f64,
    y: f64,
    text: String,
    /// Of a radar: `start`, `middle`, `end`.
    anchor: &'static str,
}

#[derive(Debug, Serialize)]
struct Radar {
    rings: Vec<String>,
    spokes: Vec<(f64, f64)>,
    centre: (f64, f64),
    labels: Vec<Label>,
    shapes: Vec<Shape>,
}

#[derive(Debug, Serialize)]
struct Shape {
    series: usize,
    points: String,
    dots: Vec<(f64, f64)>,
}

impl Charts {
    /// The charts over the columns `titles`: our runs first, then the published rows they are held against.
    pub(super) fn of(titles: &[String], runs: &[&Subject], published: &[&ReferenceRow]) -> Charts {
        let ours = runs.iter().map(|run| of_run(titles, run));
        let theirs = published.iter().map(|row| of_row(titles, row));
        let mut series: Vec<Series> = ours.chain(theirs).collect();
        let left_out = series.len().saturating_sub(SERIES);
        series.truncate(SERIES);
        let bars = bars(titles, &series);
        let radar = radar(titles, &series);
        Charts { bars, radar, left_out, legend: series.into_iter().map(|s| s.name).collect() }
    }
}

fn of_run(titles: &[String], run: &Subject) -> Series {
    let task = |title: &String| run.scores.by_title(title);
    Series {
        name: Name { model: run.scores.model.clone(), published: false },
        values: titles.iter().map(|title| task(title)?.value).collect(),
        half_widths: titles.iter().map(|title| task(title)?.half_width_95).collect(),
    }
}

fn of_row(titles: &[String], row: &ReferenceRow) -> Series {
    Series {
        name: Name { model: row.model.to_owned(), published: true },
        values: titles.iter().map(|title| row.value(title)).collect(),
        half_widths: vec![None; titles.len()],
    }
}

/// Titles that some run of ours has a number for: a chart of published numbers alone shows nothing of the run.
fn measured(series: &[Series]) -> impl Fn(usize) -> bool + '_ {
    |at| series.iter().any(|s| !s.name.published && s.values[at].is_some())
}

fn bars(titles: &[String], series: &[Series]) -> Option<Bars> {
    let is_measured = measured(series);
    let shown: Vec<usize> = (0..titles.len()).filter(|at| is_measured(*at)).collect();
    if shown.is_empty() {
        return None;
    }
    let column = COLUMN.max(620.0 / shown.len() as f64).min(150.0);
    let thick = (column * 0.72 / series.len() as f64).min(40.0);
    let floor = HEAD + PLOT;
    let y_of = |value: f64| round(floor - PLOT * value.clamp(0.0, 1.0));
    let mut bars = Vec::new();
    for (place, at) in shown.iter().enumerate() {
        let start = LEFT + column * (place as f64 + 0.5) - thick * series.len() as f64 / 2.0;
        for (number, one) in series.iter().enumerate() {
            let Some(value) = one.values[*at] else { continue };
            let (x, y) = (round(start + thick * number as f64), y_of(value));
            let half = one.half_widths[*at];
            bars.push(Bar {
                series: number,
                x,
                y,
                width: round(thick - 2.0),
                height: round(floor - y),
                whisker: half.map(|half| (round(x + thick / 2.0 - 1.0), y_of(value + half), y_of(value - half))),
                says: format!("{} · {}: {value:.4}{}", titles[*at], one.name.model, half.map(|h| format!(" ± {h:.4}")).unwrap_or_default()),
            });
        }
    }
    let label = |(place, at): (usize, &usize)| {
        let x = round(LEFT + column * (place as f64 + 0.5));
        Label { x, y: floor + 18.0, text: titles[*at].clone(), anchor: "middle" }
    };
    let line = |tenths: u32| {
        let value = f64::from(tenths) / 10.0;
        Label { x: LEFT - 6.0, y: y_of(value), text: format!("{value:.1}"), anchor: "end" }
    };
    Some(Bars {
        width: round(LEFT + column * shown.len() as f64 + 6.0),
        height: floor + 28.0,
        floor,
        left: LEFT,
        grid: (0..=10).step_by(2).map(line).collect(),
        labels: shown.iter().enumerate().map(label).collect(),
        bars,
    })
}

/// A radar over the titles that every run of ours has; fewer than three make no area.
fn radar(titles: &[String], series: &[Series]) -> Option<Radar> {
    let everyone = |at: &usize| series.iter().all(|s| s.values[*at].is_some() || s.name.published);
    let is_measured = measured(series);
    let axes: Vec<usize> = (0..titles.len()).filter(|at| is_measured(*at)).filter(everyone).collect();
    if axes.len() < 3 {
        return None;
    }
    let point = |place: usize, value: f64| {
        let angle = TAU * place as f64 / axes.len() as f64;
        let reach = RADIUS * value;
        (round(CENTRE.0 + reach * angle.sin()), round(CENTRE.1 - reach * angle.cos()))
    };
    let ring = |tenths: u32| joined(&(0..axes.len()).map(|place| point(place, f64::from(tenths) / 10.0)).collect::<Vec<_>>());
    let label = |(place, at): (usize, &usize)| {
        let (x, y) = point(place, 1.09);
        let anchor = match x - CENTRE.0 {
            d if d > 8.0 => "start",
            d if d < -8.0 => "end",
            _ => "middle",
        };
        Label { x, y: round(y + 4.0), text: titles[*at].clone(), anchor }
    };
    let shape = |(number, one): (usize, &Series)| {
        let place = |(place, at): (usize, &usize)| Some(point(place, one.values[*at]?.clamp(0.0, 1.0)));
        let dots: Vec<(f64, f64)> = axes.iter().enumerate().filter_map(place).collect();
        Shape { series: number, points: joined(&dots), dots }
    };
    Some(Radar {
        rings: (2..=10).step_by(2).map(ring).collect(),
        spokes: (0..axes.len()).map(|place| point(place, 1.0)).collect(),
        centre: CENTRE,
        labels: axes.iter().enumerate().map(label).collect(),
        shapes: series.iter().enumerate().map(shape).collect(),
    })
}

fn joined(points: &[(f64, f64)]) -> String {
    points.iter().map(|(x, y)| format!("{x},{y}")).collect::<Vec<_>>().join(" ")
}

/// A tenth of a pixel is enough.
fn round(length: f64) -> f64 {
    (length * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(published: bool, values: &[Option<f64>]) -> Series {
        Series {
            name: Name { model: "m".into(), published },
            values: values.to_vec(),
            half_widths: values.iter().map(|_| (!published).then_some(0.1)).collect(),
        }
    }

    #[test]
    fn bars_stand_for_their_values() {
        let titles = ["a", "b", "c"].map(str::to_owned);
        let all = [series(false, &[Some(0.5), None, Some(1.0)]), series(true, &[Some(0.25), Some(0.9), None])];
        let chart = bars(&titles, &all).expect("two columns");
        let heights: Vec<(usize, f64)> = chart.bars.iter().map(|bar| (bar.series, bar.height / PLOT)).collect();
        assert_eq!(heights, [(0, 0.5), (1, 0.25), (0, 1.0)], "b was not measured, c was not published");
        assert_eq!(chart.labels.iter().map(|l| l.text.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        let (_, top, bottom) = chart.bars[0].whisker.expect("ours has an interval");
        assert_eq!((chart.floor - top, chart.floor - bottom), (PLOT * 0.6, PLOT * 0.4));
        assert!(chart.bars[1].whisker.is_none());
        assert!(bars(&titles, &[series(true, &[Some(0.1); 3])]).is_none());
    }

    #[test]
    fn a_radar_needs_three_axes_that_all_of_ours_have() {
        let titles = ["a", "b", "c", "d"].map(str::to_owned);
        let ours = || series(false, &[Some(1.0), Some(0.5), Some(0.0), Some(0.5)]);
        let chart = radar(&titles, &[ours(), series(true, &[Some(1.0), None, Some(1.0), Some(1.0)])]).expect("four axes");
        let (x, y) = CENTRE;
        assert_eq!(chart.shapes[0].dots, [(x, y - RADIUS), (x + RADIUS / 2.0, y), (x, y), (x - RADIUS / 2.0, y)]);
        assert_eq!(chart.shapes[1].dots.len(), 3);
        assert!(radar(&titles, &[ours(), series(false, &[Some(1.0), Some(1.0), None, None])]).is_none());
    }
}
