// B, element by element: quantised.
//!import q8_0

fn b_at(i: u32) -> f32 {
    return code_in(b[i / 4u], i % 4u) * scale_in(scales_at(i / 32u), i / 32u);
}
