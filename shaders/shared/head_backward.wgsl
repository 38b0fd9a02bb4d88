// The same as head for the gradient of o.
fn load_d_o(start: u32, chunk: u32) -> vec4<f32> {
    let i = start + elements(chunk);
    return vec4<f32>(d_o[i.x], d_o[i.y], d_o[i.z], d_o[i.w]);
}
