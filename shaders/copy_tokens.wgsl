// Copies x to y for some tokens and columns of each sample, or fills them with zeros: one part of tensors joined along
// tokens and columns, or of one that is split. A tensor is [batches, tokens, stride]; the part starts at a token and a
// column of it.
//!import grid

struct CopyTokensParams {
    batches: u32,
    tokens: u32,
    columns: u32,
    from_tokens: u32,
    from_token: u32,
    from_stride: u32,
    from_column: u32,
    to_tokens: u32,
    to_token: u32,
    to_stride: u32,
    to_column: u32,
    is_present: u32,
}

@group(0) @binding(0) var<uniform> params: CopyTokensParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    let row = i / params.columns;
    let column = i % params.columns;
    let batch = row / params.tokens;
    let token = row % params.tokens;
    if batch >= params.batches {
        return;
    }
    var value = 0.0;
    if params.is_present == 1u {
        let from_row = batch * params.from_tokens + params.from_token + token;
        value = x[from_row * params.from_stride + params.from_column + column];
    }
    let to_row = batch * params.to_tokens + params.to_token + token;
    y[to_row * params.to_stride + params.to_column + column] = value;
}
