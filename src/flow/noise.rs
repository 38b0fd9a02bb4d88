//! Noise as a function of where it is used: nothing random is ever stored.
//!
//! Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011) turns a
//! counter and a key into four random words. The key is the seed of the run and the counter says
//! where the noise is used, so a run can be repeated, an ε can be recomputed instead of
//! stored, and a sample does not depend on the batch it was drawn in. The compute shaders evaluate
//! the same function: the same words on every device, and normals that differ from these by the
//! rounding of `f32` alone.

use std::f64::consts::TAU;

/// In place of a step: x_0 of a trajectory, the pure noise that it starts from.
pub const INITIAL_NOISE: u32 = u32::MAX;
/// In place of a step: the noise that pretraining mixes into a training image.
pub const PRETRAIN_NOISE: u32 = u32::MAX - 1;
/// In place of a step: the time σ at which pretraining does so.
pub const PRETRAIN_TIME: u32 = u32::MAX - 2;
/// In place of a step: which conditions are dropped in pretraining.
pub const DROPOUT: u32 = u32::MAX - 3;
/// In place of a step: the order in which data is visited.
pub const SHUFFLE: u32 = u32::MAX - 4;
/// In place of a step: the weights of an untrained network.
pub const INITIAL_WEIGHTS: u32 = u32::MAX - 5;
/// In place of a step: augmentation of training images.
pub const AUGMENT: u32 = u32::MAX - 6;
/// In place of a step: the choice of the steps to train on.
pub const TRAINED_STEPS: u32 = u32::MAX - 7;

/// The bijection of counters under a key, in ten rounds.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let (high0, low0) = wide_product(0xD251_1F53, c0);
        let (high1, low1) = wide_product(0xCD9E_8D57, c2);
        [c0, c1, c2, c3] = [high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0];
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}

fn wide_product(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    ((product >> 32) as u32, product as u32)
}

/// Where noise is used. Different keys give independent noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NoiseKey {
    /// The seed of the run.
    pub seed: u64,
    /// Which rollout (or which iteration of pretraining).
    pub rollout: u32,
    /// Which sample of it, counted over the whole batch.
    pub sample: u32,
    /// Which step of the trajectory, or one of this module's constants for other uses.
    pub step: u32,
}

impl NoiseKey {
    /// The `index`-th four words: Philox of the counter \[index, step, sample, rollout\] under the
    /// key \[low, high\] half of the seed.
    pub fn block(self, index: u32) -> [u32; 4] {
        philox4x32_10([index, self.step, self.sample, self.rollout], [self.seed as u32, (self.seed >> 32) as u32])
    }
}

/// The first `count` standard normals of `key`; block j gives the normals 4j to 4j + 3.
pub fn normals(key: NoiseKey, count: usize) -> Vec<f64> {
    (0_u32..)
        .flat_map(|index| {
            let [w0, w1, w2, w3] = key.block(index);
            let ((n0, n1), (n2, n3)) = (box_muller(w0, w1), box_muller(w2, w3));
            [n0, n1, n2, n3]
        })
        .take(count)
        .collect()
}

/// Two independent normals from two words (Box and Muller, 1958). The uniforms are the centres of
/// 2²³ equal cells: exact in `f32`, and never 0, so that the logarithm is finite.
fn box_muller(w0: u32, w1: u32) -> (f64, f64) {
    let cell_centre = |word: u32| (f64::from(word >> 9) + 0.5) / f64::from(1_u32 << 23);
    let radius = (-2.0 * cell_centre(w0).ln()).sqrt();
    let (sin, cos) = (TAU * cell_centre(w1)).sin_cos();
    (radius * cos, radius * sin)
}

/// The words of one key in order: random choices on the host.
#[derive(Clone, Debug)]
pub struct Stream {
    key: NoiseKey,
    next_block: u32,
    words: [u32; 4],
    used: usize,
    spare_normal: Option<f64>,
}

