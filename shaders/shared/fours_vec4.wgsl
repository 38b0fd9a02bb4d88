// Operands whose rows consist of whole vectors, four elements at a time.
//
// `a_four` loads four neighbouring elements of A, `b_four` of B, as stored, and `unpacked_four` decodes and rounds those
// once they are needed. Past the end of an operand the last elements are repeated.
//!import operands_vec4
//!import weights_vec4
//!import precision

alias Four = Packed;

fn a_four(at: u32, elements: u32) -> vec4<f32> {
    return a[min(at, elements - 4u) / 4u];
}

fn b_four(at: u32, elements: u32) -> Four {
    return b_packed_at(min(at, elements - 4u) / 4u);
}

fn unpacked_four(four: Four, at: u32, elements: u32) -> vec4<f32> {
    return rounded_four(unpacked(four, min(at, elements - 4u) / 4u));
}
