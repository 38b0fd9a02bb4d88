// loss = weight * mean of (prediction - target)^2: one workgroup per row.
//!import grid
//!import block_sum
//!import rows_columns

@group(0) @binding(0) var<uniform> params: RowsColumnsParams;
@group(0) @binding(1) var<storage, read> prediction: array<f32>;
@group(0) @binding(2) var<storage, read> expected: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = linear_workgroup(workgroup, workgroups);
    if row >= params.rows {
        return;
    }
    var sum = 0.0;
    for (var column = lane; column < params.columns; column += 64u) {
        let i = row * params.columns + column;
        let difference = prediction[i] - expected[i];
        sum += difference * difference;
    }
    sum = block_sum(lane, vec2<f32>(sum, 0.0)).x;
    if lane == 0u {
        loss[row] = weight[row] * sum / f32(params.columns);
    }
}
