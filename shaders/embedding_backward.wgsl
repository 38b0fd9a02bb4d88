// Adds each row of dy to the row of d_table that it was looked up from. One invocation per element of the table
// walks over all rows: no atomics, and always the same order.
//!import grid

struct EmbeddingBackwardParams {
    entries: u32,
    columns: u32,
    rows: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<uniform> params: EmbeddingBackwardParams;
@group(0) @binding(1) var<storage, read> indices: array<u32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> d_table: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i >= params.entries * params.columns {
        return;
    }
    let entry = i / params.columns;
    let column = i % params.columns;
    var sum = 0.0;
    for (var row = 0u; row < params.rows; row++) {
        if indices[row] == entry {
            sum += dy[row * params.columns + column];
        }
    }
    if params.accumulate == 1u {
        sum += d_table[i];
    }
    d_table[i] = sum;
}
