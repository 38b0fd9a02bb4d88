// Shared by the backward kernels of attention with one invocation per row. The kernel defines d_o and d_qkv.

fn load_d_o(start: u32, chunk: u32) -> vec4<f32> {
    let i = start + elements(chunk);
    return vec4<f32>(d_o[i.x], d_o[i.y], d_o[i.z], d_o[i.w]);
}

fn store(start: u32, chunk: u32, y: vec4<f32>) {
    let i = 4u * chunk;
    d_qkv[start + i] = y.x;
    if i + 1u < HEAD_DIM {
        d_qkv[start + i + 1u] = y.y;
    }
    if i + 2u < HEAD_DIM {
        d_qkv[start + i + 2u] = y.z;
    }
    if i + 3u < HEAD_DIM {
        d_qkv[start + i + 3u] = y.w;
    }
}
