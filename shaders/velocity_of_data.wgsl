// v = (y - data) / max(sigma, floor): y, data [rows, columns], sigma [rows].
//!import grid

struct VelocityOfDataParams {
    elements: u32,
    columns: u32,
    floor: f32,
}

@group(0) @binding(0) var<uniform> params: VelocityOfDataParams;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read> data: array<f32>;
@group(0) @binding(3) var<storage, read> sigma: array<f32>;
@group(0) @binding(4) var<storage, read_write> v: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i < params.elements {
        v[i] = (y[i] - data[i]) / max(sigma[i / params.columns], params.floor);
    }
}
