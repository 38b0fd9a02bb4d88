// For graphics processors: 64x64 elements of C a workgroup, 16 steps of K at a time through workgroup
// memory, 4x4 elements in the registers of each invocation.
//
// The rows and columns of an invocation are 16 apart, so that neighbours read and write neighbouring
// addresses. Loads beyond an edge repeat the last row or column, whose results are not stored; beyond the
// end of K, A counts as zero. Every branch around a barrier is the same for the whole workgroup.
//!import grid
//!import matmul
//!import epilogue

// Which epilogue that is.
const EPILOGUE: u32 = 0u;
const TILE: u32 = 64u;
const DEPTH: u32 = 16u;
// A row of the tiles in workgroup memory: one more than its elements, so that a column lies in different banks.
const STRIDE: u32 = TILE + 1u;

// [k][row] and [k][column].
var<workgroup> tile_a: array<f32, DEPTH * STRIDE>;
var<workgroup> tile_b: array<f32, DEPTH * STRIDE>;

// Which (k, row or column) of a tile an invocation loads in each of four rounds: neighbours take neighbours
// in memory.
fn place(round: u32, lane: u32, k_is_contiguous: bool) -> vec2<u32> {
    let along_k = vec2<u32>(lane % DEPTH, lane / DEPTH + round * 16u);
    let across_k = vec2<u32>(lane / TILE + round * 4u, lane % TILE);
    return select(across_k, along_k, k_is_contiguous);
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = tile_of(linear_workgroup(workgroup, workgroups));
    let batch = tile.x;
    if batch >= params.batches {
        return;
    }
    let first_row = tile.y * TILE;
    let first_column = tile.z * TILE;
    let row = lane / 16u;
    let column = lane % 16u;
    let inner = inner_size(batch);

    var sums_0 = vec4<f32>();
    var sums_1 = vec4<f32>();
    var sums_2 = vec4<f32>();
    var sums_3 = vec4<f32>();
    for (var start = 0u; start < inner; start += DEPTH) {
        for (var round = 0u; round < 4u; round++) {
            let from_a = place(round, lane, params.a_k == 1u);
            let a_k = start + from_a.x;
            let a_row = min(first_row + from_a.y, params.m - 1u);
            let a_at = batch * params.a_batch + a_row * params.a_row + min(a_k, inner - 1u) * params.a_k;
            tile_a[from_a.x * STRIDE + from_a.y] = select(0.0, a[a_at], a_k < inner);
            let from_b = place(round, lane, params.b_k == 1u);
            let b_k = min(start + from_b.x, inner - 1u);
            let b_column = min(first_column + from_b.y, params.n - 1u);
            tile_b[from_b.x * STRIDE + from_b.y] =
                b[batch * params.b_batch + b_k * params.b_k + b_column * params.b_column];
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k++) {
            let at_a = k * STRIDE + row;
            let at_b = k * STRIDE + column;
            let b_k = vec4<f32>(tile_b[at_b], tile_b[at_b + 16u], tile_b[at_b + 32u], tile_b[at_b + 48u]);
            sums_0 = fma(vec4<f32>(tile_a[at_a]), b_k, sums_0);
            sums_1 = fma(vec4<f32>(tile_a[at_a + 16u]), b_k, sums_1);
            sums_2 = fma(vec4<f32>(tile_a[at_a + 32u]), b_k, sums_2);
            sums_3 = fma(vec4<f32>(tile_a[at_a + 48u]), b_k, sums_3);
        }
        workgroupBarrier();
    }

    store_row(batch, first_row + row, first_column + column, sums_0);
    store_row(batch, first_row + row + 16u, first_column + column, sums_1);
    store_row(batch, first_row + row + 32u, first_column + column, sums_2);
    store_row(batch, first_row + row + 48u, first_column + column, sums_3);
}

fn store_row(batch: u32, row: u32, column: u32, sums: vec4<f32>) {
    store(batch, row, column, sums.x);
    store(batch, row, column + 16u, sums.y);
    store(batch, row, column + 32u, sums.z);
    store(batch, row, column + 48u, sums.w);
}