impl Stream {
    /// The stream of `key`, from its beginning.
    pub fn new(key: NoiseKey) -> Self {
        Self { key, next_block: 0, words: [0; 4], used: 4, spare_normal: None }
    }

    /// The next word.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == self.words.len() {
            self.words = self.key.block(self.next_block);
            self.next_block += 1;
            self.used = 0;
        }
        let word = self.words[self.used];
        self.used += 1;
        word
    }

    /// Uniform in (0, 1), both ends excluded.
    pub fn uniform(&mut self) -> f64 {
        (f64::from(self.next_u32()) + 0.5) / 2_f64.powi(32)
    }

    /// Standard normal; a fresh stream yields [`normals`] of its key in order.
    pub fn normal(&mut self) -> f64 {
        if let Some(normal) = self.spare_normal.take() {
            return normal;
        }
        let (first, second) = box_muller(self.next_u32(), self.next_u32());
        self.spare_normal = Some(second);
        first
    }

    /// Uniform in 0 to `n` − 1 without bias: Lemire's multiplication, which redraws in the few
    /// cases that would make some numbers more likely than others (arXiv 1805.10941).
    ///
    /// # Panics
    ///
    /// If `n` is 0, since there is nothing to choose from.
    pub fn below(&mut self, n: u32) -> u32 {
        assert!(n > 0, "no number is below 0");
        let surplus = n.wrapping_neg() % n; // 2³² mod n
        loop {
            let (number, remainder) = wide_product(self.next_u32(), n);
            if remainder >= surplus {
                return number;
            }
        }
    }

    /// Shuffles `items` (fewer than 2³²); every order is equally likely (Fisher and
    /// Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for unsettled in (2..=items.len()).rev() {
            let pick = self.below(unsettled as u32) as usize;
            items.swap(unsettled - 1, pick);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: NoiseKey = NoiseKey { seed: 0x0123_4567_89AB_CDEF, rollout: 3, sample: 2, step: 4 };

    /// Mean and variance of `values`.
    fn moments(values: &[f64]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        (mean, variance)
    }

    #[test]
    fn philox_gives_the_published_answers() {
        // The known-answer vectors of the Random123 library.
        for (counter, key, answer) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox4x32_10(counter, key), answer);
        }
    }

    proptest! {
        #[test]
        fn philox_equals_an_independent_implementation(counter: [u32; 4], key: [u32; 2]) {
            prop_assert_eq!(philox4x32_10(counter, key), rand_philox::philox4x32_10(counter, key));
        }

        #[test]
        fn below_is_below(seed: u64, n in 1_u32..) {
            let mut stream = Stream::new(NoiseKey { seed, ..KEY });
            for _ in 0..20 {
                prop_assert!(stream.below(n) < n);
            }
        }
    }

    #[test]
    fn normals_have_their_fixed_values() {
        // Computed with an independent program. If these change, every run changes.
        let expected = [
            -1.4992798705030606,
            0.17162398595608788,
            0.07126998087608605,
            0.13842545147836663,
            1.232073575424894,
            -0.019129711924266404,
        ];
        let got = normals(KEY, 6);
        assert_eq!(got.len(), 6);
        for (got, expected) in got.iter().zip(expected) {
            // A few units in the last place, since ln, sin and cos differ between platforms.
            assert!((got - expected).abs() < 1e-14, "{got} {expected}");
        }
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let base = normals(KEY, 8);
        for other in [
            NoiseKey { seed: KEY.seed + 1, ..KEY },
            NoiseKey { seed: KEY.seed ^ (1 << 63), ..KEY },
            NoiseKey { rollout: 4, ..KEY },
            NoiseKey { sample: 3, ..KEY },
            NoiseKey { step: 5, ..KEY },
            NoiseKey { step: INITIAL_NOISE, ..KEY },
        ] {
            assert!(normals(other, 8).iter().zip(&base).all(|(x, y)| x != y), "{other:?}");
        }
    }

    #[test]
    fn normals_are_standard_and_uncorrelated() {
        let n = 400_000;
        let values = normals(KEY, n);
        let (mean, variance) = moments(&values);
        let fourth = values.iter().map(|x| x.powi(4)).sum::<f64>() / n as f64;
        let neighbours = values.windows(2).map(|w| w[0] * w[1]).sum::<f64>() / n as f64;
        // Five standard deviations: 1/√n, √(2/n), √(96/n), 1/√n.
        let unit = 5.0 / (n as f64).sqrt();
        assert!(mean.abs() < unit, "{mean}");
        assert!((variance - 1.0).abs() < 2_f64.sqrt() * unit, "{variance}");
        assert!((fourth - 3.0).abs() < 96_f64.sqrt() * unit, "{fourth}");
        assert!(neighbours.abs() < unit, "{neighbours}");
    }

    #[test]
    fn extreme_words_give_finite_normals() {
        for word in [0, u32::MAX] {
            let (n0, n1) = box_muller(word, word);
            assert!(n0.is_finite() && n1.is_finite());
        }
        // The largest possible value: √(2 ln 2²⁴).
        assert!((box_muller(0, 0).0 - 5.768).abs() < 1e-3);
    }

    #[test]
    fn a_stream_yields_the_words_and_normals_of_its_key() {
        let mut stream = Stream::new(KEY);
        for index in 0..3 {
            for word in KEY.block(index) {
                assert_eq!(stream.next_u32(), word);
            }
        }
        let mut stream = Stream::new(KEY);
        let drawn: Vec<_> = (0..11).map(|_| stream.normal()).collect();
        assert_eq!(drawn, normals(KEY, 11));
    }

    #[test]
    fn uniforms_fill_the_open_interval() {
        let mut stream = Stream::new(KEY);
        let values: Vec<_> = (0..100_000).map(|_| stream.uniform()).collect();
        assert!(values.iter().all(|&u| u > 0.0 && u < 1.0));
        let (mean, variance) = moments(&values);
        assert!((mean - 0.5).abs() < 0.005, "{mean}");
        assert!((variance - 1.0 / 12.0).abs() < 0.002, "{variance}");
    }

    #[test]
    fn below_has_no_bias() {
        // At three quarters of the range a plain remainder would make the lower third twice as likely as
        // the others, and a bare multiplication the multiples of three.
        let (n, draws) = (3_u32 << 30, 90_000);
        let (mut thirds, mut residues) = ([0; 3], [0; 3]);
        let mut stream = Stream::new(KEY);
        for _ in 0..draws {
            let number = stream.below(n);
            thirds[(number >> 30) as usize] += 1;
            residues[(number % 3) as usize] += 1;
        }
        for count in thirds.into_iter().chain(residues) {
            // 30 000 expected, five standard deviations of 141.
            assert!((29_300..30_700).contains(&count), "{thirds:?} {residues:?}");
        }
        assert_eq!(stream.below(1), 0);
    }

    #[test]
    fn shuffle_makes_all_orders_equally_likely() {
        let mut stream = Stream::new(KEY);
        let mut seen = std::collections::BTreeMap::new();
        for _ in 0..24_000 {
            let mut items = [0, 1, 2, 3];
            stream.shuffle(&mut items);
            *seen.entry(items).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 24);
        // 1 000 expected, five standard deviations of 31.
        assert!(seen.values().all(|n| (845..1155).contains(n)), "{seen:?}");
        stream.shuffle::<u8>(&mut []);
    }

    #[test]
    fn every_use_has_its_own_keys() {
        let uses =
            [INITIAL_NOISE, PRETRAIN_NOISE, PRETRAIN_TIME, DROPOUT, SHUFFLE, INITIAL_WEIGHTS, AUGMENT, TRAINED_STEPS];
        let distinct: std::collections::BTreeSet<_> = uses.into_iter().collect();
        assert_eq!(distinct.len(), uses.len());
        // No trajectory is long enough to reach them.
        assert!(distinct.iter().all(|&step| step > 1_000_000));
    }
}
