// y = x, four elements at a time, as fast as the device can read and write its memory.
//!import grid

struct RooflineCopyParams {
    vectors: u32,
}

@group(0) @binding(0) var<uniform> params: RooflineCopyParams;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 256u + lane;
    if i < params.vectors {
        y[i] = x[i];
    }
}
