//! Charts as inline SVG, drawn by the server: steps over time, with lines for what is usual and marks for what happened.
//!
//! Colours are classes, so that a page may be light or dark; every figure is in a table beside its chart as well.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::text::{grouped, time_of_day};
use crate::event::Millis;

const WIDTH: f64 = 840.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 28.0;
/// Times below the chart.
const LABELS: i64 = 6;
/// Most rows of the table beside a chart; neighbours are summed.
const ROWS_MAX: usize = 60;

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drawn {
    /// Filled down to zero.
    Area,
    Line,
    Dashed,
}

/// One row of figures, one for each step.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub name: &'static str,
    /// Its class in the style sheet.
    pub class: &'static str,
    pub drawn: Drawn,
    pub values: Vec<f64>,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub at: Millis,
    pub class: &'static str,
    pub label: String,
}

/// Figures over time.
#[derive(Debug, Clone)]
pub(super) struct Chart {
    /// Unique on its page.
    pub id: String,
    pub title: String,
    /// What a person who does not see it should know.
    pub description: String,
    pub from: Millis,
    pub step_ms: Millis,
    pub series: Vec<Series>,
    pub marks: Vec<Mark>,
}

impl Chart {
    fn steps(&self) -> usize {
        self.series.iter().map(|series| series.values.len()).max().unwrap_or_default()
    }

    fn to(&self) -> Millis {
        self.from.saturating_add(self.step_ms.saturating_mul(i64::try_from(self.steps()).unwrap_or(i64::MAX)))
    }

    fn top(&self) -> f64 {
        let largest = self.series.iter().flat_map(|series| &series.values).copied().fold(0.0, f64::max);
        round_up(largest)
    }

    /// The chart, what its colours mean, and its figures as a table.
    #[must_use]
    pub(super) fn markup(&self) -> Markup {
        let (title, description) = (format!("{}-title", self.id), format!("{}-desc", self.id));
        html! {
            figure.chart {
                svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-labelledby={ (title) " " (description) } {
                    title id=(title) { (self.title) }
                    desc id=(description) { (self.description) }
                    (self.grid())
                    @for series in &self.series { (self.drawn(series)) }
                    @for mark in &self.marks { (self.mark(mark)) }
                }
                figcaption {
                    ul.legend {
                        @for series in &self.series {
                            li { span class={ "swatch " (series.class) } aria-hidden="true" {} (series.name) }
                        }
                        @for mark in &self.marks {
                            li { span class={ "swatch " (mark.class) } aria-hidden="true" {} (mark.label) " " (time_of_day(mark.at)) }
                        }
                    }
                    (self.table())
                }
            }
        }
    }

    fn grid(&self) -> Markup {
        let (top, to) = (self.top(), self.to());
        html! {
            @for quarter in 0..=4_u8 {
                @let value = top * f64::from(quarter) / 4.0;
                @let y = place_y(value, top);
                line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(y) y2=(y) {}
                text.axis x=(LEFT - 6.0) y=(y + 4.0) text-anchor="end" { (shown(value)) }
            }
            @for label in 0..=LABELS {
                @let at = self.from + (to - self.from) * label / LABELS;
                @let anchor = if label == 0 { "start" } else if label == LABELS { "end" } else { "middle" };
                text.axis x=(self.place_x(at)) y=(HEIGHT - 8.0) text-anchor=(anchor) { (time_of_day(at)) }
            }
        }
    }

    fn drawn(&self, series: &Series) -> Markup {
        let top = self.top();
        let mut path = String::new();
        let step_width = (WIDTH - LEFT - RIGHT) / self.steps().max(1) as f64;
        for (index, value) in series.values.iter().enumerate() {
            let (x, y) = (LEFT + step_width * index as f64, place_y(*value, top));
            let start = if index > 0 { "L" } else { "M" };
            let _written = write!(path, "{start}{x:.1} {y:.1}H{:.1}", x + step_width);
        }
        if series.drawn == Drawn::Area && !path.is_empty() {
            let floor = place_y(0.0, top);
            let right = LEFT + step_width * series.values.len() as f64;
            let _written = write!(path, "L{right:.1} {floor:.1}L{LEFT:.1} {floor:.1}Z");
        }
        let drawn = match series.drawn {
            Drawn::Area => "area",
            Drawn::Line => "line",
            Drawn::Dashed => "line dashed",
        };
        html! { path class={ (drawn) " " (series.class) } d=(path) {} }
    }

