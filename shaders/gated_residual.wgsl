// y = x + gate h: x, h [batch, tokens, columns], gate [batch, columns].
//!import grid
//!import gated_residual_params

@group(0) @binding(0) var<uniform> params: GatedResidualParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> h: array<f32>;
@group(0) @binding(3) var<storage, read> gate: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i < params.batch * params.tokens * params.columns {
        let sample = i / (params.tokens * params.columns);
        y[i] = fma(gate[sample * params.columns + i % params.columns], h[i], x[i]);
    }
}
