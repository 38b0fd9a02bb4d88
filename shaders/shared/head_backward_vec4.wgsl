// The same as head_vec4 for the gradient of o.
fn load_d_o(start: u32, chunk: u32) -> vec4<f32> {
    return d_o[start / 4u + chunk];
}
