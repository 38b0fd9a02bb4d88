//! Numbers over two axes as colours.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::{Axis, Canvas, Chart, FADED, INLINE, INLINE_RIGHT, Range, Scale, inline, number, unit};
use crate::error::Result;

/// Room for the colour scale on the right.
const KEY: f64 = 64.0;
/// The most cells side by side; of more, neighbours are averaged.
const COLUMNS: usize = 170;

/// Viridis (S. van der Walt and N. Smith, matplotlib), at equal distances. Its lightness rises evenly, so people with
/// any kind of colour vision can read it.
const VIRIDIS: [[u8; 3]; 9] = [
    [68, 1, 84],
    [71, 45, 123],
    [59, 82, 139],
    [44, 114, 142],
    [33, 145, 140],
    [40, 174, 128],
    [94, 201, 98],
    [173, 220, 48],
    [253, 231, 37],
];

/// Positive numbers at integer positions of two axes, on a logarithmic colour scale.
#[derive(Clone, Debug)]
pub struct HeatMap {
    /// What it shows.
    pub title: &'static str,
    /// How to read it.
    pub subtitle: &'static str,
    /// Names of the horizontal and the vertical axis.
    pub axes: [&'static str; 2],
    /// `[x, y, value]`; a value that is not positive has no colour.
    pub cells: Vec<[f64; 3]>,
}

impl HeatMap {
    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.shown().next().is_none()
    }

    fn shown(&self) -> impl Iterator<Item = [f64; 3]> {
        self.cells.iter().copied().filter(|cell| cell.iter().all(|number| number.is_finite()) && cell[2] > 0.0)
    }

    /// The map as part of a page, which adds the title and sets the width.
    ///
    /// # Errors
    /// [`crate::Error::Failed`] if it cannot be drawn.
    pub fn to_inline_svg(&self) -> Result<String> {
        let ends = |axis: usize| {
            let values = || self.shown().map(|cell| cell[axis]);
            [values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max)]
        };
        let (columns, rows) = (ends(0), ends(1));
        let stride = ((columns[1] - columns[0] + 1.0) / COLUMNS as f64).ceil().max(1.0);
        let cells = self.joined(columns[0], stride);
        let values = Range::new(Scale::Log, cells.iter().map(|cell| cell[2]));
        // A cell extends half a unit beyond its number.
        let range = |[low, high]: [f64; 2], wide: f64| {
            let ticks = Range::new(Scale::Whole, [low, high].into_iter()).ticks;
            let (from, to) = (low - 0.5, (low + ((high - low) / wide).floor() * wide) + wide - 0.5);
            let ticks = ticks.into_iter().filter(|(at, _)| (low..=high).contains(at)).collect();
            Range { low: from, high: to, log: false, ticks }
        };
        let axis = |title| Axis { title, scale: Scale::Whole };
        let chart = Chart {
            title: self.title,
            subtitle: self.subtitle,
            x: axis(self.axes[0]),
            y: axis(self.axes[1]),
            series: Vec::new(),
        };
        let size = [INLINE.left + INLINE.area[0] + INLINE_RIGHT, INLINE.top + INLINE.area[1] + INLINE.bottom];
        let frame = super::Frame { area: [INLINE.area[0] - KEY, INLINE.area[1]], ..INLINE };
        inline(size, self.title, |sheet| {
            let canvas = Canvas { chart: &chart, sheet, frame, x: range(columns, stride), y: range(rows, 1.0) };
            canvas.draw_axes()?;
            let block = |from: [f64; 2], to: [f64; 2], colour: RGBColor| {
                let corner = |[x, y]: [f64; 2]| (unit(x), unit(y));
                sheet.draw(&Rectangle::new([corner(from), corner(to)], colour.filled()))
            };
            for [x, y, value] in cells {
                let (from, to) = (canvas.place([x - 0.5, y + 0.5]), canvas.place([x - 0.5 + stride, y - 0.5]));
                block(from, to, viridis(values.share(value)))?;
            }
            let left = frame.left + frame.area[0] + 14.0;
            let bar = |share: f64| frame.top + frame.area[1] * (1.0 - share);
            for index in 0..64 {
                let share = f64::from(index) / 64.0;
                block([left, bar(share + 1.0 / 64.0)], [left + 10.0, bar(share)], viridis(share))?;
            }
            for (value, _) in &values.ticks {
                let share = (value - values.low) / (values.high - values.low);
                let power = 10_f64.powf(*value);
                canvas.text(
                    &number(power, power),
                    [left + 15.0, bar(share)],
                    12.0,
                    FADED,
                    (HPos::Left, VPos::Center),
                )?;
            }
            Ok(())
        })
    }

    /// The cells, or means of neighbours in a row if there are too many.
    fn joined(&self, first: f64, stride: f64) -> Vec<[f64; 3]> {
        let mut found = std::collections::BTreeMap::<(u64, u64), (f64, f64)>::new();
        for [x, y, value] in self.shown() {
            let column = ((x - first) / stride).floor() as u64;
            let cell = found.entry((column, y as u64)).or_default();
            *cell = (cell.0 + value, cell.1 + 1.0);
        }
        let cell = |((column, y), (sum, count)): ((u64, u64), (f64, f64))| {
            [first + column as f64 * stride, y as f64, sum / count]
        };
        found.into_iter().map(cell).collect()
    }
}

/// The colour at a share of the scale, from 0 to 1.
fn viridis(share: f64) -> RGBColor {
    let at = share.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f64;
    let below = (at.floor() as usize).min(VIRIDIS.len() - 2);
    let part = at - below as f64;
    let mix = |channel: usize| {
        let [from, to] = [VIRIDIS[below], VIRIDIS[below + 1]].map(|colour| f64::from(colour[channel]));
        (from + part * (to - from)).round() as u8
    };
    RGBColor(mix(0), mix(1), mix(2))
}
