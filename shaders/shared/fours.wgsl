// Operands of any shape, element by element.
//
// `a_four` loads four neighbouring elements of A, `b_four` of B, as stored, and `unpacked_four` decodes and rounds those
// once they are needed. Past the end of an operand the last elements are repeated.
//!import operands
//!import weights
//!import precision

// Elements of B are decoded when they are loaded.
alias Four = vec4<f32>;

fn four_places(at: u32, elements: u32) -> vec4<u32> {
    return min(at + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(elements - 1u));
}

fn a_four(at: u32, elements: u32) -> vec4<f32> {
    let places = four_places(at, elements);
    return vec4<f32>(a[places.x], a[places.y], a[places.z], a[places.w]);
}

fn b_four(at: u32, elements: u32) -> Four {
    let places = four_places(at, elements);
    return vec4<f32>(b_at(places.x), b_at(places.y), b_at(places.z), b_at(places.w));
}

fn unpacked_four(four: Four, at: u32, elements: u32) -> vec4<f32> {
    return rounded_four(four);
}
