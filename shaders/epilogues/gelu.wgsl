// H = A·B + bias, C = GELU(H). H is kept if the backward pass needs it. This is a branch, not a separate kernel, so
// that C has the same bits in both cases.
//!import pack
//!import gelu

@group(0) @binding(4) var<storage, read_write> c: array<f32>;
@group(0) @binding(5) var<storage, read_write> h: array<f32>;

fn store(batch: u32, row: u32, column: u32, sum: f32) {
    if is_beyond(row, column) {
        return;
    }
    let i = row * params.n + column;
    let value = with_bias(sum, column);
    if params.keep == 1u {
        h[i] = value;
    }
    c[i] = gelu(value);
}
