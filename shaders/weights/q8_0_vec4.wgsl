// B, four elements at a time along its rows: one word of codes, and all of one block.
//!import q8_0

// The elements from 4 i on, as stored: their codes, and the word with the scale of their block.
alias Packed = vec2<u32>;

fn b_packed_at(i: u32) -> Packed {
    return vec2<u32>(b[i], scales_at(i / 8u));
}

fn unpacked(packed: Packed, i: u32) -> vec4<f32> {
    let codes = vec4<f32>(
        code_in(packed.x, 0u),
        code_in(packed.x, 1u),
        code_in(packed.x, 2u),
        code_in(packed.x, 3u),
    );
    return codes * scale_in(packed.y, i / 8u);
}
