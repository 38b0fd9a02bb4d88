// Softmax of the logits, and -weight * ln of the label's probability. One invocation per row: there are few classes.
//!import grid

struct CrossEntropyParams {
    rows: u32,
    classes: u32,
}

@group(0) @binding(0) var<uniform> params: CrossEntropyParams;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> labels: array<u32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;
@group(0) @binding(5) var<storage, read_write> probabilities: array<f32>;
@group(0) @binding(6) var<storage, read_write> label_probability: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if row >= params.rows {
        return;
    }
    let start = row * params.classes;
    var largest = logits[start];
    for (var k = 1u; k < params.classes; k++) {
        largest = max(largest, logits[start + k]);
    }
    var sum = 0.0;
    for (var k = 0u; k < params.classes; k++) {
        let likelihood = exp(logits[start + k] - largest);
        probabilities[start + k] = likelihood;
        sum += likelihood;
    }
    for (var k = 0u; k < params.classes; k++) {
        probabilities[start + k] /= sum;
    }
    // Never reads past the row, whatever the label.
    let at = start + min(labels[row], params.classes - 1u);
    label_probability[row] = probabilities[at];
    // The sum contains exp(0), so its logarithm is at least 0.
    loss[row] = weight[row] * (log(sum) + (largest - logits[at]));
}
