// x [outer, rows, columns] to y [outer, chunks, columns]: each invocation sums the rows of one chunk in one
// column.
//!import grid

struct SumRowsParams {
    outer: u32,
    rows: u32,
    columns: u32,
    chunk: u32,
    chunks: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<uniform> params: SumRowsParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i >= params.outer * params.chunks * params.columns {
        return;
    }
    let column = i % params.columns;
    let chunk = (i / params.columns) % params.chunks;
    let outer = i / params.columns / params.chunks;
    let first = chunk * params.chunk;
    let last = min(first + params.chunk, params.rows);
    var sum = 0.0;
    for (var row = first; row < last; row++) {
        sum += x[(outer * params.rows + row) * params.columns + column];
    }
    if params.accumulate == 1u {
        sum += y[i];
    }
    y[i] = sum;
}
