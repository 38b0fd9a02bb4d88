// B, four elements at a time along its rows: one word of codes, and all of one block.
//!import q8_0

// The elements from 4 i on.
fn b_vec4_at(i: u32) -> vec4<f32> {
    let word = b[i];
    return vec4<f32>(code_in(word, 0u), code_in(word, 1u), code_in(word, 2u), code_in(word, 3u)) * scale_of(i / 8u);
}
