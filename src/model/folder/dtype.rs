//! How numbers are stored, and their values as f32.

use half::{bf16, f16};
use safetensors::tensor::Dtype;

/// Weights of a block in GGUF's formats.
const BLOCK: usize = 32;

/// How the numbers of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoredAs {
    /// A type of safetensors.
    Plain(Dtype),
    /// GGUF: a scale in 16 bits and 32 signed bytes.
    Q8_0,
    /// GGUF: a scale and 32 numbers of 4 bits, minus 8.
    Q4_0,
    /// GGUF: a scale, a minimum and 32 numbers of 4 bits.
    Q4_1,
    /// GGUF: a scale and 32 numbers of 5 bits, minus 16.
    Q5_0,
}

impl StoredAs {
    /// The name, as safetensors and GGUF write it.
    pub fn name(self) -> String {
        match self {
            Self::Plain(dtype) => dtype.to_string(),
            Self::Q8_0 => "Q8_0".into(),
            Self::Q4_0 => "Q4_0".into(),
            Self::Q4_1 => "Q4_1".into(),
            Self::Q5_0 => "Q5_0".into(),
        }
    }

    /// Numbers and bytes of the smallest piece that can be read on its own.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::Plain(dtype) => {
                let bits = dtype.bitsize();
                // The greatest common divisor of a power of two and 8 bits.
                let common = 1 << bits.trailing_zeros().min(3);
                (8 / common, bits / common)
            }
            Self::Q8_0 => (BLOCK, 34),
            Self::Q4_0 => (BLOCK, 18),
            Self::Q4_1 => (BLOCK, 20),
            Self::Q5_0 => (BLOCK, 22),
        }
    }

    /// Bytes of `elements` numbers, a multiple of [`StoredAs::block`].
    pub fn bytes(self, elements: usize) -> u64 {
        let (numbers, bytes) = self.block();
        (elements / numbers) as u64 * bytes as u64
    }

    /// Whether the numbers have eight bits and need a scale from elsewhere, if the file has one.
    pub fn is_fp8(self) -> bool {
        matches!(self, Self::Plain(Dtype::F8_E4M3 | Dtype::F8_E5M2))
    }

    /// The numbers in `data`, complete blocks, as f32: exact, except for F64 and large integers, which are rounded.
    /// `None` if the type cannot be read.
    pub fn widen(self, data: &[u8]) -> Option<Vec<f32>> {
        fn words<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> {
            data.as_chunks::<N>().0.iter().copied()
        }
        let table = |decode: fn(u8) -> f32| {
            let table: [f32; 256] = std::array::from_fn(|code| decode(code as u8));
            data.iter().map(|code| table[usize::from(*code)]).collect()
        };
        Some(match self {
            Self::Plain(Dtype::F32) => words(data).map(f32::from_le_bytes).collect(),
            Self::Plain(Dtype::F64) => words(data).map(|bytes| f64::from_le_bytes(bytes) as f32).collect(),
            Self::Plain(Dtype::F16) => words(data).map(|bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
            Self::Plain(Dtype::BF16) => words(data).map(|bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
            Self::Plain(Dtype::F8_E4M3) => table(e4m3fn),
            Self::Plain(Dtype::F8_E5M2) => table(e5m2),
            Self::Plain(Dtype::I64) => words(data).map(|bytes| i64::from_le_bytes(bytes) as f32).collect(),
            Self::Plain(Dtype::I32) => words(data).map(|bytes| i32::from_le_bytes(bytes) as f32).collect(),
            Self::Plain(Dtype::U32) => words(data).map(|bytes| u32::from_le_bytes(bytes) as f32).collect(),
            Self::Plain(Dtype::U8) => data.iter().map(|byte| f32::from(*byte)).collect(),
            Self::Plain(_) => return None,
            Self::Q8_0 => data.as_chunks::<34>().0.iter().flat_map(q8_0).collect(),
            Self::Q4_0 => data.as_chunks::<18>().0.iter().flat_map(q4_0).collect(),
            Self::Q4_1 => data.as_chunks::<20>().0.iter().flat_map(q4_1).collect(),
            Self::Q5_0 => data.as_chunks::<22>().0.iter().flat_map(q5_0).collect(),
        })
    }
}

/// FP8 E4M3FN: bias 7, no infinities, all ones is NaN (Micikevicius et al. 2022).
fn e4m3fn(code: u8) -> f32 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(code >> 3 & 15), code & 7);
    match (exponent, fraction) {
        (0, _) => sign * f32::from(fraction) * 2_f32.powi(-9),
        (15, 7) => f32::NAN,
        _ => sign * (1.0 + f32::from(fraction) / 8.0) * 2_f32.powi(exponent - 7),
    }
}

/// FP8 E5M2: the upper byte of an f16.
fn e5m2(code: u8) -> f32 {
    f16::from_le_bytes([0, code]).to_f32()
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn q8_0(block: &[u8; 34]) -> [f32; BLOCK] {
    let scale = half_at(block, 0);
    std::array::from_fn(|at| scale * f32::from(block[2 + at] as i8))
}

/// Four bits of a number; those of the first 16 numbers are the lower halves of 16 bytes.
fn nibble(bytes: &[u8], at: usize) -> u8 {
    if at < 16 { bytes[at] & 15 } else { bytes[at - 16] >> 4 }
}

fn q4_0(block: &[u8; 18]) -> [f32; BLOCK] {
    let scale = half_at(block, 0);
    std::array::from_fn(|at| scale * (f32::from(nibble(&block[2..], at)) - 8.0))
}

fn q4_1(block: &[u8; 20]) -> [f32; BLOCK] {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    std::array::from_fn(|at| scale * f32::from(nibble(&block[4..], at)) + minimum)
}

fn q5_0(block: &[u8; 22]) -> [f32; BLOCK] {
    let scale = half_at(block, 0);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    let fifth = |at: usize| (high >> at & 1) as u8;
    std::array::from_fn(|at| scale * (f32::from(nibble(&block[6..], at) | fifth(at) << 4) - 16.0))
}
