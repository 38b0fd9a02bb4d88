// Shared by the attention kernels with several rows per subgroup. The kernel defines HEAD_DIM and SUBGROUP.

// Registers of each lane per row.
const CHUNKS: u32 = (HEAD_DIM + SUBGROUP - 1u) / SUBGROUP;

struct AttentionSubgroupParams {
    batches: u32,
    tokens: u32,
    heads: u32,
    blocks: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: AttentionSubgroupParams;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;
