// d_stats = d_loss * (dL/dS1, dL/dS2), which the forward pass stored in its outcomes.
//!import grid
//!import outcome
//!import policy_objective_params

@group(0) @binding(0) var<uniform> params: PolicyObjectiveParams;
@group(0) @binding(1) var<storage, read> outcomes: array<Outcome>;
@group(0) @binding(2) var<storage, read> d_loss: array<f32>;
@group(0) @binding(3) var<storage, read_write> d_stats: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i >= params.rows {
        return;
    }
    d_stats[i * 2u] = d_loss[i] * outcomes[i].d_s1;
    d_stats[i * 2u + 1u] = d_loss[i] * outcomes[i].d_s2;
}
