//! Preview grids: rows of sample tiles with a heading, titles and captions.

use image::{Rgb, RgbImage};

use super::canvas::{CAPTION, HEADING, MARGIN, PAD, TITLE, cut, text_width, write_text};
use crate::shape::{ImageShape, to_byte};

/// Small images are magnified by an integer factor to at most this many pixels.
const TILE: usize = 64;
/// Gap between tiles.
const GUTTER: usize = 4;
/// Gap between rows that take several lines each.
const ROW_GAP: usize = 20;
/// Gap between columns of rows.
const BAND_GAP: usize = 36;
/// A row that would be wider continues on the next line.
const MOST_WIDTH: usize = 2048;
/// A grid that would be taller arranges its rows in several columns, if that makes it squarer.
const MOST_HEIGHT: usize = 4608;
/// The most that is shown of a row's title.
const MOST_TITLE: usize = 320;

/// A grid of images of one size. Labels are optional: an empty slice draws none and takes no room.
///
/// Letters beyond Latin-1 are shown as `?`.
#[derive(Debug, Clone, Copy)]
pub struct Grid<'a> {
    /// `[N, C, H, W]` in row order, values in [-1, 1]. The tile of an image that begins with NaN stays empty.
    pub images: &'a [f32],
    /// The shape of an image. One channel is grey. Of more than three, as in a latent, the first three are shown as
    /// colours.
    pub shape: ImageShape,
    /// Images in a row; the last row may be shorter. A long row is shown on several lines.
    pub columns: usize,
    /// Heading above everything.
    pub heading: &'a str,
    /// Title above each column, unless rows take several lines.
    pub column_titles: &'a [String],
    /// Title to the left of each row, such as the name of its class.
    pub row_titles: &'a [String],
    /// Caption under each image, such as its reward. Text wider than a tile is cut off.
    pub captions: &'a [String],
}

impl<'a> Grid<'a> {
    /// A grid without labels.
    ///
    /// # Panics
    /// If a size is 0, or `images` contains a partial image.
    pub fn new(images: &'a [f32], shape: ImageShape, columns: usize) -> Self {
        assert!(shape.elements() > 0 && columns > 0, "an empty grid");
        assert_eq!(images.len() % shape.elements(), 0, "a partial image");
        Self { images, shape, columns, heading: "", column_titles: &[], row_titles: &[], captions: &[] }
    }

    /// Width and height in pixels, with the margin.
    pub(super) fn size(&self) -> [usize; 2] {
        let layout = Layout::of(self);
        [layout.width, layout.height]
    }

    /// Draws it with its left edge at `left`, margin included.
    pub(super) fn draw(&self, canvas: &mut RgbImage, left: usize) {
        let (layout, left) = (&Layout::of(self), left + MARGIN);
        write_text(canvas, &HEADING, self.heading, left, MARGIN);
        let top = MARGIN + layout.tiles_top;
        let centred = |text: &str| layout.tile[0].saturating_sub(text_width(text, &CAPTION)) / 2;

        if layout.columns == self.columns {
            for (band, (column, title)) in (0..layout.bands())
                .flat_map(|band| self.column_titles.iter().enumerate().map(move |title| (band, title)))
            {
                if column < self.columns {
                    let title = cut(title, layout.tile[0]);
                    let x = left + layout.of_band(band) + column * layout.column_pitch + centred(title);
                    write_text(canvas, &TITLE, title, x, top - layout.column_title_height);
                }
            }
        }
        for (row, title) in self.row_titles.iter().take(layout.rows).enumerate() {
            let title = cut(title, MOST_TITLE);
            let [x, y] = layout.place(row, 0);
            let x = left + x - PAD - text_width(title, &TITLE);
            let y = top + y + layout.tile[1].saturating_sub(TITLE.size.val()) / 2;
            write_text(canvas, &TITLE, title, x, y);
        }
        for (index, image) in self.images.chunks_exact(self.shape.elements()).enumerate() {
            let [x, y] = layout.place(index / self.columns, index % self.columns);
            let (x, y) = (left + x, top + y);
            if !image[0].is_nan() {
                self.draw_tile(canvas, image, layout.magnification, x, y);
            }
            if let Some(caption) = self.captions.get(index) {
                let caption = cut(caption, layout.tile[0]);
                write_text(canvas, &CAPTION, caption, x + centred(caption), y + layout.tile[1]);
            }
        }
    }

