// Softmax of factor x over the columns of each row, one workgroup per row.
//!import block_max
//!import block_sum
//!import decayed
//!import grid

struct SoftmaxRowsParams {
    rows: u32,
    columns: u32,
    factor: f32,
}

@group(0) @binding(0) var<uniform> params: SoftmaxRowsParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

// Whether an element makes a row's softmax undefined: NaN, or the infinity that becomes the largest logit. `max` and
// `exp` may hide them, and only loaded bits can tell: compilers may assume that arithmetic yields neither.
fn has_no_softmax(bits: u32) -> bool {
    let infinity = select(0xff800000u, 0x7f800000u, params.factor > 0.0);
    return (bits & 0x7fffffffu) > 0x7f800000u || bits == infinity;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = linear_workgroup(workgroup, workgroups);
    if row >= params.rows {
        return;
    }
    let start = row * params.columns;
    var largest = -3.0e38;
    for (var i = lane; i < params.columns; i += 64u) {
        largest = max(largest, params.factor * x[start + i]);
    }
    largest = block_max(lane, largest);
    var sum = 0.0;
    var lost = 0.0;
    for (var i = lane; i < params.columns; i += 64u) {
        let element = x[start + i];
        sum += decayed(params.factor * element - largest);
        lost += select(0.0, 1.0, has_no_softmax(bitcast<u32>(element)));
    }
    let sums = block_sum(lane, vec2<f32>(sum, lost));
    var nan = 0x7fc00000u;
    for (var i = lane; i < params.columns; i += 64u) {
        let probability = decayed(params.factor * x[start + i] - largest) / sums.x;
        y[start + i] = select(probability, bitcast<f32>(nan), sums.y > 0.0);
    }
}
