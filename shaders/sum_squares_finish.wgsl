// Sums the pairs of all chunks in one workgroup.
//!import block_sum

struct Params {
    chunks: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> partial_sums: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> total: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    var sums = vec2<f32>();
    for (var chunk = lane; chunk < params.chunks; chunk += 64u) {
        sums += partial_sums[chunk];
    }
    sums = block_sum(lane, sums);
    if lane == 0u {
        total[0] = sums.x;
        total[1] = sums.y;
    }
}
