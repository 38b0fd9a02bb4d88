// The 8x8 elements of C of an invocation: rows of two vectors, which consist of pairs of neighbouring columns. The
// kernel says how far apart those are (APART).

// One step of K.
fn add_products(sums: ptr<function, array<vec4<f32>, 16>>, a_k: array<vec4<f32>, 2>, b_0: vec4<f32>, b_1: vec4<f32>) {
    (*sums)[0] = fma(vec4<f32>(a_k[0].x), b_0, (*sums)[0]);
    (*sums)[1] = fma(vec4<f32>(a_k[0].x), b_1, (*sums)[1]);
    (*sums)[2] = fma(vec4<f32>(a_k[0].y), b_0, (*sums)[2]);
    (*sums)[3] = fma(vec4<f32>(a_k[0].y), b_1, (*sums)[3]);
    (*sums)[4] = fma(vec4<f32>(a_k[0].z), b_0, (*sums)[4]);
    (*sums)[5] = fma(vec4<f32>(a_k[0].z), b_1, (*sums)[5]);
    (*sums)[6] = fma(vec4<f32>(a_k[0].w), b_0, (*sums)[6]);
    (*sums)[7] = fma(vec4<f32>(a_k[0].w), b_1, (*sums)[7]);
    (*sums)[8] = fma(vec4<f32>(a_k[1].x), b_0, (*sums)[8]);
    (*sums)[9] = fma(vec4<f32>(a_k[1].x), b_1, (*sums)[9]);
    (*sums)[10] = fma(vec4<f32>(a_k[1].y), b_0, (*sums)[10]);
    (*sums)[11] = fma(vec4<f32>(a_k[1].y), b_1, (*sums)[11]);
    (*sums)[12] = fma(vec4<f32>(a_k[1].z), b_0, (*sums)[12]);
    (*sums)[13] = fma(vec4<f32>(a_k[1].z), b_1, (*sums)[13]);
    (*sums)[14] = fma(vec4<f32>(a_k[1].w), b_0, (*sums)[14]);
    (*sums)[15] = fma(vec4<f32>(a_k[1].w), b_1, (*sums)[15]);
}

fn store_row(batch: u32, row: u32, column: u32, left: vec4<f32>, right: vec4<f32>) {
    store(batch, row, column, left.x);
    store(batch, row, column + 1u, left.y);
    store(batch, row, column + APART, left.z);
    store(batch, row, column + APART + 1u, left.w);
    store(batch, row, column + 2u * APART, right.x);
    store(batch, row, column + 2u * APART + 1u, right.y);
    store(batch, row, column + 3u * APART, right.z);
    store(batch, row, column + 3u * APART + 1u, right.w);
}

// With zeros from step `rest` on, for a vector that starts at a step of K.
fn cut(x: vec4<f32>, step: u32, rest: u32, along_k: bool) -> vec4<f32> {
    return select(vec4<f32>(), x, step + select(vec4<u32>(), vec4<u32>(0u, 1u, 2u, 3u), along_k) < vec4<u32>(rest));
}
