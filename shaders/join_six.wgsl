// Six tensors [rows, columns] to y [rows, 6 columns].
//!import grid
//!import rows_columns

@group(0) @binding(0) var<uniform> params: RowsColumnsParams;
@group(0) @binding(1) var<storage, read> part_0: array<f32>;
@group(0) @binding(2) var<storage, read> part_1: array<f32>;
@group(0) @binding(3) var<storage, read> part_2: array<f32>;
@group(0) @binding(4) var<storage, read> part_3: array<f32>;
@group(0) @binding(5) var<storage, read> part_4: array<f32>;
@group(0) @binding(6) var<storage, read> part_5: array<f32>;
@group(0) @binding(7) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i < params.rows * params.columns {
        let first = i / params.columns * 6u * params.columns + i % params.columns;
        y[first] = part_0[i];
        y[first + 1u * params.columns] = part_1[i];
        y[first + 2u * params.columns] = part_2[i];
        y[first + 3u * params.columns] = part_3[i];
        y[first + 4u * params.columns] = part_4[i];
        y[first + 5u * params.columns] = part_5[i];
    }
}
