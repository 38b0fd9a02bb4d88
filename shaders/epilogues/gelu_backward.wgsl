// C = (A·B) d GELU(X) / dX.
//!import pack
//!import gelu

@group(0) @binding(4) var<storage, read> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> c: array<f32>;

fn store(batch: u32, row: u32, column: u32, sum: f32) {
    if is_beyond(row, column) {
        return;
    }
    let i = row * params.n + column;
    c[i] = with_bias(sum, column) * gelu_slope(x[i]);
}
