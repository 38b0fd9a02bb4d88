// y [rows, columns] = table[indices], row by row.
//!import grid

struct EmbeddingParams {
    elements: u32,
    columns: u32,
    entries: u32,
}

@group(0) @binding(0) var<uniform> params: EmbeddingParams;
@group(0) @binding(1) var<storage, read> table: array<f32>;
@group(0) @binding(2) var<storage, read> indices: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i < params.elements {
        // Never reads past the table, whatever the index.
        let entry = min(indices[i / params.columns], params.entries - 1u);
        y[i] = table[entry * params.columns + i % params.columns];
    }
}
