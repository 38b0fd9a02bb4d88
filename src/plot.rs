//! Charts as SVG: what `compare`, the report of a run and the dashboard show.
//!
//! A chart has one pair of axes, horizontal grid lines, and a legend on the right whose entries are as close to the
//! ends of their lines as there is room. The colours are those of Okabe and Ito, which people with any kind of colour
//! vision can tell apart. If there are more lines than colours, the shape of the marks distinguishes them.
//!
//! Inside a page, a chart is smaller, and the page writes its title and legend. It uses the page's colours (`--ink`,
//! `--faded`, `--rule`, `--card`), so that it follows a dark theme.

use std::path::Path;

use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::{Error, Result};
use crate::files::write_atomically;

mod heat_map;

pub use heat_map::HeatMap;

/// The library rounds positions to integer units; a pixel is this many of them, so that lines stay smooth.
const UNIT: f64 = 8.0;
/// Gap between the plot area and the text of the legend, which contains the marks of the legend.
const GAP: f64 = 38.0;
/// Height of an entry of the legend.
const ENTRY: f64 = 18.0;
/// Number of marks on a long line that shares its colour with another.
const MARKS: usize = 6;
/// Approximate number of ticks on an axis.
const TICKS: f64 = 6.0;

const INK: RGBColor = RGBColor(34, 37, 43);
const FADED: RGBColor = RGBColor(104, 110, 120);
const RULE: RGBColor = RGBColor(225, 228, 232);
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

/// Positions of the parts of a chart, in pixels.
#[derive(Clone, Copy)]
struct Frame {
    /// Size of the area between the axes.
    area: [f64; 2],
    /// Margins to the left of, above and below it.
    left: f64,
    top: f64,
    bottom: f64,
    /// Whether title, name of the vertical axis and legend are drawn.
    texts: bool,
}

/// A standalone chart.
const ALONE: Frame = Frame { area: [560.0, 330.0], left: 74.0, top: 70.0, bottom: 58.0, texts: true };
/// A chart inside a page.
const INLINE: Frame = Frame { area: [334.0, 170.0], left: 54.0, top: 10.0, bottom: 54.0, texts: false };
/// Text is larger there, as a chart shrinks on a small screen.
const INLINE_TEXT: f64 = 1.3;
/// Margin to the right of the area inside a page.
const INLINE_RIGHT: f64 = 12.0;

/// How an axis maps numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From the smallest value to the largest.
    Linear,
    /// Linear, with 0 always shown.
    FromZero,
    /// Linear, with ticks at integers only.
    Whole,
    /// Logarithmic; values that are not positive are omitted.
    Log,
}

/// An axis: what it measures, in which unit, and how.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// Quantity and unit.
    pub title: &'static str,
    /// How it maps numbers.
    pub scale: Scale,
}

/// One entry of the legend and everything that is drawn for it. Points are `[x, y]`.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Its name in the legend.
    pub label: String,
    /// Chooses the colour.
    pub colour: usize,
    /// Chooses the shape of the marks.
    pub shape: usize,
    /// The line.
    pub line: Vec<[f64; 2]>,
    /// Whether each point of the line gets a mark, or only the last.
    pub mark_all: bool,
    /// Band around the line: `[x, lowest, highest]`.
    pub band: Vec<[f64; 3]>,
    /// Thin lines of the same colour, such as the single runs behind a mean.
    pub threads: Vec<Vec<[f64; 2]>>,
}

impl Series {
    /// Its mark, for a legend in a page.
    ///
    /// # Errors
    /// [`Error::Failed`] if it cannot be drawn.
    pub fn to_inline_mark(&self) -> Result<String> {
        inline([12.0, 12.0], "mark", |sheet| draw_mark(sheet, [6.0, 6.0], self.shape, 4.5, self.rgb()))
    }

    fn rgb(&self) -> RGBColor {
        COLOURS[self.colour % COLOURS.len()]
    }
}

