// attention, four elements at a time.
//!import head_vec4
//!import attention

const HEAD_DIM: u32 = 8u;
