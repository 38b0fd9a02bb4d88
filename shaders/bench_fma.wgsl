// As many fused multiply-adds as the device can do: each invocation has 16 chains that do not wait for each
// other. The factors come from the host, so that no compiler can guess the result.
//!import grid

struct Params {
    rounds: u32,
    // As bits of f32.
    factor: u32,
    summand: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> results: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i >= arrayLength(&results) {
        return;
    }
    let factor = vec4<f32>(bitcast<f32>(params.factor));
    let summand = vec4<f32>(bitcast<f32>(params.summand));
    var a = vec4<f32>(f32(i));
    var b = a + 1.0;
    var c = a + 2.0;
    var d = a + 3.0;
    // 128 floating-point operations a round: 4 x 16 multiply-adds.
    for (var round = 0u; round < params.rounds; round++) {
        a = fma(a, factor, summand);
        b = fma(b, factor, summand);
        c = fma(c, factor, summand);
        d = fma(d, factor, summand);
        a = fma(a, factor, summand);
        b = fma(b, factor, summand);
        c = fma(c, factor, summand);
        d = fma(d, factor, summand);
        a = fma(a, factor, summand);
        b = fma(b, factor, summand);
        c = fma(c, factor, summand);
        d = fma(d, factor, summand);
        a = fma(a, factor, summand);
        b = fma(b, factor, summand);
        c = fma(c, factor, summand);
        d = fma(d, factor, summand);
    }
    results[i] = dot(a + b + c + d, vec4<f32>(1.0));
}
