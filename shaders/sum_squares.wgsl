// The sum of squares of the finite elements in each chunk of a long tensor, and the number of the others: one
// workgroup per chunk.
//!import grid
//!import block_sum
//!import non_finite

const CHUNK: u32 = 4096u;

struct Params {
    elements: u32,
    chunks: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
// [chunks, 2]
@group(0) @binding(2) var<storage, read_write> partial_sums: array<vec2<f32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let chunk = linear_workgroup(workgroup, workgroups);
    if chunk >= params.chunks {
        return;
    }
    let first = chunk * CHUNK;
    let last = min(first + CHUNK, params.elements);
    var sums = vec2<f32>();
    for (var i = first + lane; i < last; i += 64u) {
        let bits = x[i];
        let non_finite = is_non_finite(bits);
        // Selected before it is squared, so that no infinity enters the arithmetic.
        let value = bitcast<f32>(select(bits, 0u, non_finite));
        sums += vec2<f32>(value * value, select(0.0, 1.0, non_finite));
    }
    sums = block_sum(lane, sums);
    if lane == 0u {
        partial_sums[chunk] = sums;
    }
}