/// A chart.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What it shows.
    pub title: &'static str,
    /// How to read it.
    pub subtitle: &'static str,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// In order of importance: the first is drawn on top.
    pub series: Vec<Series>,
}

impl Chart {
    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.points().next().is_none()
    }

    /// Draws the chart and writes it.
    ///
    /// # Errors
    /// [`Error::Failed`] if the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let svg = self.to_svg().map_err(|cause| Error::unwritable(path, cause))?;
        write_atomically(path, svg.as_bytes())
    }

    /// Every point that can be shown.
    fn points(&self) -> impl Iterator<Item = [f64; 2]> {
        self.series.iter().flat_map(|series| {
            let band = series.band.iter().flat_map(|[x, low, high]| [[*x, *low], [*x, *high]]);
            let points = series.line.iter().chain(series.threads.iter().flatten()).copied();
            points.chain(band).filter(|point| self.shows(*point))
        })
    }

    fn shows(&self, [x, y]: [f64; 2]) -> bool {
        self.x.scale.shows(x) && self.y.scale.shows(y)
    }

    fn to_svg(&self) -> Drawn<String> {
        let longest = self.series.iter().map(|series| text_width(&series.label, 13.0)).fold(0.0, f64::max);
        let heading = text_width(self.title, 17.0).max(text_width(self.subtitle, 12.0));
        let height = ALONE.area[1].max(ENTRY * self.series.len() as f64);
        let frame = Frame { area: [ALONE.area[0], height], ..ALONE };
        let width = (frame.left + frame.area[0] + GAP + longest + 16.0).max(heading + 32.0);
        let size = [width, frame.top + height + frame.bottom].map(f64::ceil);
        let (svg, rest) = drawn(size, |sheet| {
            sheet.fill(&WHITE)?;
            Canvas::new(self, sheet, frame).draw()
        })?;
        let [width, height] = size;
        Ok(format!("{svg} width=\"{width}\" height=\"{height}\" {rest}"))
    }

    /// The chart as part of a page, which adds the title and the legend and sets the width.
    ///
    /// # Errors
    /// [`Error::Failed`] if it cannot be drawn.
    pub fn to_inline_svg(&self) -> Result<String> {
        let size = [INLINE.left + INLINE.area[0] + INLINE_RIGHT, INLINE.top + INLINE.area[1] + INLINE.bottom];
        inline(size, self.title, |sheet| Canvas::new(self, sheet, INLINE).draw())
    }
}

