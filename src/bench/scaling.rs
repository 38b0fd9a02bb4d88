//! How the training step's time grows with the batch and with the tokens of an image.

use std::path::Path;

use plotters::prelude::*;

use super::Suite;
use super::network::StepGraph;
use super::results::{Measurement, Results};
use crate::error::{Error, Result};
use crate::files;

/// A cost per unit above the best by more than this factor is noted.
const BEND: f64 = 1.5;

/// What is varied, and the unit that the time is divided by.
struct Series {
    /// The beginning of the names of rows.
    name: &'static str,
    unit: &'static str,
    /// Detail of a row: milliseconds per unit.
    detail: &'static str,
}

const BATCHES: Series = Series { name: "scaling batch", unit: "image", detail: "ms per image" };
const TOKENS: Series = Series { name: "scaling tokens", unit: "token", detail: "ms per token" };

/// Pixels along the side of a patch of the benchmark network.
const PATCH: usize = 4;

impl Suite<'_> {
    /// The training step of `dit-step` at batches from 8 to 256, and with 16 to 1024 tokens at a fixed batch.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn scaling(&mut self, batch: usize) -> Result<()> {
        if self.limits.flops_per_second == 0.0 {
            self.fma()?;
        }
        let batches = (3..=8).map(|power| (1 << power, 32, 1 << power));
        self.series(&BATCHES, batches.collect())?;
        let tokens = [4, 8, 16, 32].map(|side| (batch, PATCH * side, side * side));
        self.series(&TOKENS, tokens.into())
    }

    /// Steps at `(batch, image size, what is varied)`, by increasing cost.
    fn series(&mut self, series: &Series, sizes: Vec<(usize, usize, usize)>) -> Result<()> {
        let mut seconds_by_flop = 0.0;
        let mut measured: Vec<(String, f64)> = Vec::new();
        for (batch, image_size, varied) in sizes {
            let name = format!("{} {varied}", series.name);
            let recorded = StepGraph::record(batch, image_size, self.precision);
            let flops = recorded.graph.flops() as f64;
            if !self.is_short_enough(&name, flops * seconds_by_flop) {
                continue;
            }
            let bound = recorded.bind(&self.gpu);
            let Some(mut step) = self.or_too_large(&name, bound)? else { continue };
            // The first replays compile and measure.
            for _ in 0..3 {
                step.step()?;
            }
            self.gpu.wait()?;
            let row = self.measure_step(&name, &mut step)?;
            seconds_by_flop = row.seconds / flops;
            let units = if series.unit == "image" { batch } else { batch * varied };
            let cost = 1e3 * row.seconds / units as f64;
            measured.push((name, cost));
            self.add(row.with([(series.detail, cost)]));
        }
        let best = measured.iter().min_by(|a, b| a.1.total_cmp(&b.1)).cloned();
        for (name, cost) in &measured {
            if let Some((best, least)) = best.as_ref().filter(|(_, least)| *cost > BEND * least) {
                self.note(format!("{name}: {:.1} times the cost of {best} for each {}", cost / least, series.unit));
            }
        }
        Ok(())
    }
}

/// The points of a series: what is varied, and milliseconds per unit.
fn points(results: &Results, series: &Series) -> Vec<(f64, f64)> {
    let point = |row: &Measurement| {
        let varied = row.name.strip_prefix(series.name)?.trim().parse().ok()?;
        Some((varied, *row.details.get(series.detail)?))
    };
    results.rows.iter().filter_map(point).collect()
}

/// Draws what [`Suite::scaling`] measured, both axes logarithmic: a horizontal line is a cost that grows exactly
/// with the work.
///
/// # Errors
/// [`Error::Failed`] if the file is not writable.
pub fn plot(results: &Results, path: &Path) -> Result<()> {
    let mut svg = String::new();
    draw(results, &mut svg).map_err(|cause| Error::failed(format!("cannot draw {}: {cause}", path.display())))?;
    files::write_atomically(path, svg.as_bytes())
}

fn draw(results: &Results, svg: &mut String) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, (960, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    let (title, panels) = area.split_vertically(30);
    let heading = format!("Training step of the benchmark network on {} ({})", results.adapter, results.driver);
    title.draw_text(&heading, &("sans-serif", 15).into_text_style(&title), (20, 8))?;
    for (panel, (series, what)) in panels
        .split_evenly((1, 2))
        .iter()
        .zip([(&BATCHES, "batch, 64 tokens per image"), (&TOKENS, "tokens per image")])
    {
        let points = points(results, series);
        let of = |pick: fn(&(f64, f64)) -> f64| {
            let values = || points.iter().map(pick);
            values().fold(f64::INFINITY, f64::min)..values().fold(0.0, f64::max)
        };
        let (x, y) = (of(|point| point.0), of(|point| point.1));
        if points.is_empty() {
            continue;
        }
        let mut chart =
            ChartBuilder::on(panel).margin(15).x_label_area_size(40).y_label_area_size(65).build_cartesian_2d(
                (x.start / 1.3..x.end * 1.3).log_scale().base(2.0),
                (y.start / 2.0..y.end * 2.0).log_scale().base(2.0),
            )?;
        let number = |value: &f64| format!("{value}");
        chart
            .configure_mesh()
            .x_desc(what)
            .y_desc(series.detail)
            .x_label_formatter(&number)
            .y_label_formatter(&number)
            .light_line_style(WHITE)
            .draw()?;
        chart.draw_series(LineSeries::new(points.iter().copied(), BLUE.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, BLUE.filled())))?;
    }
    area.present()?;
    Ok(())
}
