// d_logits = d_loss * weight * (probability - 1 at the label)
//!import grid

struct CrossEntropyBackwardParams {
    elements: u32,
    classes: u32,
}

@group(0) @binding(0) var<uniform> params: CrossEntropyBackwardParams;
@group(0) @binding(1) var<storage, read> probabilities: array<f32>;
@group(0) @binding(2) var<storage, read> labels: array<u32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read> d_loss: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_logits: array<f32>;

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
    let row = i / params.classes;
    let label = min(labels[row], params.classes - 1u);
    let hit = select(0.0, 1.0, i % params.classes == label);
    d_logits[i] = d_loss[row] * weight[row] * (probabilities[i] - hit);
}
