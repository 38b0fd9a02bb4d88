//! 8-bit weights match GGUF to the byte.

use flowdppo_wgpu::graph::DType;
use flowdppo_wgpu::model::read_tensors;

use crate::common::formats;

/// The 34-byte blocks of GGUF; the device has the same data in two streams.
fn blocks(words: &[u32], elements: usize) -> Vec<u8> {
    let (codes, scales) = words.split_at(elements / 4);
    let [codes, scales] =
        [codes, scales].map(|words| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>());
    codes.chunks(32).zip(scales.chunks(2)).flat_map(|(codes, scale)| [scale, codes].concat()).collect()
}

#[test]
fn q8_0_has_the_bytes_and_values_of_gguf() {
    // Made by the Python package gguf; its bytes as numbers.
    let file = formats("quant/q8_0.safetensors");
    let tensors = read_tensors(&file).expect("it ships");
    let (shape, source) = &tensors["src"];
    let words = DType::Q8_0.encode(source);
    assert_eq!(DType::Q8_0.words(shape), words.len());
    let expected: Vec<u8> = tensors["q8_0.bytes"].1.iter().map(|byte| *byte as u8).collect();
    assert_eq!(blocks(&words, source.len()), expected);
    let decoded: Vec<f32> = DType::Q8_0.decode(&words, source.len()).into_iter().map(|value| value as f32).collect();
    assert_eq!(decoded, tensors["q8_0.dequant"].1);
    for (block, decoded) in source.chunks(32).zip(decoded.chunks(32)) {
        let largest = block.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        // Below 2⁻¹⁴ scales are multiples of 2⁻²⁴.
        let bound = largest / 225.0 + 127.0 * 2.0_f32.powi(-25);
        assert!(block.iter().zip(decoded).all(|(value, decoded)| (value - decoded).abs() <= bound));
    }
}
