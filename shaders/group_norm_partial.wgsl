// The first pass of group norm: the mean of each chunk of a group, and the sum of its squared distances from that mean.
//!import grid
//!import block_sum

struct GroupNormPartialParams {
    rows: u32,
    size: u32,
    chunk: u32,
    chunks: u32,
}

@group(0) @binding(0) var<uniform> params: GroupNormPartialParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> partial: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = linear_workgroup(workgroup, workgroups);
    if index >= params.rows * params.chunks {
        return;
    }
    let first = index % params.chunks * params.chunk;
    let count = min(params.chunk, params.size - first);
    let start = index / params.chunks * params.size + first;
    var sum = 0.0;
    for (var i = lane; i < count; i += 64u) {
        sum += x[start + i];
    }
    let mean = block_sum(lane, vec2<f32>(sum, 0.0)).x / f32(count);
    var squares = 0.0;
    for (var i = lane; i < count; i += 64u) {
        let centred = x[start + i] - mean;
        squares = fma(centred, centred, squares);
    }
    let total = block_sum(lane, vec2<f32>(squares, 0.0)).x;
    if lane == 0u {
        partial[2u * index] = mean;
        partial[2u * index + 1u] = total;
    }
}
