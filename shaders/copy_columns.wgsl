// Copies `columns` columns of x [rows, from_stride] into y [rows, to_stride]: one part of a split or a
// concatenation.
//!import grid

struct CopyColumnsParams {
    rows: u32,
    columns: u32,
    from_stride: u32,
    from_offset: u32,
    to_stride: u32,
    to_offset: u32,
}

@group(0) @binding(0) var<uniform> params: CopyColumnsParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i < params.rows * params.columns {
        let row = i / params.columns;
        let column = i % params.columns;
        let from_row = row * params.from_stride + params.from_offset;
        let to_row = row * params.to_stride + params.to_offset;
        y[to_row + column] = x[from_row + column];
    }
}