    fn draw_tile(&self, canvas: &mut RgbImage, image: &[f32], magnification: usize, left: usize, top: usize) {
        // Latents have more channels than a picture: the first three are shown.
        let ImageShape { channels, height, width } = self.shape;
        let shown = if channels < 3 { 1 } else { 3 };
        let plane = self.shape.pixels();
        for y in 0..height * magnification {
            for x in 0..width * magnification {
                let at = y / magnification * width + x / magnification;
                // The single plane of a grey image is used for all three colours.
                let colour = [0, 1, 2].map(|c| to_byte(image[c % shown * plane + at]));
                canvas.put_pixel((left + x) as u32, (top + y) as u32, Rgb(colour));
            }
        }
    }
}

/// Where the parts of a grid go, in pixels; `tiles_left` and `tiles_top` count from the inner edge of
/// the margin, `width` and `height` include it.
struct Layout {
    /// By how much images are magnified.
    magnification: usize,
    /// Width and height of a tile.
    tile: [usize; 2],
    rows: usize,
    /// Tiles on a line.
    columns: usize,
    /// Rows in one column; further rows go into the next column.
    rows_in_band: usize,
    column_pitch: usize,
    line_pitch: usize,
    row_pitch: usize,
    band_pitch: usize,
    tiles_left: usize,
    tiles_top: usize,
    column_title_height: usize,
    width: usize,
    height: usize,
}

impl Layout {
    fn of(grid: &Grid) -> Self {
        let ImageShape { height, width, .. } = grid.shape;
        let magnification = (TILE / width.max(height)).max(1);
        let tile = [width, height].map(|size| size * magnification);
        let count = grid.images.len() / grid.shape.elements();
        let rows = count.div_ceil(grid.columns);
        let room = |present: bool, size: usize| if present { size } else { 0 };

        let caption_height = room(!grid.captions.is_empty(), CAPTION.size.val() + GUTTER);
        let (column_pitch, line_pitch) = (tile[0] + GUTTER, tile[1] + caption_height + GUTTER);
        let title_width = grid.row_titles.iter().map(|title| text_width(title, &TITLE).min(MOST_TITLE)).max();
        let tiles_left = title_width.map_or(0, |width| width + PAD);
        let column_title_height = room(!grid.column_titles.is_empty(), TITLE.size.val() + GUTTER);
        let tiles_top = room(!grid.heading.is_empty(), HEADING.size.val() + PAD) + column_title_height;

        let columns = columns_on_a_line(grid.columns, count, column_pitch);
        let lines = grid.columns.div_ceil(columns);
        let row_pitch = lines * line_pitch + if lines > 1 { ROW_GAP } else { 0 };
        let tiles_width = columns * column_pitch - GUTTER;
        let band_pitch = tiles_left + tiles_width + BAND_GAP;
        let bands = match rows * row_pitch {
            height if height > MOST_HEIGHT => ((height / band_pitch).isqrt()).clamp(1, rows),
            _ => 1,
        };
        let rows_in_band = rows.div_ceil(bands).max(1);
        let bands = rows.div_ceil(rows_in_band).max(1);

        let inner_width = (bands * band_pitch - BAND_GAP).max(text_width(grid.heading, &HEADING));
        let between = row_pitch - lines * line_pitch + GUTTER;
        let inner_height = tiles_top + (rows.min(rows_in_band) * row_pitch).saturating_sub(between);
        Self {
            magnification,
            tile,
            rows,
            columns,
            rows_in_band,
            column_pitch,
            line_pitch,
            row_pitch,
            band_pitch,
            tiles_left,
            tiles_top,
            column_title_height,
            width: inner_width + 2 * MARGIN,
            height: inner_height + 2 * MARGIN,
        }
    }

    fn bands(&self) -> usize {
        self.rows.div_ceil(self.rows_in_band)
    }

    /// Origin of the tiles of a band.
    fn of_band(&self, band: usize) -> usize {
        band * self.band_pitch + self.tiles_left
    }

    /// The upper left corner of a tile, relative to the area of the tiles without row titles.
    fn place(&self, row: usize, column: usize) -> [usize; 2] {
        let (band, row) = (row / self.rows_in_band, row % self.rows_in_band);
        let x = self.of_band(band) + column % self.columns * self.column_pitch;
        [x, row * self.row_pitch + column / self.columns * self.line_pitch]
    }
}

