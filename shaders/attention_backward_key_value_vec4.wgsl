// attention_backward_key_value, four elements at a time.
//!import head_vec4
//!import head_backward_vec4
//!import attention_backward_key_value

const HEAD_DIM: u32 = 8u;
