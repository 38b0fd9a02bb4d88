// The same as layer_norm_backward with one workgroup per row.
//!import grid
//!import block_sum
//!import layer_norm_params

@group(0) @binding(0) var<uniform> params: LayerNormParams;
@group(0) @binding(1) var<storage, read> x: array<Pack>;
@group(0) @binding(2) var<storage, read> scale: array<Pack>;
@group(0) @binding(3) var<storage, read> stats: array<f32>;
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
    let modulation = (row / params.tokens) * packs;
    let mean = stats[2u * row];
    let inverse_std = stats[2u * row + 1u];
    var sum_g = Pack();
    var sum_gn = Pack();
    for (var i = lane; i < packs; i += 64u) {
        let g = dy[start + i] * (Pack(1.0) + scale[modulation + i]);
        let normal = (x[start + i] - Pack(mean)) * inverse_std;
        sum_g += g;
        sum_gn = fma(g, normal, sum_gn);
    }
    let means = block_sum(lane, vec2<f32>(total(sum_g), total(sum_gn))) / f32(params.columns);
    for (var i = lane; i < packs; i += 64u) {
        let g = dy[start + i] * (Pack(1.0) + scale[modulation + i]);
        let normal = (x[start + i] - Pack(mean)) * inverse_std;
        dx[start + i] = inverse_std * (g - Pack(means.x) - normal * means.y);
    }
}
