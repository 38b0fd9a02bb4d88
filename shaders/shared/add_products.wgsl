// Adds one step of K to the 8x8 sums of an invocation: eight rows, and in each the columns of two vectors. The kernel
// says which columns those are.
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
