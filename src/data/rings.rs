//! A toy set in the plane: points on noisy concentric rings, one class per ring.
//!
//! A point is a "picture" of one pixel with two channels, x and y. Every network, sampler and objective works on it
//! unchanged, in a fraction of the time, and the user can see the complete distribution.

use std::f64::consts::TAU;

use super::Dataset;
use crate::flow::noise::{NoiseKey, Stream};

/// The name of the set.
pub(super) const NAME: &str = "rings";
/// The radius of each ring.
const RADII: [f64; 4] = [0.5, 1.0, 1.5, 2.0];
/// Standard deviation of a point's distance from its ring.
const NOISE: f64 = 0.1;
const POINTS_PER_RING: usize = 1000;

/// Generates the set; it is always the same.
pub(super) fn generate() -> Dataset {
    let mut data = Dataset {
        images: Vec::new(),
        labels: Vec::new(),
        class_names: (1..=RADII.len()).map(|ring| format!("ring {ring}")).collect(),
        image_size: 1,
        channels: 2,
        originals: None,
    };
    for (class, radius) in RADII.into_iter().enumerate() {
        let mut random = Stream::new(NoiseKey { seed: 0, rollout: 0, sample: class as u32, step: 0 });
        for _ in 0..POINTS_PER_RING {
            let angle = TAU * random.uniform();
            let distance = radius + NOISE * random.normal();
            data.images.extend([distance * angle.cos(), distance * angle.sin()].map(|value| value as f32));
            data.labels.push(class as u32);
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_around_their_rings_and_evenly_along_them() {
        let data = generate();
        assert_eq!(data, generate());
        assert_eq!((data.len(), data.image(0).len(), data.class_names.len()), (4000, 2, 4));
        for (class, radius) in RADII.into_iter().enumerate() {
            let points: Vec<[f64; 2]> = (0..data.len())
                .filter(|index| data.labels[*index] as usize == class)
                .map(|index| [0, 1].map(|axis| f64::from(data.image(index)[axis])))
                .collect();
            let count = points.len() as f64;
            assert_eq!(count, 1000.0);
            let mean = |of: &dyn Fn(&[f64; 2]) -> f64| points.iter().map(of).sum::<f64>() / count;
            let distance = mean(&|[x, y]| x.hypot(*y));
            let spread = mean(&|[x, y]| (x.hypot(*y) - distance).powi(2)).sqrt();
            // Five standard errors of the mean and of the standard deviation.
            assert!((distance - radius).abs() < 5.0 * NOISE / count.sqrt(), "{distance} is not {radius}");
            assert!((spread - NOISE).abs() < 5.0 * NOISE / (2.0 * count).sqrt(), "{spread} is not {NOISE}");
            // The mean direction of uniform angles is a vector of length about 1/√count; five times that.
            let centre = mean(&|[x, y]| x / x.hypot(*y)).hypot(mean(&|[x, y]| y / x.hypot(*y)));
            assert!(centre < 5.0 / count.sqrt(), "{centre}");
        }
    }
}
