// For kernels whose invocations have one element each, or four if `PACKED` is 1. Tensors have `params.elements / PACK` of
// what `Pack` is, and their rows consist of whole ones. Software drivers prefer small workgroups; GPUs need many loads
// under way.
//!import grid
//!import pack

const LANES: u32 = 64u * PACK;
