// Unpacks the numbers that to_half packed.
//!import grid
//!import half
//!import elements

@group(0) @binding(0) var<uniform> params: ElementsParams;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = 2u * (linear_workgroup(workgroup, workgroups) * 64u + lane);
    if first >= params.elements {
        return;
    }
    let word = words[first / 2u];
    y[first] = half_value(word & 0xffffu);
    if first + 1u < params.elements {
        y[first + 1u] = half_value(word >> 16u);
    }
}
