// B, four elements at a time along its rows, whose length is a multiple of 4: two words.
//!import half

@group(0) @binding(2) var<storage, read> b: array<vec2<u32>>;

// The elements from 4 i on.
fn b_vec4_at(i: u32) -> vec4<f32> {
    let words = b[i];
    return vec4<f32>(
        finite_half_value(words.x & 0xffffu),
        finite_half_value(words.x >> 16u),
        finite_half_value(words.y & 0xffffu),
        finite_half_value(words.y >> 16u),
    );
}
