//! The types of tensor elements, and how they are stored: always in complete words of 4 bytes.

use half::f16;

/// Weights in a block of [`DType::Q8_0`].
pub const BLOCK: usize = 32;

/// Values below this round to at most 65504, the largest number in 16 bits.
pub const HALF_BOUND: f32 = 65520.0;

/// The type of a tensor's elements, which are stored row-major.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 binary32, one word each.
    #[default]
    F32,
    /// IEEE 754 binary16, two per word: element 2w in the low half, 2w + 1 in the high half. Frozen weights, and
    /// activations that wait for the backward pass.
    F16,
    /// Indices and keys, one word each.
    U32,
    /// Frozen weights in blocks of 32 along a row, with the numbers of GGUF's type of that name: an element is d·q,
    /// where q is a whole number from -127 to 127 and d a binary16 for each block.
    ///
    /// GGUF stores a block as 34 bytes. Here one stored tensor has two streams, so that every load is aligned: first
    /// the codes q of all elements, 8 bits each, four per word; then the scales d of all blocks, two per word. In
    /// both, the first value is in the lowest bits. That is elements / 4 words, and elements / 64, rounded up.
    Q8_0,
}

impl DType {
    /// Bytes of a tensor. The only place that says how large an element is.
    ///
    /// # Panics
    /// If it is `Q8_0` and a row does not consist of complete blocks.
    pub fn bytes(self, shape: &[usize]) -> u64 {
        4 * self.words(shape) as u64
    }

    /// The same in words of 4 bytes.
    ///
    /// # Panics
    /// As [`DType::bytes`].
    pub fn words(self, shape: &[usize]) -> usize {
        let elements: usize = shape.iter().product();
        match self {
            Self::F32 | Self::U32 => elements,
            Self::F16 => elements.div_ceil(2),
            Self::Q8_0 => {
                assert!(Self::has_blocks(shape), "the rows of {shape:?} do not consist of blocks of {BLOCK}");
                elements / 4 + (elements / BLOCK).div_ceil(2)
            }
        }
    }

    /// Whether rows of this shape consist of complete blocks, as `Q8_0` requires.
    pub fn has_blocks(shape: &[usize]) -> bool {
        shape.last().is_some_and(|row| row.is_multiple_of(BLOCK))
    }

    /// The words of a tensor with these values, rounded to the nearest that the type has.
    ///
    /// # Panics
    /// With `U32`, which has no such values; with `Q8_0` if the blocks are not complete.
    pub fn encode(self, values: &[f32]) -> Vec<u32> {
        match self {
            Self::F32 => values.iter().map(|value| value.to_bits()).collect(),
            Self::F16 => {
                let halves: Vec<u16> = values.iter().map(|value| half_bits(f64::from(*value))).collect();
                pairs(&halves)
            }
            Self::U32 => panic!("indices are not rounded values"),
            Self::Q8_0 => {
                let (blocks, rest) = values.as_chunks::<BLOCK>();
                assert!(rest.is_empty(), "{} values do not consist of blocks of {BLOCK}", values.len());
                let (scales, codes): (Vec<u16>, Vec<[i8; BLOCK]>) = blocks.iter().map(encode_block).unzip();
                let (codes, _) = codes.as_flattened().as_chunks::<4>();
                let codes = codes.iter().map(|codes| u32::from_le_bytes(codes.map(|code| code as u8)));
                codes.chain(pairs(&scales)).collect()
            }
        }
    }

    /// The exact values of the first `elements` elements.
    pub fn decode(self, words: &[u32], elements: usize) -> Vec<f64> {
        match self {
            Self::F32 => words.iter().map(|word| f64::from(f32::from_bits(*word))).collect(),
            Self::F16 => halves(words).take(elements).collect(),
            Self::U32 => words.iter().map(|word| f64::from(*word)).collect(),
            Self::Q8_0 => {
                let (codes, scales) = words.split_at(elements / 4);
                let scales: Vec<f64> = halves(scales).collect();
                let codes = codes.iter().flat_map(|word| word.to_le_bytes());
                codes.enumerate().map(|(index, code)| f64::from(code as i8) * scales[index / BLOCK]).collect()
            }
        }
    }
}

impl std::fmt::Display for DType {
    /// Its name in configurations and GGUF.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::U32 => "u32",
            Self::Q8_0 => "q8_0",
        })
    }
}

/// Types that the host has arrays of.
pub trait Element: bytemuck::NoUninit {
    /// The type on the device.
    const TYPE: DType;
}

impl Element for f32 {
    const TYPE: DType = DType::F32;
}

impl Element for u32 {
    const TYPE: DType = DType::U32;
}

/// The nearest binary16, ties to even; what does not fit, or is not finite, becomes NaN.
pub fn half_bits(value: f64) -> u16 {
    let half = f16::from_f64(value);
    if half.is_finite() { half } else { f16::NAN }.to_bits()
}

/// Two numbers of 16 bits per word.
fn pairs(halves: &[u16]) -> Vec<u32> {
    halves.chunks(2).map(|pair| u32::from(pair[0]) | u32::from(pair.get(1).copied().unwrap_or(0)) << 16).collect()
}

fn halves(words: &[u32]) -> impl Iterator<Item = f64> {
    words.iter().flat_map(|word| [*word as u16, (*word >> 16) as u16]).map(|bits| f16::from_bits(bits).to_f64())
}

/// The scale d of a block, before it is rounded to 16 bits.
pub fn block_scale(block: &[f32]) -> f32 {
    block.iter().fold(0.0_f32, |largest, value| largest.max(value.abs())) / 127.0
}

/// Scale and codes of a block, as GGUF's own programs compute them in f32: d = max|x| / 127, and q = x·(1/d) with d
/// before it is rounded to 16 bits, halves rounded away from zero.
///
/// An element is off by at most half a step and the rounding of d: |d·q − x| ≤ (1/2 + 127·2⁻¹¹)·d < max|x| / 225, where
/// d is at least 2⁻¹⁴; below that d is a multiple of 2⁻²⁴, which adds up to 127·2⁻²⁵.
fn encode_block(block: &[f32; BLOCK]) -> (u16, [i8; BLOCK]) {
    let scale = block_scale(block);
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    (half_bits(f64::from(scale)), block.map(|value| (value * inverse).round() as i8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_bytes() {
        let sizes = |shape: &[usize]| [DType::F32, DType::U32, DType::F16].map(|dtype| dtype.bytes(shape));
        assert_eq!(sizes(&[3, 5]), [60, 60, 32]);
        // 1.0625 bytes per weight, in complete words.
        assert_eq!(DType::Q8_0.bytes(&[4, 64]), 4 * 64 + 2 * 4 * 2);
        assert_eq!(DType::Q8_0.bytes(&[1, 32]), 32 + 4);
        assert!(DType::has_blocks(&[5, 96]) && !DType::has_blocks(&[32, 48]) && !DType::has_blocks(&[]));
    }

    #[test]
    fn a_block_of_zeros_or_of_tiny_numbers_is_finite() {
        for value in [0.0, f32::MIN_POSITIVE, 1e-45, 1e-30] {
            let decoded = DType::Q8_0.decode(&DType::Q8_0.encode(&[value; 32]), 32);
            assert_eq!(decoded, [0.0; 32], "{value:e}");
        }
        let largest = DType::Q8_0.decode(&DType::Q8_0.encode(&[65504.0; 32]), 32);
        assert!(largest.iter().all(|value| (value - 65504.0).abs() < 65504.0 / 2048.0), "{largest:?}");
    }
}
