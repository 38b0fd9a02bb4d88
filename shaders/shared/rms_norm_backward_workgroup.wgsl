// The same as rms_norm_backward with one workgroup per row.
//!import grid
//!import block_sum
//!import rows_columns

@group(0) @binding(0) var<uniform> params: RowsColumnsParams;
@group(0) @binding(1) var<storage, read> x: array<Pack>;
@group(0) @binding(2) var<storage, read> weight: array<Pack>;
@group(0) @binding(3) var<storage, read> inverse_rms: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<Pack>;
@group(0) @binding(5) var<storage, read_write> dx: array<Pack>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = linear_workgroup(workgroup, workgroups);
    if row >= params.rows {
        return;
    }
    let packs = params.columns / PACK;
    let start = row * packs;
    let inverse = inverse_rms[row];
    var sum = Pack();
    for (var i = lane; i < packs; i += 64u) {
        sum = fma(dy[start + i] * weight[i], x[start + i] * inverse, sum);
    }
    let mean = block_sum(lane, vec2<f32>(total(sum), 0.0)).x / f32(params.columns);
    for (var i = lane; i < packs; i += 64u) {
        let g = dy[start + i] * weight[i];
        dx[start + i] = inverse * (g - x[start + i] * inverse * mean);
    }
}
