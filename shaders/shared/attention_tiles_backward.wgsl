// Shared by the backward kernels of attention with tiles.
//!import attention_tiles

@group(0) @binding(1) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> logsumexp: array<f32>;
@group(0) @binding(3) var<storage, read> d_o: array<vec4<f32>>;

// Numbers of parts.
const Q: u32 = 0u;
const K: u32 = 1u;
const V: u32 = 2u;
const D_O: u32 = 3u;

fn load(own: Own, part: u32, token: u32, chunk: u32) -> vec4<f32> {
    if part == D_O {
        return d_o[own.o_start + token * own.width + chunk];
    }
    return qkv[own.q_start + (token * 3u + part) * own.width + chunk];
}

// One number of each query of a head, for four queries. Past the end those of the last.
fn of_queries(own: Own, queries: vec4<u32>) -> vec4<u32> {
    return own.head_index * params.tokens + min(queries, vec4<u32>(params.tokens - 1u));
}
