// For drivers where loads dominate the cost: a workgroup of one subgroup with its lanes across the columns.
// Each lane loads a different k of A's rows and the lanes broadcast their values in turn, so that one load
// serves SUBGROUP steps of K.
//
// Loads past an edge repeat the last row or column, and their results are not stored; past the end of K, A
// counts as zero. All lanes take part in every shuffle.
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
const SUBGROUP: u32 = 8u;
// Rows of C per subgroup, and columns per lane, SUBGROUP apart.
const ROWS: u32 = 16u;
const COLUMNS: u32 = 2u;

@compute @workgroup_size(SUBGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let tile = tile_of(linear_workgroup(workgroup, workgroups));
    let batch = tile.x;
    if batch >= params.batches {
        return;
    }
    let row = tile.y * ROWS;
    let column = tile.z * SUBGROUP * COLUMNS + lane;

    var a_at: array<u32, ROWS>;
    var sums: array<array<f32, COLUMNS>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        a_at[r] = batch * params.a_batch + min(row + r, params.m - 1u) * params.a_row;
    }
    var b_place: array<u32, COLUMNS>;
    for (var j = 0u; j < COLUMNS; j++) {
        b_place[j] = batch * params.b_batch + min(column + j * SUBGROUP, params.n - 1u) * params.b_column;
    }

    let inner = inner_size(batch);
    for (var start = 0u; start < inner; start += SUBGROUP) {
        let k_of_lane = min(start + lane, inner - 1u);
        let is_inside = start + lane < inner;
        var a_of_lane: array<f32, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
            a_of_lane[r] = select(0.0, rounded(a[a_at[r] + k_of_lane * params.a_k]), is_inside);
        }
        for (var step = 0u; step < SUBGROUP; step++) {
            let k = min(start + step, inner - 1u);
            var b_of_lane: array<f32, COLUMNS>;
            for (var j = 0u; j < COLUMNS; j++) {
                b_of_lane[j] = rounded(b_at(b_place[j] + k * params.b_k));
            }
            for (var r = 0u; r < ROWS; r++) {
                let a_k = subgroupShuffle(a_of_lane[r], step);
                for (var j = 0u; j < COLUMNS; j++) {
                    sums[r][j] = fma(a_k, b_of_lane[j], sums[r][j]);
                }
            }
        }
    }

    for (var r = 0u; r < ROWS; r++) {
        for (var j = 0u; j < COLUMNS; j++) {
            store(batch, row + r, column + j * SUBGROUP, sums[r][j]);
        }
    }
}
