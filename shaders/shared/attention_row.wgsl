// Shared by the attention kernels with one invocation per row. The kernel defines HEAD_DIM, and `results`, of
// which it writes a head at a time.
//!import attention_params
//!import grid

@group(0) @binding(1) var<storage, read> qkv: array<Pack>;

// A head in registers, four elements at a time.
const CHUNKS: u32 = (HEAD_DIM + 3u) / 4u;

// The row of an invocation.
struct Row {
    // False for an invocation that has none.
    is_any: bool,
    // Among the rows of its head.
    row: u32,
    // The head among those of all samples.
    head_index: u32,
    // Where q of this head starts in token 0 of its sample; k and v follow at multiples of the width.
    q_start: u32,
    // Where o of this head starts in token 0 of its sample.
    o_start: u32,
    // Of a token's q, of its k, of its v, and of its o.
    width: u32,
}

// A workgroup owns rows of one head. So whatever its invocations read of other rows depends only on the workgroup, and
// GPUs read it once for all of them.
fn own_row(workgroup: vec3<u32>, workgroups: vec3<u32>, lane: u32) -> Row {
    let index = linear_workgroup(workgroup, workgroups);
    let head_index = index / params.blocks;
    let batch = head_index / params.heads;
    let head = head_index % params.heads;
    let row = (index % params.blocks) * 64u + lane;
    let width = params.heads * HEAD_DIM;
    let o_start = batch * params.tokens * width + head * HEAD_DIM;
    let q_start = batch * params.tokens * 3u * width + head * HEAD_DIM;
    return Row(batch < params.batches && row < params.tokens, row, head_index, q_start, o_start, width);
}

fn total(x: vec4<f32>) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}
