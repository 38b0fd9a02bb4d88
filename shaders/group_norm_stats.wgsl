// The second pass of group norm: mean and inverse standard deviation of each group from those of its chunks (Chan,
// Golub and LeVeque 1983), so that no large squares cancel.
//!import grid
//!import block_sum

struct GroupNormStatsParams {
    rows: u32,
    size: u32,
    chunk: u32,
    chunks: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> params: GroupNormStatsParams;
@group(0) @binding(1) var<storage, read> partial: array<f32>;
@group(0) @binding(2) var<storage, read_write> stats: array<f32>;

// The share of a chunk in its group.
fn share(chunk: u32) -> f32 {
    return f32(min(params.chunk, params.size - chunk * params.chunk)) / f32(params.size);
}

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
    let start = 2u * row * params.chunks;
    var sum = 0.0;
    for (var chunk = lane; chunk < params.chunks; chunk += 64u) {
        sum = fma(share(chunk), partial[start + 2u * chunk], sum);
    }
    let mean = block_sum(lane, vec2<f32>(sum, 0.0)).x;
    var squares = 0.0;
    for (var chunk = lane; chunk < params.chunks; chunk += 64u) {
        let distance = partial[start + 2u * chunk] - mean;
        squares += partial[start + 2u * chunk + 1u] / f32(params.size) + share(chunk) * distance * distance;
    }
    let variance = block_sum(lane, vec2<f32>(squares, 0.0)).x;
    if lane == 0u {
        stats[2u * row] = mean;
        stats[2u * row + 1u] = inverseSqrt(variance + params.epsilon);
    }
}
