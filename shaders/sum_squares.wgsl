// For blocks of a long tensor: the sum of squares of the finite elements, and the number of the others. One workgroup
// per block.
//!import grid
//!import block_sum
//!import non_finite

struct SumSquaresParams {
    blocks: u32,
    // Where the first block's pair goes.
    first: u32,
}

@group(0) @binding(0) var<uniform> params: SumSquaresParams;
@group(0) @binding(1) var<storage, read> x: array<u32>;
// First element of each block, and one past its last.
@group(0) @binding(2) var<storage, read> bounds: array<vec2<u32>>;
// [all blocks, 2]
@group(0) @binding(3) var<storage, read_write> partial_sums: array<vec2<f32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let block = linear_workgroup(workgroup, workgroups);
    if block >= params.blocks {
        return;
    }
    let ends = bounds[block];
    var sums = vec2<f32>();
    for (var i = ends.x + lane; i < ends.y; i += 64u) {
        let bits = x[i];
        let non_finite = is_non_finite(bits);
        // Selected before it is squared, so that no infinity enters the arithmetic.
        let value = bitcast<f32>(select(bits, 0u, non_finite));
        sums += vec2<f32>(value * value, select(0.0, 1.0, non_finite));
    }
    sums = block_sum(lane, sums);
    if lane == 0u {
        partial_sums[params.first + block] = sums;
    }
}
