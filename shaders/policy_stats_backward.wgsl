// d_v_new = d_S1*epsilon + 2*d_S2*(v_new - v_old)
//!import grid
//!import elements_columns

@group(0) @binding(0) var<uniform> params: ElementsColumnsParams;
@group(0) @binding(1) var<storage, read> v_new: array<f32>;
@group(0) @binding(2) var<storage, read> v_old: array<f32>;
@group(0) @binding(3) var<storage, read> epsilon: array<f32>;
@group(0) @binding(4) var<storage, read> d_stats: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_v_new: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i >= params.elements {
        return;
    }
    let row = i / params.columns * 2u;
    d_v_new[i] = d_stats[row] * epsilon[i] + 2.0 * d_stats[row + 1u] * (v_new[i] - v_old[i]);
}
