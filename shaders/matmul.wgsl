// C = A·B (+ bias), or C += A·B. A tile of 4x4 in the registers of each invocation, no workgroup memory and
// no barrier: runs well where barriers are dear.
//
// Rows, columns and K have strides, so transposes cost nothing here. Loads beyond an edge repeat the last
// row or column; their results are not stored.
//!import grid

struct Params {
    batches: u32,
    m: u32,
    n: u32,
    k: u32,
    a_row: u32,
    a_k: u32,
    b_k: u32,
    b_column: u32,
    tiles_m: u32,
    tiles_n: u32,
    has_bias: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> c: array<f32>;

fn store(index: u32, column: u32, sum: f32) {
    var value = sum;
    if params.has_bias == 1u {
        value += bias[column];
    }
    if params.accumulate == 1u {
        value += c[index];
    }
    c[index] = value;
}

fn store_row(start: u32, row: u32, column: u32, sums: vec4<f32>) {
    if row >= params.m {
        return;
    }
    let index = start + row * params.n + column;
    store(index, column, sums.x);
    if column + 1u < params.n {
        store(index + 1u, column + 1u, sums.y);
    }
    if column + 2u < params.n {
        store(index + 2u, column + 2u, sums.z);
    }
    if column + 3u < params.n {
        store(index + 3u, column + 3u, sums.w);
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = linear_workgroup(workgroup, workgroups) * 64u + lane;
    let tiles = params.tiles_m * params.tiles_n;
    let batch = index / tiles;
    if batch >= params.batches {
        return;
    }
    let tile = index % tiles;
    let row = (tile / params.tiles_n) * 4u;
    let column = (tile % params.tiles_n) * 4u;

    let rows = min(vec4<u32>(row, row + 1u, row + 2u, row + 3u), vec4<u32>(params.m - 1u));
    let columns = min(vec4<u32>(column, column + 1u, column + 2u, column + 3u), vec4<u32>(params.n - 1u));
    var a_at = vec4<u32>(batch * params.m * params.k) + rows * params.a_row;
    var b_at = vec4<u32>(batch * params.k * params.n) + columns * params.b_column;

    var sums_0 = vec4<f32>();
    var sums_1 = vec4<f32>();
    var sums_2 = vec4<f32>();
    var sums_3 = vec4<f32>();
    for (var k = 0u; k < params.k; k++) {
        let b_k = vec4<f32>(b[b_at.x], b[b_at.y], b[b_at.z], b[b_at.w]);
        sums_0 = fma(vec4<f32>(a[a_at.x]), b_k, sums_0);
        sums_1 = fma(vec4<f32>(a[a_at.y]), b_k, sums_1);
        sums_2 = fma(vec4<f32>(a[a_at.z]), b_k, sums_2);
        sums_3 = fma(vec4<f32>(a[a_at.w]), b_k, sums_3);
        a_at += vec4<u32>(params.a_k);
        b_at += vec4<u32>(params.b_k);
    }

    let start = batch * params.m * params.n;
    store_row(start, row, column, sums_0);
    store_row(start, row + 1u, column, sums_1);
    store_row(start, row + 2u, column, sums_2);
    store_row(start, row + 3u, column, sums_3);
}
