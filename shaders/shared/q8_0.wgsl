// Frozen weights in blocks of 32 along a row: codes q of 8 bits, four per word, and after all codes one scale d of 16
// bits per block, two per word. A weight is d q, which is exact in f32.
//!import half

@group(0) @binding(2) var<storage, read> b: array<u32>;

// The word with the scale of a block, and that scale.
fn scales_at(block: u32) -> u32 {
    return b[params.n * params.k / 4u + block / 2u];
}

fn scale_in(word: u32, block: u32) -> f32 {
    return finite_half_value((word >> (block % 2u * 16u)) & 0xffffu);
}

// The signed code at an index in a word.
fn code_in(word: u32, place: u32) -> f32 {
    return f32(bitcast<i32>(word << (24u - 8u * place)) >> 24u);
}
