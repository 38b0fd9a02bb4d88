//! Displays samples as a grid of pictures or a scatter plot of points, alone or two side by side.

use std::path::Path;

use image::RgbImage;

use super::canvas::{MARGIN, RULE, canvas, write_png};
use super::grid::Grid;
use super::scatter::Scatter;
use crate::Result;

/// Samples as they are shown to the user.
#[derive(Debug, Clone, Copy)]
pub enum Panel<'a> {
    /// Pictures.
    Grid(Grid<'a>),
    /// Points of the plane.
    Scatter(Scatter<'a>),
}

impl Panel<'_> {
    /// Draws the samples and writes them as a PNG.
    ///
    /// # Errors
    /// [`crate::Error::Failed`] if the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let [width, height] = self.size();
        let mut canvas = canvas(width, height);
        self.draw(&mut canvas, 0);
        write_png(path, &canvas)
    }

    fn size(&self) -> [usize; 2] {
        match self {
            Self::Grid(grid) => grid.size(),
            Self::Scatter(scatter) => scatter.size(),
        }
    }

    fn draw(&self, canvas: &mut RgbImage, left: usize) {
        match self {
            Self::Grid(grid) => grid.draw(canvas, left),
            Self::Scatter(scatter) => scatter.draw(canvas, left),
        }
    }
}

/// Writes two panels side by side, divided by a line: the same noise before and after tuning.
///
/// # Errors
/// [`crate::Error::Failed`] if the file cannot be written.
pub fn before_after(path: &Path, left: &Panel, right: &Panel) -> Result<()> {
    let ([middle, left_height], [right_width, right_height]) = (left.size(), right.size());
    let height = left_height.max(right_height);
    // The two inner margins meet at the line.
    let mut canvas = canvas(middle + right_width, height);
    left.draw(&mut canvas, 0);
    for y in MARGIN..height - MARGIN {
        canvas.put_pixel(middle as u32, y as u32, RULE);
    }
    right.draw(&mut canvas, middle);
    write_png(path, &canvas)
}
