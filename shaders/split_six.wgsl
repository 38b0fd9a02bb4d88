// x [rows, 6 columns] to six tensors [rows, columns]: the shifts, scales and gates of a block in one dispatch.
//!import grid
//!import rows_columns

@group(0) @binding(0) var<uniform> params: RowsColumnsParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> part_0: array<f32>;
@group(0) @binding(3) var<storage, read_write> part_1: array<f32>;
@group(0) @binding(4) var<storage, read_write> part_2: array<f32>;
@group(0) @binding(5) var<storage, read_write> part_3: array<f32>;
@group(0) @binding(6) var<storage, read_write> part_4: array<f32>;
@group(0) @binding(7) var<storage, read_write> part_5: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i < params.rows * params.columns {
        let first = i / params.columns * 6u * params.columns + i % params.columns;
        part_0[i] = x[first];
        part_1[i] = x[first + 1u * params.columns];
        part_2[i] = x[first + 2u * params.columns];
        part_3[i] = x[first + 3u * params.columns];
        part_4[i] = x[first + 4u * params.columns];
        part_5[i] = x[first + 5u * params.columns];
    }
}