    fn mark(&self, mark: &Mark) -> Markup {
        let x = self.place_x(mark.at.clamp(self.from, self.to()));
        html! {
            line class={ "mark " (mark.class) } x1=(x) x2=(x) y1=(TOP) y2=(HEIGHT - BOTTOM) {
                title { (mark.label) " " (time_of_day(mark.at)) }
            }
        }
    }

    fn place_x(&self, at: Millis) -> f64 {
        let span = (self.to() - self.from).max(1) as f64;
        round(LEFT + (WIDTH - LEFT - RIGHT) * (at - self.from) as f64 / span)
    }

    fn table(&self) -> Markup {
        let steps = self.steps();
        let of_row = steps.div_ceil(ROWS_MAX).max(1);
        html! {
            details id={ (self.id) "-figures" } {
                summary { "Figures of this chart" }
                div.scroll tabindex="0" role="region" aria-label={ "Figures: " (self.title) } {
                    table {
                        thead { tr { th scope="col" { "From (UTC)" } @for series in &self.series { th.number scope="col" { (series.name) } } } }
                        tbody {
                            @for row in 0..steps.div_ceil(of_row) {
                                tr {
                                    th scope="row" { (time_of_day(self.from + self.step_ms * i64::try_from(row * of_row).unwrap_or_default())) }
                                    @for series in &self.series {
                                        td.number { (shown(series.values.iter().skip(row * of_row).take(of_row).sum())) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn place_y(value: f64, top: f64) -> f64 {
    round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value.clamp(0.0, top) / top)
}

/// A tenth of a unit is finer than anybody sees.
fn round(place: f64) -> f64 {
    (place * 10.0).round() / 10.0
}

/// The next 1, 2, 4 or 8 times a power of ten, at least 4.
fn round_up(value: f64) -> f64 {
    let mut power = 1.0;
    while power < 1e15 {
        for step in [1.0, 2.0, 4.0, 8.0] {
            let top = step * power;
            if top >= 4.0 && top >= value {
                return top;
            }
        }
        power *= 10.0;
    }
    power
}

fn shown(value: f64) -> String {
    let whole = value.round();
    if (value - whole).abs() < 0.05 { grouped(whole as i64) } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_ends_at_a_round_number_above_everything() {
        let tops = [0.0, 3.0, 4.1, 79.0, 81.0, 43_387.0].map(|value| shown(round_up(value)));
        assert_eq!(tops, ["4", "4", "8", "80", "100", "80,000"]);
    }

    #[test]
    fn nothing_that_is_drawn_leaves_the_chart_and_no_text_is_markup() {
        let chart = Chart {
            id: "t".to_owned(),
            title: "<b>".to_owned(),
            description: String::new(),
            from: 0,
            step_ms: 60_000,
            series: vec![Series {
                name: "failures",
                class: "failures",
                drawn: Drawn::Area,
                values: vec![1.0, 5.0, 0.0],
            }],
            marks: vec![Mark { at: 900_000_000, class: "fell", label: "<script>".to_owned() }],
        };
        let svg = chart.markup().into_string();
        assert!(!svg.contains("<b>") && !svg.contains("<script>") && svg.contains("&lt;script&gt;"));
        let numbers = svg.split(|c: char| !c.is_ascii_digit() && c != '.').filter_map(|word| word.parse::<f64>().ok());
        assert!(numbers.into_iter().all(|number| number <= WIDTH), "{svg}");
        let empty = Chart { series: Vec::new(), marks: Vec::new(), ..chart };
        assert!(empty.markup().into_string().contains("<svg"));
    }
}
