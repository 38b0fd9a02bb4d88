// For GPUs: tiles in workgroup memory, loaded element by element, so for operands of any shape.
//
// Loads past an edge repeat the last row or column, and their results are not stored; past the end of K, A
// counts as zero.
//!import grid
//!import matmul
//!import operands
//!import weights
//!import precision
//!import epilogue
//!import tiles

// Numbers of the epilogue, of the type of weights and of the precision.
const EPILOGUE: u32 = 0u;
const WEIGHTS: u32 = 0u;
const PRECISION: u32 = 0u;

// The (k, row or column) of a tile that an invocation loads in each of four rounds: neighbouring invocations
// read neighbouring addresses.
fn place(round: u32, lane: u32, k_is_contiguous: bool) -> vec2<u32> {
    let along_k = vec2<u32>(lane % DEPTH, lane / DEPTH + round * 16u);
    let across_k = vec2<u32>(lane / TILE + round * 4u, lane % TILE);
    return select(across_k, along_k, k_is_contiguous);
}

fn load_tiles(batch: u32, first: vec2<u32>, start: u32, inner: u32, lane: u32) {
    for (var round = 0u; round < 4u; round++) {
        let from_a = place(round, lane, params.a_k == 1u);
        let a_k = start + from_a.x;
        let a_row = min(first.x + from_a.y, params.m - 1u);
        let a_at = batch * params.a_batch + a_row * params.a_row + min(a_k, inner - 1u) * params.a_k;
        tile_a[from_a.x * STRIDE + from_a.y] = select(0.0, rounded(a[a_at]), a_k < inner);
        let from_b = place(round, lane, params.b_k == 1u);
        let b_k = min(start + from_b.x, inner - 1u);
        let b_column = min(first.y + from_b.y, params.n - 1u);
        tile_b[from_b.x * STRIDE + from_b.y] =
            rounded(b_at(batch * params.b_batch + b_k * params.b_k + b_column * params.b_column));
    }
}
