// Shared by all matmul kernels. Rows, columns and K have strides, so transposes cost nothing. What happens to an
// element is up to the epilogue, a file in shaders/epilogues that declares the other bindings and how to `store`.

struct MatMulParams {
    // Independent products: a batch, or slices of K of one product whose results are summed later.
    batches: u32,
    m: u32,
    n: u32,
    k: u32,
    a_batch: u32,
    a_row: u32,
    a_k: u32,
    b_batch: u32,
    b_k: u32,
    b_column: u32,
    tiles_m: u32,
    tiles_n: u32,
    // K of one slice, and the distance to the next slice (0 in a batch).
    k_slice: u32,
    k_step: u32,
    has_bias: u32,
    accumulate: u32,
    // Rows that share a gate.
    tokens: u32,
    // Whether the epilogue also writes the product itself.
    keep: u32,
}

@group(0) @binding(0) var<uniform> params: MatMulParams;
@group(0) @binding(3) var<storage, read> bias: array<f32>;

// Batch, tile row and tile column of a tile.
fn tile_of(index: u32) -> vec3<u32> {
    let tiles = params.tiles_m * params.tiles_n;
    let tile = index % tiles;
    return vec3<u32>(index / tiles, tile / params.tiles_n, tile % params.tiles_n);
}

// The same in bands of some rows of tiles, column by column. The workgroups that run at the same time then have as few rows
// of A and columns of B between them as is possible, and GPUs find both in their last cache.
fn tile_in_band(index: u32) -> vec3<u32> {
    let tiles = params.tiles_m * params.tiles_n;
    let tile = index % tiles;
    let first = tile / (BAND * params.tiles_n) * BAND;
    let rows = min(BAND, params.tiles_m - first);
    let within = tile - first * params.tiles_n;
    return vec3<u32>(index / tiles, first + within % rows, within / rows);
}

const BAND: u32 = 8u;

// Number of products summed in each element of this batch.
fn inner_size(batch: u32) -> u32 {
    return min(params.k_slice, params.k - batch * params.k_step);
}

// Tiles extend past the edges of C.
fn is_beyond(row: u32, column: u32) -> bool {
    return row >= params.m || column >= params.n;
}

fn with_bias(sum: f32, column: u32) -> f32 {
    if params.has_bias == 1u {
        return sum + bias[column];
    }
    return sum;
}
