// attention_backward_query, four elements at a time.
//!import head_vec4
//!import head_backward_vec4
//!import attention_backward_query

const HEAD_DIM: u32 = 8u;

fn load_o(start: u32, chunk: u32) -> vec4<f32> {
    return o[start / 4u + chunk];
}