/// Draws on a canvas of this size in pixels. Returns the SVG before its first element and after the size.
fn drawn(size: [f64; 2], draw: impl FnOnce(&Sheet<'_>) -> Drawn) -> Drawn<(String, String)> {
    let mut svg = String::new();
    {
        let units = (unit(size[0]) as u32, unit(size[1]) as u32);
        let sheet = SVGBackend::with_string(&mut svg, units).into_drawing_area();
        draw(&sheet)?;
        sheet.present()?;
    }
    // The library's size is in units, which are finer than pixels.
    let (before, rest) = svg.split_once("<svg").ok_or("the SVG has no root element")?;
    let rest = rest.find("viewBox").map_or(rest, |at| &rest[at..]);
    Ok((format!("{before}<svg"), rest.to_owned()))
}

/// A drawing that takes its width and colours from the page around it.
fn inline(size: [f64; 2], title: &str, draw: impl FnOnce(&Sheet<'_>) -> Drawn) -> Result<String> {
    let (_, mut rest) =
        drawn(size, draw).map_err(|cause| Error::failed(format!("cannot draw the chart {title:?}: {cause}")))?;
    for (colour, name) in [(INK, "ink"), (FADED, "faded"), (RULE, "rule"), (WHITE, "card")] {
        let RGBColor(red, green, blue) = colour;
        rest = rest.replace(&format!("\"#{red:02X}{green:02X}{blue:02X}\""), &format!("\"var(--{name})\""));
    }
    Ok(format!("<svg role=\"img\" aria-label=\"{title}\" {rest}"))
}

impl Scale {
    fn shows(self, value: f64) -> bool {
        value.is_finite() && (self != Self::Log || value > 0.0)
    }
}

/// The range of an axis and its ticks.
struct Range {
    low: f64,
    high: f64,
    log: bool,
    ticks: Vec<(f64, String)>,
}

impl Range {
    fn new(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let log = scale == Scale::Log;
        let (mut low, mut high) = values
            .map(|value| if log { value.log10() } else { value })
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if scale == Scale::FromZero {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        if scale == Scale::Whole {
            (low, high) = (low.floor(), high.ceil());
        }
        if high - low < 1e-9 * high.abs().max(1e-3) {
            // A single value: some room around it.
            let room = if scale == Scale::Whole || log { 1.0 } else { 0.1 * high.abs().max(1e-3) };
            (low, high) = (if scale == Scale::FromZero { low } else { low - room }, high + room);
        }
        let room = 0.04 * (high - low);
        let floor = scale == Scale::FromZero && low == 0.0 || scale == Scale::Whole;
        (low, high) = (if floor { low } else { low - room }, high + room);
        let mut step = nice_step((high - low) / TICKS);
        if scale == Scale::Whole || log {
            step = step.ceil();
        }
        // If only the 2 or 5 of a decade is on the axis, the decade begins below it.
        let first = if log { low.floor() } else { low };
        let numbers = ((first / step).ceil() as i64..=(high / step).floor() as i64).map(|index| index as f64 * step);
        let ticks = if log {
            // Over few decades also the 2 and the 5 of each.
            let factors: &[f64] = if high - low < 3.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let decades = numbers.flat_map(|exponent| factors.iter().map(move |factor| factor * 10_f64.powf(exponent)));
            let inside = |value: &f64| (low..=high).contains(&value.log10());
            decades.filter(inside).map(|value| (value.log10(), number(value, value))).collect()
        } else {
            numbers.map(|value| (value, number(value, step))).collect()
        };
        Self { low, high, log, ticks }
    }

    /// Position of a number on the axis, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let value = if self.log { value.log10() } else { value };
        (value - self.low) / (self.high - self.low)
    }
}

/// 1, 2 or 5 times a power of ten, at least `step`.
fn nice_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|nice| *nice >= 0.999 * step).unwrap_or(step)
}

/// The label of a tick, with the digits that its step needs.
fn number(value: f64, step: f64) -> String {
    if value == 0.0 && step < 0.9e-3 {
        return "0".into();
    }
    if step < 0.9e-3 || value.abs() >= 1e6 {
        let exponent = value.abs().log10().floor();
        let digits = (exponent - (1.001 * step).log10().floor()).max(0.0) as usize;
        return format!("{value:.digits$e}").replace('-', "−");
    }
    let digits = (-(1.001 * step).log10().floor()).max(0.0) as usize;
    format!("{value:.digits$}").replace('-', "−")
}

/// Approximate width of a text: letters of a sans-serif font are a little over half as wide as high.
fn text_width(text: &str, size: f64) -> f64 {
    0.56 * size * text.chars().count() as f64
}

fn unit(pixels: f64) -> i32 {
    (UNIT * pixels).round() as i32
}

type Sheet<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A chart while it is being drawn.
struct Canvas<'a, 'b> {
    chart: &'a Chart,
    sheet: &'a Sheet<'b>,
    frame: Frame,
    x: Range,
    y: Range,
}

impl<'a, 'b> Canvas<'a, 'b> {
    fn new(chart: &'a Chart, sheet: &'a Sheet<'b>, frame: Frame) -> Self {
        let x = Range::new(chart.x.scale, chart.points().map(|[x, _]| x));
        let y = Range::new(chart.y.scale, chart.points().map(|[_, y]| y));
        Self { chart, sheet, frame, x, y }
    }