/// How many tiles of a row of `columns` go on a line: all if there is room. Otherwise as many as fit or as make all
/// `count` tiles a square, spread evenly over the lines.
fn columns_on_a_line(columns: usize, count: usize, pitch: usize) -> usize {
    if columns * pitch <= MOST_WIDTH {
        return columns;
    }
    let most = (MOST_WIDTH / pitch).max(count.isqrt()).clamp(1, columns);
    columns.div_ceil(columns.div_ceil(most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::canvas::{BACKGROUND, RULE};
    use crate::data::panel::{Panel, before_after};
    use crate::data::{builtin, from_byte};

    /// A row of each class of the built-in digits, with captions: `[classes * columns]` images.
    fn digits(columns: usize, first: usize) -> (Vec<f32>, Vec<String>, Vec<String>) {
        let data = builtin("digits8").unwrap();
        let (mut images, mut captions) = (Vec::new(), Vec::new());
        for class in 0..data.class_names.len() as u32 {
            let of_class = (0..data.len()).filter(|&index| data.labels[index] == class);
            for index in of_class.skip(first).take(columns) {
                images.extend_from_slice(data.image(index));
                captions.push(format!("0.{:02}", index % 100));
            }
        }
        (images, captions, data.class_names)
    }

    fn pixel(image: &RgbImage, x: usize, y: usize) -> [u8; 3] {
        image.get_pixel(x as u32, y as u32).0
    }

    #[test]
    fn a_plain_grid_is_its_tiles_magnified_on_the_background() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grid.png");
        // Three colour images of 2x2 in rows of two: value = 40 * image + 10 * channel + place.
        let bytes: Vec<u8> = (0..3_u8)
            .flat_map(|n| (0..3).flat_map(move |c| (0..4).map(move |place| 40 * n + 10 * c + place)))
            .collect();
        let images: Vec<f32> = bytes.iter().copied().map(from_byte).collect();
        Panel::Grid(Grid::new(&images, ImageShape::square(3, 2), 2)).write(&path).unwrap();

        let shown = image::open(&path).unwrap().into_rgb8();
        let side = 2 * MARGIN + 2 * 64 + GUTTER;
        assert_eq!(shown.dimensions(), (side as u32, side as u32));
        for (n, column, row) in [(0, 0, 0), (1, 1, 0), (2, 0, 1)] {
            for (place, dx, dy) in [(0, 0, 0), (0, 31, 31), (1, 32, 0), (2, 31, 32), (3, 63, 63)] {
                let (x, y) = (MARGIN + column * 68 + dx, MARGIN + row * 68 + dy);
                let value = 40 * n + place;
                assert_eq!(pixel(&shown, x, y), [value, value + 10, value + 20]);
            }
        }
        // The gutters and the empty fourth tile.
        for (x, y) in [(64, 0), (0, 64), (70, 70), (131, 131)] {
            assert_eq!(pixel(&shown, MARGIN + x, MARGIN + y), BACKGROUND.0);
        }
    }

    #[test]
    fn tiles_grow_by_integer_factors_and_never_shrink() {
        for (size, tile) in [(8, 64), (28, 56), (32, 64), (64, 64), (65, 65), (100, 100)] {
            let image = vec![0.0; size * size];
            assert_eq!(Layout::of(&Grid::new(&image, ImageShape::square(1, size), 1)).tile, [tile; 2]);
        }
        let wide = ImageShape { channels: 1, height: 10, width: 16 };
        assert_eq!(Layout::of(&Grid::new(&[0.0; 160], wide, 1)).tile, [64, 40]);
    }

    #[test]
    fn labels_are_drawn_and_move_the_tiles_without_touching_them() {
        let folder = tempfile::tempdir().unwrap();
        let (plain_path, text_path) = (folder.path().join("a.png"), folder.path().join("b.png"));
        let (images, captions, names) = digits(3, 0);
        let plain = Grid::new(&images, ImageShape::square(1, 8), 3);
        Panel::Grid(plain).write(&plain_path).unwrap();
        let columns: Vec<String> = (0..3).map(|seed| format!("seed {seed}")).collect();
        let full = Grid {
            heading: "Sämtliche Ziffern — a heading far wider than its three columns",
            column_titles: &columns,
            row_titles: &names,
            captions: &captions,
            ..plain
        };
        Panel::Grid(full).write(&text_path).unwrap();

        let before = image::open(&plain_path).unwrap().into_rgb8();
        let after = image::open(&text_path).unwrap().into_rgb8();
        let layout = Layout::of(&full);
        for row in 0..10 {
            for (x, y) in (0..64).flat_map(|x| (0..64).map(move |y| (x, y))) {
                let x_after = MARGIN + layout.tiles_left + x;
                let y_after = MARGIN + layout.tiles_top + layout.place(row, 0)[1] + y;
                let expected = pixel(&before, MARGIN + x, MARGIN + row * 68 + y);
                assert_eq!(pixel(&after, x_after, y_after), expected);
            }
        }
        let inked = |left: usize, top: usize, width: usize, height: usize| {
            (left..left + width).any(|x| (top..top + height).any(|y| pixel(&after, x, y) != BACKGROUND.0))
        };
        let tiles_top = MARGIN + layout.tiles_top;
        assert!(inked(MARGIN, MARGIN, 400, 20), "heading");
        assert!(inked(MARGIN, tiles_top, layout.tiles_left, 64), "row title");
        assert!(inked(MARGIN + layout.tiles_left, tiles_top - 20, 64, 20), "column title");
        assert!(inked(MARGIN + layout.tiles_left, tiles_top + 64, 64, 16), "caption");
        // Nothing is drawn in the margin.
        assert!(!inked(after.width() as usize - MARGIN, 0, MARGIN, after.height() as usize));
    }

    /// A grid of `classes` rows of `columns` images of one pixel; the value identifies the image.
    fn layout_of(classes: usize, columns: usize, image_size: usize) -> (Layout, [usize; 2]) {
        let titles: Vec<String> = (0..classes).map(|class| format!("class {class}")).collect();
        let images = vec![0.0; classes * columns * image_size * image_size];
        let grid = Grid { row_titles: &titles, ..Grid::new(&images, ImageShape::square(1, image_size), columns) };
        (Layout::of(&grid), grid.size())
    }

    #[test]
    fn long_rows_and_many_rows_make_a_sheet_of_viewable_size() {
        for (classes, columns, image_size) in [
            (1, 2000, 8),
            (10, 1000, 8),
            (1, 10_000, 8),
            (1000, 8, 8),
            (1000, 1, 8),
            (2, 300, 256),
            (7, 1, 8),
            (1, 31, 8),
        ] {
            let (layout, [width, height]) = layout_of(classes, columns, image_size);
            let what = format!("{classes} x {columns} of {image_size}: {width} x {height}");
            let longest = width.max(height);
            assert!(longest < 5000 || longest < 4 * width.min(height), "{what}");
            // No two tiles overlap, and all are on the sheet.
            let mut places = std::collections::BTreeSet::new();
            for (row, column) in (0..classes).flat_map(|row| (0..columns).map(move |column| (row, column))) {
                let [x, y] = layout.place(row, column);
                let on_grid = (x - layout.of_band(row / layout.rows_in_band)) % layout.column_pitch == 0;
                assert!(on_grid && places.insert([x, y]), "{what}");
                assert!(MARGIN + x + layout.tile[0] <= width - MARGIN, "{what}");
                assert!(MARGIN + layout.tiles_top + y + layout.tile[1] <= height - MARGIN, "{what}");
            }
            // Rows that take several lines are separated.
            if layout.columns < columns && layout.rows_in_band > 1 {
                let [_, last] = layout.place(0, columns - 1);
                assert_eq!(layout.place(1, 0)[1] - last, layout.line_pitch + ROW_GAP, "{what}");
            }
        }
        let (small, _) = layout_of(10, 16, 8);
        assert_eq!((small.columns, small.rows_in_band, small.place(9, 15)[1]), (16, 10, 9 * 68));
    }

    #[test]
    fn a_long_title_is_cut() {
        let titles = ["x".repeat(255)];
        let grid = Grid { row_titles: &titles, ..Grid::new(&[0.0; 64], ImageShape::square(1, 8), 1) };
        assert!(grid.size()[0] < MOST_TITLE + 64 + 2 * MARGIN + 2 * PAD);
    }

    #[test]
    fn before_and_after_are_side_by_side() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("before-after.png");
        let ((left, left_captions, names), (right, right_captions, _)) = (digits(6, 0), digits(6, 6));
        let base = Grid {
            heading: "base",
            row_titles: &names,
            captions: &left_captions,
            ..Grid::new(&left, ImageShape::square(1, 8), 6)
        };
        let tuned = Grid {
            heading: "tuned",
            captions: &right_captions,
            row_titles: &[],
            ..Grid::new(&right, ImageShape::square(1, 8), 6)
        };
        before_after(&path, &Panel::Grid(base), &Panel::Grid(tuned)).unwrap();

        let shown = image::open(&path).unwrap().into_rgb8();
        let (base, tuned) = (Layout::of(&base), Layout::of(&tuned));
        assert_eq!(shown.width() as usize, base.width + tuned.width);
        assert_eq!(pixel(&shown, base.width, shown.height() as usize / 2), RULE.0);
        // One pixel of the first tile on each side.
        let y = MARGIN + base.tiles_top + 20;
        let expected = |images: &[f32]| [to_byte(images[2 * 8 + 3]); 3];
        assert_eq!(pixel(&shown, MARGIN + base.tiles_left + 24, y), expected(&left));
        assert_eq!(pixel(&shown, base.width + MARGIN + tuned.tiles_left + 24, y), expected(&right));
    }
}
