// dx = dy * d GELU(x) / dx.
//!import each
//!import gelu
//!import elements

// See each.wgsl.
const PACKED: u32 = 0u;

@group(0) @binding(0) var<uniform> params: ElementsParams;
@group(0) @binding(1) var<storage, read> x: array<Pack>;
@group(0) @binding(2) var<storage, read> dy: array<Pack>;
@group(0) @binding(3) var<storage, read_write> dx: array<Pack>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * LANES + lane;
    if i < params.elements / PACK {
        dx[i] = dy[i] * gelu_slope(x[i]);
    }
}
