// Fused multiply-adds as fast as the device can issue them: 8 independent chains of vec4 per invocation, without
// stalls. The factors are inputs, so that no compiler can fold the chain. 64 FLOPs per round and invocation.

struct RooflineFmaParams {
    rounds: u32,
    factor: f32,
    summand: f32,
}

@group(0) @binding(0) var<uniform> params: RooflineFmaParams;
@group(0) @binding(1) var<storage, read_write> results: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) invocation: vec3<u32>) {
    let factor = vec4f(params.factor);
    let summand = vec4f(params.summand);
    let start = vec4f(f32(invocation.x));
    var a = start;
    var b = start + 1.0;
    var c = start + 2.0;
    var d = start + 3.0;
    var e = start + 4.0;
    var f = start + 5.0;
    var g = start + 6.0;
    var h = start + 7.0;
    for (var round = 0u; round < params.rounds; round++) {
        a = fma(a, factor, summand);
        b = fma(b, factor, summand);
        c = fma(c, factor, summand);
        d = fma(d, factor, summand);
        e = fma(e, factor, summand);
        f = fma(f, factor, summand);
        g = fma(g, factor, summand);
        h = fma(h, factor, summand);
    }
    let all = a + b + c + d + e + f + g + h;
    results[invocation.x] = all.x + all.y + all.z + all.w;
}
