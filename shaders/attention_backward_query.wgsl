// attention_backward_query, element by element.
//!import head
//!import head_backward
//!import attention_backward_query

const HEAD_DIM: u32 = 8u;

fn load_o(start: u32, chunk: u32) -> vec4<f32> {
    let i = start + elements(chunk);
    return vec4<f32>(o[i.x], o[i.y], o[i.z], o[i.w]);
}
