// Gradient of layer norm + modulation with respect to shift and scale [batch, columns]: d_shift = sum of dy over
// tokens, d_scale = sum of dy n. Tokens are the rows of row_sums; a gradient that is not needed is not written.
//!import grid
//!import row_sums

struct LayerNormBackwardModulationParams {
    outer: u32,
    rows: u32,
    columns: u32,
    chunk: u32,
    chunks: u32,
    wants_shift: u32,
    wants_scale: u32,
}

@group(0) @binding(0) var<uniform> params: LayerNormBackwardModulationParams;
@group(0) @binding(1) var<storage, read> x: array<Pack>;
@group(0) @binding(2) var<storage, read> stats: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<Pack>;
@group(0) @binding(4) var<storage, read_write> d_shift: array<Pack>;
@group(0) @binding(5) var<storage, read_write> d_scale: array<Pack>;

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
    var sum_n = Pack();
    for (var token = chunk.first_row; token < chunk.end; token++) {
        let row = chunk.outer * params.rows + token;
        let at = at_row(chunk, token);
        let gradient = dy[at];
        let normal = (x[at] - Pack(stats[2u * row])) * stats[2u * row + 1u];
        sum += gradient;
        sum_n = fma(gradient, normal, sum_n);
    }
    if params.wants_shift == 1u {
        d_shift[i] = sum;
    }
    if params.wants_scale == 1u {
        d_scale[i] = sum_n;
    }
}
