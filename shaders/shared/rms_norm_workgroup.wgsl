// The same as rms_norm with one workgroup per row: neighbouring lanes read neighbouring elements, and the sum has the
// order of a fixed tree. A row's bits depend only on the row.
//!import grid
//!import block_sum

struct RmsNormParams {
    rows: u32,
    columns: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> params: RmsNormParams;
@group(0) @binding(1) var<storage, read> x: array<Pack>;
@group(0) @binding(2) var<storage, read> weight: array<Pack>;
@group(0) @binding(3) var<storage, read_write> y: array<Pack>;
@group(0) @binding(4) var<storage, read_write> inverse_rms: array<f32>;

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
    var squares = Pack();
    for (var i = lane; i < packs; i += 64u) {
        squares = fma(x[start + i], x[start + i], squares);
    }
    let mean = block_sum(lane, vec2<f32>(total(squares), 0.0)).x / f32(params.columns);
    let inverse = inverseSqrt(mean + params.epsilon);
    for (var i = lane; i < packs; i += 64u) {
        y[start + i] = x[start + i] * inverse * weight[i];
    }
    if lane == 0u {
        inverse_rms[row] = inverse;
    }
}
