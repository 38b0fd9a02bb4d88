// For GPUs: tiles in workgroup memory, loaded as one vec4 of each operand per invocation.
//
// Loads past an edge repeat the last rows or columns, and their results are not stored; past the end of K, A
// counts as zero.
//!import grid
//!import matmul
//!import operands_vec4
//!import weights_vec4
//!import precision
//!import epilogue
//!import tiles

// Numbers of the epilogue, of the type of weights and of the precision.
const EPILOGUE: u32 = 0u;
const WEIGHTS: u32 = 0u;
const PRECISION: u32 = 0u;

// The (k, row or column) of a tile that an invocation loads first; three more follow it, along K or across it.
fn place(lane: u32, k_is_contiguous: bool) -> vec2<u32> {
    let along_k = vec2<u32>(lane % 4u * 4u, lane / 4u);
    let across_k = vec2<u32>(lane / 16u, lane % 16u * 4u);
    return select(across_k, along_k, k_is_contiguous);
}

// Where an invocation's four numbers go in a tile, and how far apart.
fn places(from_place: vec2<u32>, k_is_contiguous: bool) -> vec4<u32> {
    let step = select(1u, STRIDE, k_is_contiguous);
    return vec4<u32>(from_place.x * STRIDE + from_place.y) + vec4<u32>(0u, 1u, 2u, 3u) * step;
}

fn load_tiles(batch: u32, first: vec2<u32>, start: u32, inner: u32, lane: u32) {
    let a_along_k = params.a_k == 1u;
    let from_a = place(lane, a_along_k);
    let a_k = start + from_a.x;
    let a_row = min(first.x + from_a.y, params.m - select(4u, 1u, a_along_k));
    let a_last = inner - select(1u, 4u, a_along_k);
    let a_at = batch * params.a_batch + a_row * params.a_row + min(a_k, a_last) * params.a_k;
    let of_a = select(vec4<f32>(), rounded_four(a[a_at / 4u]), a_k < inner);
    let to_a = places(from_a, a_along_k);
    tile_a[to_a.x] = of_a.x;
    tile_a[to_a.y] = of_a.y;
    tile_a[to_a.z] = of_a.z;
    tile_a[to_a.w] = of_a.w;

    let b_along_k = params.b_k == 1u;
    let from_b = place(lane, b_along_k);
    let b_k = min(start + from_b.x, inner - select(1u, 4u, b_along_k));
    let b_column = min(first.y + from_b.y, params.n - select(4u, 1u, b_along_k));
    let b_at = (batch * params.b_batch + b_k * params.b_k + b_column * params.b_column) / 4u;
    let of_b = rounded_four(unpacked(b_packed_at(b_at), b_at));
    let to_b = places(from_b, b_along_k);
    tile_b[to_b.x] = of_b.x;
    tile_b[to_b.y] = of_b.y;
    tile_b[to_b.z] = of_b.z;
    tile_b[to_b.w] = of_b.w;
}
