// For kernels whose invocations have one element each, or four if `PACKED` is 1. Tensors have `params.elements / PACK` of
// what `Pack` is, and their rows consist of whole ones.
//!import grid
//!import pack

const LANES: u32 = 256u;
