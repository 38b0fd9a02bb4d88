// The parameters of the attention kernels. `blocks` is the number of workgroups per head.
struct AttentionParams {
    batches: u32,
    tokens: u32,
    heads: u32,
    blocks: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: AttentionParams;
