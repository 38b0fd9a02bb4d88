// Heads in memory, element by element. head_vec4 has the same names for heads that consist of complete vectors: a kernel
// that imports either is written once.
alias Pack = f32;

// Positions of four elements of a head; those past its end repeat the last one.
fn elements(chunk: u32) -> vec4<u32> {
    return min(vec4<u32>(4u * chunk) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(HEAD_DIM - 1u));
}

// False past the end of the head, where one factor of every product is set to zero.
fn inside(chunk: u32) -> vec4<bool> {
    return vec4<u32>(4u * chunk) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(HEAD_DIM);
}

fn load_qkv(start: u32, chunk: u32) -> vec4<f32> {
    let i = start + elements(chunk);
    return vec4<f32>(qkv[i.x], qkv[i.y], qkv[i.z], qkv[i.w]);
}

fn store(start: u32, chunk: u32, y: vec4<f32>) {
    let i = 4u * chunk;
    results[start + i] = y.x;
    if i + 1u < HEAD_DIM {
        results[start + i + 1u] = y.y;
    }
    if i + 2u < HEAD_DIM {
        results[start + i + 2u] = y.z;
    }
    if i + 3u < HEAD_DIM {
        results[start + i + 3u] = y.w;
    }
}
