//! Statistics of images.

use crate::shape::ImageShape;

/// A mean, or a share, and its standard error over the pictures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    pub(super) value: f64,
    pub(super) standard_error: f64,
}

impl Estimate {
    /// Mean of independent values; the standard error is that of the unbiased variance.
    pub(super) fn mean(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let value = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|one| (one - value).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
        Self { value, standard_error: (variance / count).sqrt() }
    }
}

/// Mean squared difference per element.
pub(super) fn mean_squared(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64
}

/// Mean Euclidean distance between two images of a group, over all pairs of all groups.
///
/// Pairs share images, so only the images are independent: with d_i the mean distance of image i to the others of its
/// group, the standard error of such a mean over pairs is 2·std(d)/√N (Hoeffding 1948).
pub(super) fn diversity(images: &[f32], dim: usize, group: usize) -> Estimate {
    let mut by_image = Vec::with_capacity(images.len() / dim);
    for group in images.chunks(dim * group) {
        let members: Vec<&[f32]> = group.chunks(dim).collect();
        let others = (members.len() - 1).max(1) as f64;
        let first = by_image.len();
        by_image.resize(first + members.len(), 0.0);
        for (index, one) in members.iter().enumerate() {
            for (other, two) in members.iter().enumerate().skip(index + 1) {
                let distance = (mean_squared(one, two) * dim as f64).sqrt();
                by_image[first + index] += distance / others;
                by_image[first + other] += distance / others;
            }
        }
    }
    let Estimate { value, standard_error } = Estimate::mean(&by_image);
    Estimate { value, standard_error: 2.0 * standard_error }
}

/// Share of the images' energy that lies in high spatial frequencies: of images of `size` x `size`, any number of
/// channels. `None` for single pixels, which have no frequencies.
///
/// It is Σ (differences of neighbours)² / (8·Σ (x − mean)²), where neighbours share a side, the mean is that of an image
/// and channel, and both sums go over all images; 0 if nothing differs from its mean. The discrete cosine transform
/// (type II) makes both sums diagonal: with X_uv the coefficient of u and v half waves over the S pixels of a side,
///
/// ```text
/// share = Σ w_uv·X_uv² / Σ X_uv²  over (u, v) ≠ (0, 0),   w_uv = ( sin²(πu/2S) + sin²(πv/2S) ) / 2
/// ```
///
/// so every frequency counts by its height, from almost 0 for the longest wave to cos²(π/2S), almost 1, for pixels that
/// alternate in both directions; white noise has S / (2(S + 1)), about a half. No cut-off has to be chosen, and no
/// transform computed. Energy is summed over images before the division, so invisible noise on an almost flat image does
/// not count. `dim` is the number of elements of an image.
pub(super) fn high_frequency(images: &[f32], shape: ImageShape) -> Option<Estimate> {
    if shape.pixels() < 2 {
        return None;
    }
    // For every image: the weighted energy and the total.
    let of_image = |image: &[f32]| {
        let planes = image.chunks(shape.pixels()).map(|plane| energy(plane, shape.width));
        planes.fold([0.0; 2], |sum, plane| [sum[0] + plane[0], sum[1] + plane[1]])
    };
    let energies: Vec<[f64; 2]> = images.chunks(shape.elements()).map(of_image).collect();
    let [high, all] = [0, 1].map(|index| energies.iter().map(|energy| energy[index]).sum::<f64>());
    if all == 0.0 {
        return Some(Estimate { value: 0.0, standard_error: 0.0 });
    }
    let value = high / all;
    // The standard error of a ratio of sums: that of the residuals.
    let residuals: f64 = energies.iter().map(|[high, all]| (high - value * all).powi(2)).sum();
    Some(Estimate { value, standard_error: residuals.sqrt() / all })
}

