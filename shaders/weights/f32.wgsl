// B, element by element.
@group(0) @binding(2) var<storage, read> b: array<f32>;

fn b_at(i: u32) -> f32 {
    return b[i];
}
