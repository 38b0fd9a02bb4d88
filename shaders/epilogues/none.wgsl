// C = A·B + bias, or C += A·B.
@group(0) @binding(4) var<storage, read_write> c: array<f32>;

fn store(batch: u32, row: u32, column: u32, sum: f32) {
    if is_beyond(row, column) {
        return;
    }
    let i = (batch * params.m + row) * params.n + column;
    var value = with_bias(sum, column);
    if params.accumulate == 1u {
        value += c[i];
    }
    c[i] = value;
}
