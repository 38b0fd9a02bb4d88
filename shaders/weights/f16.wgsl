// B, element by element: two per word.
//!import half

@group(0) @binding(2) var<storage, read> b: array<u32>;

fn b_at(i: u32) -> f32 {
    return finite_half_value((b[i / 2u] >> (i % 2u * 16u)) & 0xffffu);
}
