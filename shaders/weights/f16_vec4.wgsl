// B, four elements at a time along its rows, whose length is a multiple of 4: two words.
//!import half

@group(0) @binding(2) var<storage, read> b: array<vec2<u32>>;

// The elements from 4 i on, as stored.
alias Packed = vec2<u32>;

fn b_packed_at(i: u32) -> Packed {
    return b[i];
}

fn unpacked(packed: Packed, i: u32) -> vec4<f32> {
    return vec4<f32>(
        finite_half_value(packed.x & 0xffffu),
        finite_half_value(packed.x >> 16u),
        finite_half_value(packed.y & 0xffffu),
        finite_half_value(packed.y >> 16u),
    );
}
