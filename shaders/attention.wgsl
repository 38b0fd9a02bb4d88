// attention, element by element.
//!import head
//!import attention

const HEAD_DIM: u32 = 8u;