    fn draw(&self) -> Drawn {
        self.draw_axes()?;
        for series in self.chart.series.iter().rev() {
            self.draw_series(series)?;
        }
        if self.frame.texts { self.draw_legend() } else { Ok(()) }
    }

    /// The position of a point in pixels.
    fn place(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let Frame { area: [width, height], left, top, .. } = self.frame;
        [left + width * self.x.share(x), top + height * (1.0 - self.y.share(y))]
    }

    fn text(&self, text: &str, [x, y]: [f64; 2], size: f64, colour: RGBColor, place: (HPos, VPos)) -> Drawn {
        let size = if self.frame.texts { size } else { INLINE_TEXT * size };
        self.write(text, [x, y], ("sans-serif", unit(size)).into_font().color(&colour).pos(Pos::new(place.0, place.1)))
    }

    fn write(&self, text: &str, [x, y]: [f64; 2], style: TextStyle<'_>) -> Drawn {
        Ok(self.sheet.draw(&Text::new(text.to_owned(), (unit(x), unit(y)), style))?)
    }

    fn line(&self, points: &[[f64; 2]], colour: RGBAColor, width: f64) -> Drawn {
        let points: Vec<(i32, i32)> = points.iter().map(|[x, y]| (unit(*x), unit(*y))).collect();
        Ok(self.sheet.draw(&PathElement::new(points, colour.stroke_width(unit(width) as u32)))?)
    }

    fn draw_axes(&self) -> Drawn {
        let Frame { area: [width, height], left, top, texts, .. } = self.frame;
        let (right, bottom) = (left + width, top + height);
        for (value, label) in &self.y.ticks {
            let y = top + height * (self.y.high - value) / (self.y.high - self.y.low);
            self.line(&[[left, y], [right, y]], RULE.into(), 1.0)?;
            self.text(label, [left - 8.0, y], 12.0, FADED, (HPos::Right, VPos::Center))?;
        }
        self.line(&[[left, bottom], [right, bottom]], FADED.into(), 1.0)?;
        for (value, label) in &self.x.ticks {
            let x = left + width * (value - self.x.low) / (self.x.high - self.x.low);
            self.line(&[[x, bottom], [x, bottom + 5.0]], FADED.into(), 1.0)?;
            self.text(label, [x, bottom + 9.0], 12.0, FADED, (HPos::Center, VPos::Top))?;
        }
        let below = bottom + 32.0;
        self.text(self.chart.x.title, [left + width / 2.0, below], 13.0, INK, (HPos::Center, VPos::Top))?;
        if !texts {
            return Ok(());
        }
        let bold = ("sans-serif", unit(17.0)).into_font().style(FontStyle::Bold).color(&INK);
        self.write(self.chart.title, [16.0, 16.0], bold.pos(Pos::new(HPos::Left, VPos::Top)))?;
        self.text(self.chart.subtitle, [16.0, 40.0], 12.0, FADED, (HPos::Left, VPos::Top))?;
        let upwards = ("sans-serif", unit(13.0)).into_font().transform(FontTransform::Rotate270).color(&INK);
        let middle = [14.0, top + height / 2.0];
        self.write(self.chart.y.title, middle, upwards.pos(Pos::new(HPos::Center, VPos::Top)))
    }

