// d_prediction = d_loss * weight * 2/columns * (prediction - target)
//!import grid
//!import elements_columns

@group(0) @binding(0) var<uniform> params: ElementsColumnsParams;
@group(0) @binding(1) var<storage, read> prediction: array<f32>;
@group(0) @binding(2) var<storage, read> expected: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read> d_loss: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_prediction: array<f32>;

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
    let scale = d_loss[row] * weight[row] * 2.0 / f32(params.columns);
    d_prediction[i] = scale * (prediction[i] - expected[i]);
}
