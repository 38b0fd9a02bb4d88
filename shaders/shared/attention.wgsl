// Shared by the attention kernels with one invocation per row. The kernel defines HEAD_DIM, and
// `results`, of which it writes a head at a time.

struct AttentionParams {
    batches: u32,
    tokens: u32,
    heads: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;

// A head in registers, four elements at a time.
const CHUNKS: u32 = (HEAD_DIM + 3u) / 4u;

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

fn total(x: vec4<f32>) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}