    fn draw_series(&self, series: &Series) -> Drawn {
        let colour = series.rgb();
        let places = |points: &[[f64; 2]]| -> Vec<[f64; 2]> {
            points.iter().filter(|point| self.chart.shows(**point)).map(|point| self.place(*point)).collect()
        };
        let above: Vec<[f64; 2]> = series.band.iter().map(|[x, _, high]| [*x, *high]).collect();
        let below: Vec<[f64; 2]> = series.band.iter().rev().map(|[x, low, _]| [*x, *low]).collect();
        let outline: Vec<(i32, i32)> =
            places(&[above, below].concat()).iter().map(|[x, y]| (unit(*x), unit(*y))).collect();
        if outline.len() > 2 {
            self.sheet.draw(&Polygon::new(outline, colour.mix(0.16)))?;
        }
        for thread in &series.threads {
            self.line(&places(thread), colour.mix(0.45), 1.2)?;
        }
        let points = places(&series.line);
        self.line(&points, colour.into(), 2.0)?;
        // If the legend is not at the end of the line, marks distinguish lines of the same colour.
        let alike = self.chart.series.iter().filter(|other| other.rgb() == colour).count() > 1;
        let stride = match series.mark_all {
            true => 1,
            false if alike && !self.frame.texts => points.len().div_ceil(MARKS),
            false => usize::MAX,
        };
        for (index, point) in points.iter().enumerate() {
            if index + 1 == points.len() {
                draw_mark(self.sheet, *point, series.shape, 4.5, colour)?;
            } else if (index + 1).is_multiple_of(stride) {
                draw_mark(self.sheet, *point, series.shape, if stride == 1 { 2.4 } else { 3.6 }, colour)?;
            }
        }
        Ok(())
    }

    /// The names of the series, each as close to the end of its line as there is room.
    fn draw_legend(&self) -> Drawn {
        let mut entries: Vec<(f64, &Series)> = Vec::new();
        for series in &self.chart.series {
            let points = series.line.iter().chain(series.threads.iter().flatten());
            let last = points.filter(|point| self.chart.shows(**point)).max_by(|a, b| a[0].total_cmp(&b[0]));
            entries.extend(last.map(|point| (self.place(*point)[1], series)));
        }
        entries.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Down until none overlap, then up from the bottom where that went too far.
        let mut free = f64::NEG_INFINITY;
        for (y, _) in &mut entries {
            *y = y.max(free);
            free = *y + ENTRY;
        }
        let mut free = self.frame.top + self.frame.area[1];
        for (y, _) in entries.iter_mut().rev() {
            *y = y.min(free);
            free = *y - ENTRY;
        }
        let x = self.frame.left + self.frame.area[0] + GAP;
        for (y, series) in entries {
            let colour = series.rgb();
            self.line(&[[x - 28.0, y], [x - 8.0, y]], colour.into(), 2.0)?;
            draw_mark(self.sheet, [x - 18.0, y], series.shape, 4.0, colour)?;
            self.text(&series.label, [x, y], 13.0, INK, (HPos::Left, VPos::Center))?;
        }
        Ok(())
    }
}

/// A mark: a disc, square, triangle or diamond, then the same shapes hollow.
fn draw_mark(sheet: &Sheet<'_>, [x, y]: [f64; 2], shape: usize, radius: f64, colour: RGBColor) -> Drawn {
    let corners: &[[f64; 2]] = match shape % 4 {
        0 => {
            let centre = (unit(x), unit(y));
            sheet.draw(&Circle::new(centre, unit(radius), colour.filled()))?;
            if shape % 8 >= 4 {
                sheet.draw(&Circle::new(centre, unit(0.55 * radius), WHITE.filled()))?;
            }
            return Ok(());
        }
        1 => &[[-0.88, -0.88], [0.88, -0.88], [0.88, 0.88], [-0.88, 0.88]],
        2 => &[[0.0, -1.2], [1.1, 0.8], [-1.1, 0.8]],
        _ => &[[0.0, -1.3], [1.1, 0.0], [0.0, 1.3], [-1.1, 0.0]],
    };
    for (factor, colour) in [(1.0, colour), (0.5, WHITE)] {
        if factor == 1.0 || shape % 8 >= 4 {
            let at = |[dx, dy]: &[f64; 2]| (unit(x + factor * radius * dx), unit(y + factor * radius * dy));
            sheet.draw(&Polygon::new(corners.iter().map(at).collect::<Vec<_>>(), colour))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
