// The same as layer_norm with one workgroup per row: neighbouring lanes read neighbouring elements, and sums have the
// order of a fixed tree. A row's bits depend only on the row.
//!import grid
//!import block_sum
//!import layer_norm_params

@group(0) @binding(0) var<uniform> params: LayerNormParams;
@group(0) @binding(1) var<storage, read> x: array<Pack>;
@group(0) @binding(2) var<storage, read> shift: array<Pack>;
@group(0) @binding(3) var<storage, read> scale: array<Pack>;
@group(0) @binding(4) var<storage, read_write> y: array<Pack>;
@group(0) @binding(5) var<storage, read_write> stats: array<f32>;

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
    var sum = Pack();
    for (var i = lane; i < packs; i += 64u) {
        sum += x[start + i];
    }
    let mean = block_sum(lane, vec2<f32>(total(sum), 0.0)).x / f32(params.columns);
    var squares = Pack();
    for (var i = lane; i < packs; i += 64u) {
        let centred = x[start + i] - Pack(mean);
        squares = fma(centred, centred, squares);
    }
    let variance = block_sum(lane, vec2<f32>(total(squares), 0.0)).x / f32(params.columns);
    let inverse_std = inverseSqrt(variance + 1e-6);
    for (var i = lane; i < packs; i += 64u) {
        let normal = (x[start + i] - Pack(mean)) * inverse_std;
        y[start + i] = fma(normal, Pack(1.0) + scale[modulation + i], shift[modulation + i]);
    }
    if lane == 0u {
        stats[2u * row] = mean;
        stats[2u * row + 1u] = inverse_std;
    }
}
