// d_gate [batch, columns] = sum of dy h over tokens, which are the rows of row_sums.
//!import grid
//!import row_sums
//!import row_sums_params

@group(0) @binding(0) var<uniform> params: RowSumsParams;
@group(0) @binding(1) var<storage, read> h: array<Pack>;
@group(0) @binding(2) var<storage, read> dy: array<Pack>;
@group(0) @binding(3) var<storage, read_write> d_gate: array<Pack>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if is_beyond(i) {
        return;
    }
    let chunk = chunk_of(i);
    var sum = Pack();
    for (var token = chunk.first_row; token < chunk.end; token++) {
        let at = at_row(chunk, token);
        sum = fma(dy[at], h[at], sum);
    }
    d_gate[i] = sum;
}
