//! Pictures decoded in overlapping tiles, all of the same size.

/// Where the tiles of one direction start, and how they are blended. Lengths are in latents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tiles {
    extent: usize,
    tile: usize,
    overlap: usize,
    starts: Vec<usize>,
}

impl Tiles {
    /// Tiles of `tile` latents that cover `extent` evenly; neighbours overlap by at least a quarter of a tile.
    pub(super) fn new(extent: usize, tile: usize) -> Self {
        let tile = tile.clamp(1, extent);
        let overlap = tile / 4;
        let count = if tile == extent { 1 } else { (extent - overlap).div_ceil(tile - overlap) };
        let starts = (0..count).map(|index| index * (extent - tile) / (count - 1).max(1)).collect();
        Self { extent, tile, overlap, starts }
    }

    /// Length of every tile.
    pub(super) fn tile(&self) -> usize {
        self.tile
    }

    /// First latent of each tile.
    pub(super) fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// The weight of each pixel of a tile: it falls linearly towards the edges that other tiles overlap.
    pub(super) fn weights(&self, start: usize, factor: usize) -> Vec<f32> {
        let (length, ramp) = (self.tile * factor, (self.overlap * factor).max(1) as f32);
        let [has_before, has_after] = [start > 0, start + self.tile < self.extent];
        (0..length)
            .map(|pixel| {
                let from = |distance: usize, has_other: bool| {
                    if has_other { ((distance as f32 + 0.5) / ramp).min(1.0) } else { 1.0 }
                };
                from(pixel, has_before) * from(length - 1 - pixel, has_after)
            })
            .collect()
    }
}

/// A picture being blended from tiles.
#[derive(Debug)]
pub(super) struct Canvas {
    channels: usize,
    size: [usize; 2],
    sums: Vec<f32>,
    weights: Vec<f32>,
}

impl Canvas {
    /// An empty picture.
    pub(super) fn new(channels: usize, size: [usize; 2]) -> Self {
        let pixels = size[0] * size[1];
        Self { channels, size, sums: vec![0.0; channels * pixels], weights: vec![0.0; pixels] }
    }

    /// Adds a tile `[channels, rows, columns]` whose first pixel is at `at`, weighted by row and by column.
    pub(super) fn add(&mut self, tile: &[f32], at: [usize; 2], [rows, columns]: [&[f32]; 2]) {
        let pixels = self.weights.len();
        for (row, by_row) in rows.iter().enumerate() {
            for (column, by_column) in columns.iter().enumerate() {
                let to = (at[0] + row) * self.size[1] + at[1] + column;
                let weight = by_row * by_column;
                self.weights[to] += weight;
                for channel in 0..self.channels {
                    let from = (channel * rows.len() + row) * columns.len() + column;
                    self.sums[channel * pixels + to] += weight * tile[from];
                }
            }
        }
    }

    /// The weighted means.
    pub(super) fn finish(mut self) -> Vec<f32> {
        for plane in self.sums.chunks_mut(self.weights.len()) {
            for (sum, weight) in plane.iter_mut().zip(&self.weights) {
                *sum /= weight;
            }
        }
        self.sums
    }
}

/// A part of a picture `[channels, rows, columns]`.
pub(super) fn crop(picture: &[f32], size: [usize; 2], at: [usize; 2], part: [usize; 2]) -> Vec<f32> {
    let rows = picture.chunks(size[0] * size[1]).flat_map(|plane| plane.chunks(size[1]).skip(at[0]).take(part[0]));
    rows.flat_map(|row| &row[at[1]..at[1] + part[1]]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_everything_and_overlap() {
        for extent in 1..70 {
            for tile in 1..40 {
                let tiles = Tiles::new(extent, tile);
                let (starts, length) = (tiles.starts(), tiles.tile());
                assert_eq!((starts[0], starts[starts.len() - 1] + length), (0, extent), "{tiles:?}");
                let overlaps = starts.windows(2).all(|pair| pair[0] + length >= pair[1] + length / 4);
                assert!(overlaps, "{tiles:?}");
                assert!(starts.iter().all(|start| tiles.weights(*start, 2).iter().all(|weight| *weight > 0.0)));
            }
        }
        assert_eq!(Tiles::new(10, 10).starts(), [0]);
    }

    #[test]
    fn cropped_and_blended_tiles_are_the_picture() {
        let (size, factor) = ([7, 11], 1);
        let picture: Vec<f32> = (0..2 * 7 * 11).map(|i| (i as f32).sin()).collect();
        let [rows, columns] = [Tiles::new(7, 4), Tiles::new(11, 5)];
        let mut canvas = Canvas::new(2, size);
        for row in rows.starts() {
            for column in columns.starts() {
                let tile = crop(&picture, size, [*row, *column], [4, 5]);
                let weights = [rows.weights(*row, factor), columns.weights(*column, factor)];
                canvas.add(&tile, [*row, *column], [&weights[0], &weights[1]]);
            }
        }
        let again = canvas.finish();
        assert!(again.iter().zip(&picture).all(|(a, b)| (a - b).abs() < 1e-6), "{again:?}");
    }
}
