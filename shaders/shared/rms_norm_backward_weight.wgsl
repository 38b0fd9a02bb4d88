// Gradient of RMS norm with respect to its weight [columns]: the sum of dy · x / rms over the rows of row_sums, of which
// there is one set (outer = 1).
//!import grid
//!import row_sums
//!import row_sums_params

@group(0) @binding(0) var<uniform> params: RowSumsParams;
@group(0) @binding(1) var<storage, read> x: array<Pack>;
@group(0) @binding(2) var<storage, read> inverse_rms: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<Pack>;
@group(0) @binding(4) var<storage, read_write> d_weight: array<Pack>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if is_beyond(i) {
        return;
    }
    let chunk = chunk_of(i);
    var sum = Pack();
    for (var row = chunk.first_row; row < chunk.end; row++) {
        let at = at_row(chunk, row);
        sum = fma(dy[at], x[at] * inverse_rms[row], sum);
    }
    d_weight[i] = sum;
}
