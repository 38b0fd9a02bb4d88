// Shared by the attention kernels with several rows per subgroup. The kernel defines HEAD_DIM and SUBGROUP.
//!import attention_params

@group(0) @binding(1) var<storage, read> qkv: array<f32>;

// Registers of each lane per row.
const CHUNKS: u32 = (HEAD_DIM + SUBGROUP - 1u) / SUBGROUP;
