// attention_backward_key_value, element by element.
//!import head
//!import head_backward
//!import attention_backward_key_value

const HEAD_DIM: u32 = 8u;
