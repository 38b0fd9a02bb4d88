// 64x64 elements of C per workgroup, 16 steps of K at a time through workgroup memory, 4x4 elements in the registers
// of each invocation. The kernel defines `load_tiles`, which loads the tiles of A and B that start at this row,
// column and step of K.
//
// The rows and columns of an invocation are 16 apart, so that neighbours read and write neighbouring
// addresses. Every branch around a barrier is the same for the entire workgroup.
const TILE: u32 = 64u;
const DEPTH: u32 = 16u;
// Row stride of the tiles in workgroup memory: one more than a row has, so that a column spans different banks.
const STRIDE: u32 = TILE + 1u;

// [k][row] and [k][column].
var<workgroup> tile_a: array<f32, DEPTH * STRIDE>;
var<workgroup> tile_b: array<f32, DEPTH * STRIDE>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = tile_in_band(linear_workgroup(workgroup, workgroups));
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
        load_tiles(batch, vec2<u32>(first_row, first_column), start, inner, lane);
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
