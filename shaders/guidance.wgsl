// Classifier-free guidance (Ho & Salimans 2022): v = v_u + guidance_scale (v_c - v_u).
//!import grid

struct GuidanceParams {
    elements: u32,
    guidance_scale: f32,
}

@group(0) @binding(0) var<uniform> params: GuidanceParams;
@group(0) @binding(1) var<storage, read> v_conditional: array<f32>;
@group(0) @binding(2) var<storage, read> v_unconditional: array<f32>;
@group(0) @binding(3) var<storage, read_write> v: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i < params.elements {
        let unconditional = v_unconditional[i];
        v[i] = unconditional + params.guidance_scale * (v_conditional[i] - unconditional);
    }
}
