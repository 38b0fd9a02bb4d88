// Philox4x32-10 (Salmon et al., SC 2011), as in src/flow/noise.rs: every device computes the same words.

// The 64-bit product of two 32-bit words as (high, low), from 16-bit halves: WGSL has no wider integers.
fn wide_product(a: u32, b: u32) -> vec2<u32> {
    let a_low = a & 0xffffu;
    let a_high = a >> 16u;
    let b_low = b & 0xffffu;
    let b_high = b >> 16u;
    let low = a_low * b_low;
    // Cannot overflow, here or below: (2^16 - 1)^2 + 2^16 - 1 < 2^32.
    let middle = a_high * b_low + (low >> 16u);
    let middle_low = a_low * b_high + (middle & 0xffffu);
    let high = a_high * b_high + (middle >> 16u) + (middle_low >> 16u);
    return vec2<u32>(high, (middle_low << 16u) | (low & 0xffffu));
}

fn philox4x32_10(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
    var c = counter;
    var k = key;
    for (var round = 0u; round < 10u; round++) {
        let product_0 = wide_product(0xd2511f53u, c.x);
        let product_1 = wide_product(0xcd9e8d57u, c.z);
        c = vec4<u32>(product_1.x ^ c.y ^ k.x, product_1.y, product_0.x ^ c.w ^ k.y, product_0.y);
        k += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}