fn energy(plane: &[f32], width: usize) -> [f64; 2] {
    let height = plane.len() / width;
    let at = |row: usize, column: usize| f64::from(plane[row * width + column]);
    let mean = plane.iter().map(|x| f64::from(*x)).sum::<f64>() / plane.len() as f64;
    let (mut differences, mut all) = (0.0, 0.0);
    for row in 0..height {
        for column in 0..width {
            all += (at(row, column) - mean).powi(2);
            if row + 1 < height {
                differences += (at(row + 1, column) - at(row, column)).powi(2);
            }
            if column + 1 < width {
                differences += (at(row, column + 1) - at(row, column)).powi(2);
            }
        }
    }
    [differences / 8.0, all]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::PI;

    #[test]
    fn diversity_is_the_mean_distance_within_groups() {
        // Two groups of three images of one element: distances 1, 3, 2 and 0, 0, 0.
        let found = diversity(&[0.0, 1.0, 3.0, 7.0, 7.0, 7.0], 1, 3);
        assert_eq!(found.value, 1.0);
        // Means of the images to their siblings: 2, 1.5, 2.5 and 0, 0, 0; variance (1 + .25 + 2.25 + 3) / 5.
        assert!((found.standard_error - 2.0 * (1.3_f64 / 6.0).sqrt()).abs() < 1e-12, "{found:?}");
    }

    /// An image of `size` x `size` from a function of row and column.
    fn image(size: usize, pixel: impl Fn(usize, usize) -> f64) -> Vec<f32> {
        (0..size * size).map(|index| pixel(index / size, index % size) as f32).collect()
    }

    #[test]
    fn high_frequencies_of_known_pictures() {
        let share = |size, pixel: &dyn Fn(usize, usize) -> f64| {
            high_frequency(&image(size, pixel), ImageShape::square(1, size)).unwrap().value
        };
        let close = |actual: f64, expected: f64| assert!((actual - expected).abs() < 1e-6, "{actual} not {expected}");
        let sign = |place: usize| if place.is_multiple_of(2) { 1.0 } else { -1.0 };
        for size in [2, 3, 5, 8] {
            let side = size as f64;
            assert_eq!(share(size, &|_, _| 0.7), 0.0);
            // 2S(S − 1) pairs differ by 2; the energy is S² − S²·mean², where the mean of odd sides is 1/S².
            let energy = side * side - if size % 2 == 1 { 1.0 / (side * side) } else { 0.0 };
            close(share(size, &|row, column| sign(row + column)), side * (side - 1.0) / energy);
            // S(S − 1) pairs differ by the slope; the energy of a ramp is S²(S² − 1)/12.
            close(share(size, &|_, column| 0.1 * column as f64), 1.5 / (side * (side + 1.0)));
        }
        assert_eq!(high_frequency(&[0.3, -0.2], ImageShape::square(2, 1)), None);
        // One pixel in the middle of nine: 4 pairs differ by 1, the energy is 1 − 1/9.
        close(share(3, &|row, column| f64::from((row, column) == (1, 1))), 4.0 / 8.0 * 9.0 / 8.0);
    }

    #[test]
    fn a_wave_counts_by_its_frequency() {
        let size = 7;
        for (u, v) in [(0, 1), (3, 0), (2, 5), (6, 6)] {
            let wave = |half_waves: usize, x: usize| (PI * half_waves as f64 * (x as f64 + 0.5) / size as f64).cos();
            let found =
                high_frequency(&image(size, |row, column| wave(u, row) * wave(v, column)), ImageShape::square(1, size));
            let found = found.unwrap();
            let height = |half_waves: usize| (PI * half_waves as f64 / (2 * size) as f64).sin().powi(2);
            let expected = (height(u) + height(v)) / 2.0;
            assert!((found.value - expected).abs() < 1e-6, "{u} {v}: {found:?} not {expected}");
        }
    }

    #[test]
    fn a_flat_image_with_invisible_noise_hardly_counts() {
        let ramp = image(8, |_, column| column as f64 / 8.0);
        let flat = image(8, |row, column| if (row + column).is_multiple_of(2) { 1e-3 } else { -1e-3 });
        let alone = high_frequency(&ramp, ImageShape::square(1, 8)).unwrap().value;
        let both = high_frequency(&[ramp, flat].concat(), ImageShape::square(1, 8)).unwrap();
        assert!((both.value - alone).abs() < 1e-4 && both.standard_error < 1e-4, "{alone} {both:?}");
    }
}
