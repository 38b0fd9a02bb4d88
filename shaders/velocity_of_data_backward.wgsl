// The gradient of y (sign = 1) or of data (sign = -1): sign * dv / max(sigma, floor), with dv [rows, columns] and
// sigma [rows].
//!import grid

struct VelocityOfDataBackwardParams {
    elements: u32,
    columns: u32,
    floor: f32,
    sign: f32,
}

@group(0) @binding(0) var<uniform> params: VelocityOfDataBackwardParams;
@group(0) @binding(1) var<storage, read> sigma: array<f32>;
@group(0) @binding(2) var<storage, read> dv: array<f32>;
@group(0) @binding(3) var<storage, read_write> gradient: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i < params.elements {
        gradient[i] = params.sign * dv[i] / max(sigma[i / params.columns], params.floor);
    }
}
