// B, four elements at a time along its rows, whose length is a multiple of 4.
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;

// The elements from 4 i on, as stored.
alias Packed = vec4<f32>;

fn b_packed_at(i: u32) -> Packed {
    return b[i];
}

fn unpacked(packed: Packed, i: u32) -> vec4<f32> {
    return packed;
}
