// H = A·B + bias, C = X + gate H. H is kept if the backward pass needs it, as in gelu.wgsl.
@group(0) @binding(4) var<storage, read> x: array<f32>;
@group(0) @binding(5) var<storage, read> gate: array<f32>;
@group(0) @binding(6) var<storage, read_write> c: array<f32>;
@group(0) @binding(7) var<storage, read_write> h: array<f32>;

fn store(batch: u32, row: u32, column: u32, sum: f32) {
    if is_beyond(row, column) {
        return;
    }
    let i = row * params.n + column;
    let value = with_bias(sum, column);
    if params.keep == 1u {
        h[i] = value;
    }
    c[i] = fma(gate[row / params.tokens * params.n + column], value, x[i]);
}
