// The 8x8 elements of C of an invocation: rows of two vectors, which consist of pairs of neighbouring columns. The
// kernel says how far apart those are (APART).
//!import add_products

fn store_row(batch: u32, row: u32, column: u32, left: vec4<f32>, right: vec4<f32>) {
    store(batch, row, column, left.x);
    store(batch, row, column + 1u, left.y);
    store(batch, row, column + APART, left.z);
    store(batch, row, column + APART + 1u, left.w);
    store(batch, row, column + 2u * APART, right.x);
    store(batch, row, column + 2u * APART + 1u, right.y);
    store(batch, row, column + 3u * APART, right.z);
    store(batch, row, column + 3u * APART + 1u, right.w);
}

// With zeros from step `rest` on, for a vector that starts at a step of K.
fn cut(x: vec4<f32>, step: u32, rest: u32, along_k: bool) -> vec4<f32> {
    return select(vec4<f32>(), x, step + select(vec4<u32>(), vec4<u32>(0u, 1u, 2u, 3u), along_k) < vec4<u32>(rest));
}
