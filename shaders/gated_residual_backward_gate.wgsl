// d_gate [batch, columns] = sum of dy h over tokens, one invocation per element.
//!import grid

struct Params {
    batch: u32,
    tokens: u32,
    columns: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> h: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> d_gate: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i >= params.batch * params.columns {
        return;
    }
    let sample = i / params.columns;
    let column = i % params.columns;
    var sum = 0.0;
    for (var token = 0u; token < params.tokens; token++) {
        let at = (sample * params.tokens + token) * params.columns + column;
        sum = fma(dy[at], h[at], sum);
    }
    d_gate[i] = sum;
}
