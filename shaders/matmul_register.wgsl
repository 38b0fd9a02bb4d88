// A 4x4 tile in the registers of each invocation, without workgroup memory, barriers or subgroups: runs
// everywhere, and reasonably well where barriers are expensive.
//
// Loads past an edge repeat the last row or column, and their results are not stored.
//!import grid
//!import matmul
//!import operands
//!import weights
//!import precision
//!import epilogue

// Numbers of the epilogue, of the type of weights and of the precision.
const EPILOGUE: u32 = 0u;
const WEIGHTS: u32 = 0u;
const PRECISION: u32 = 0u;

fn store_row(batch: u32, row: u32, column: u32, sums: vec4<f32>) {
    store(batch, row, column, sums.x);
    store(batch, row, column + 1u, sums.y);
    store(batch, row, column + 2u, sums.z);
    store(batch, row, column + 3u, sums.w);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = tile_of(linear_workgroup(workgroup, workgroups) * 64u + lane);
    let batch = tile.x;
    if batch >= params.batches {
        return;
    }
    let row = tile.y * 4u;
    let column = tile.z * 4u;

    let rows = min(vec4<u32>(row, row + 1u, row + 2u, row + 3u), vec4<u32>(params.m - 1u));
    let columns = min(vec4<u32>(column, column + 1u, column + 2u, column + 3u), vec4<u32>(params.n - 1u));
    var a_at = vec4<u32>(batch * params.a_batch) + rows * params.a_row;
    var b_place = vec4<u32>(batch * params.b_batch) + columns * params.b_column;

    var sums_0 = vec4<f32>();
    var sums_1 = vec4<f32>();
    var sums_2 = vec4<f32>();
    var sums_3 = vec4<f32>();
    let inner = inner_size(batch);
    for (var k = 0u; k < inner; k++) {
        let b_k = rounded_four(vec4<f32>(b_at(b_place.x), b_at(b_place.y), b_at(b_place.z), b_at(b_place.w)));
        let a_k = rounded_four(vec4<f32>(a[a_at.x], a[a_at.y], a[a_at.z], a[a_at.w]));
        sums_0 = fma(vec4<f32>(a_k.x), b_k, sums_0);
        sums_1 = fma(vec4<f32>(a_k.y), b_k, sums_1);
        sums_2 = fma(vec4<f32>(a_k.z), b_k, sums_2);
        sums_3 = fma(vec4<f32>(a_k.w), b_k, sums_3);
        a_at += vec4<u32>(params.a_k);
        b_place += vec4<u32>(params.b_k);
    }

    store_row(batch, row, column, sums_0);
    store_row(batch, row + 1u, column, sums_1);
    store_row(batch, row + 2u, column, sums_2);
    store_row(batch, row + 3u, column, sums_3);
}
