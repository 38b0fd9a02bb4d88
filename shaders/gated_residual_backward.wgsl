// dh = gate dy.
//!import each
//!import gated_residual_params

// See each.wgsl.
const PACKED: u32 = 0u;

@group(0) @binding(0) var<uniform> params: GatedResidualParams;
@group(0) @binding(1) var<storage, read> gate: array<Pack>;
@group(0) @binding(2) var<storage, read> dy: array<Pack>;
@group(0) @binding(3) var<storage, read_write> dh: array<Pack>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * LANES + lane;
    let columns = params.columns / PACK;
    if i < params.batch * params.tokens * columns {
        let sample = i / (params.tokens * columns);
        dh[i] = gate[sample * columns + i % columns] * dy[i];
    }
}
