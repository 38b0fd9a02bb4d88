// Heads in memory, four elements at a time. Their size is a multiple of 4, and so is where they start.
alias Pack = vec4<f32>;

fn inside(chunk: u32) -> vec4<bool> {
    return vec4<bool>(true);
}

fn load_qkv(start: u32, chunk: u32) -> vec4<f32> {
    return qkv[start / 4u + chunk];
}

fn store(start: u32, chunk: u32, y: vec4<f32>) {
    results[start / 4u + chunk] = y;
}
