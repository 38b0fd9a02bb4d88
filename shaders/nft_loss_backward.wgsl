// d_v_new = d_loss*(q*(u - v_minus) - p*(u - v_plus)), with p and q from the row's outcomes.
//!import grid
//!import elements_columns
//!import nft_settings
//!import outcome

@group(0) @binding(0) var<uniform> params: ElementsColumnsParams;
@group(0) @binding(1) var<storage, read> v_new: array<f32>;
@group(0) @binding(2) var<storage, read> v_old: array<f32>;
@group(0) @binding(3) var<storage, read> u: array<f32>;
@group(0) @binding(4) var<storage, read> outcomes: array<Outcome>;
@group(0) @binding(5) var<storage, read> settings: NftSettings;
@group(0) @binding(6) var<storage, read> d_loss: array<f32>;
@group(0) @binding(7) var<storage, read_write> d_v_new: array<f32>;

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
    let row = i / params.columns;
    let moved = settings.beta * (v_new[i] - v_old[i]);
    let error = u[i] - v_old[i];
    let p = outcomes[row].d_s1;
    let q = outcomes[row].d_s2;
    d_v_new[i] = d_loss[row] * (q * (error + moved) - p * (error - moved));
}
