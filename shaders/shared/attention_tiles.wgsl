// Shared by the attention kernels of which a workgroup owns 64 rows of a head and walks over the others 32 at a time, both
// through workgroup memory and four elements at a time. Forward and for the gradient of the queries, it owns queries and
// walks over keys; for the gradients of keys and values it is the other way round. The kernel defines HEAD_DIM, a
// multiple of 4, `results` and `load`.
//
// An invocation owns rows `row`, + 16, + 32 and + 48: the elements of its vectors of weights. Of the 32 others it has
// `column`, + 8, + 16 and + 24, and of a row of results every eighth vector from `column`. So a vector that is read from
// workgroup memory serves 8 to 16 multiply-adds.
//
// Other rows come in increasing order from the first on, and those past the end have weights of zero: a row's bits depend
// only on its own sample. Every branch around a barrier is the same for the entire workgroup.
//!import attention_params
//!import decayed
//!import grid

// Vectors in a row of a head.
const CHUNKS: u32 = (HEAD_DIM + 3u) / 4u;
// Vectors of a row of results that an invocation owns, if all have as many.
const COLUMNS: u32 = (CHUNKS + 7u) / 8u;
// All sums of an invocation: four rows for each vector.
const SUMS: u32 = 4u * COLUMNS;
// Vectors of each row in workgroup memory for products of rows: at most 8, all slices as equal as possible.
const SLICES: u32 = (CHUNKS + 7u) / 8u;
const SLICE: u32 = (CHUNKS + SLICES - 1u) / SLICES;
// Odd, so that neighbouring rows start in different banks.
const STRIDE: u32 = SLICE | 1u;
// Other rows in workgroup memory for sums of rows: as many as have room between the weights and what lanes share.
const DEPTH: u32 = select(select(8u, 16u, CHUNKS <= 22u), 32u, CHUNKS <= 11u);

// Either slices of the owned rows, from 0 on, and of others, from OTHERS on; or the weights, from 0 on, and others from
// SUMMED on. Past them what lanes share about their rows. WebGPU grants 1024 vectors, Apple's A-series chips 1022.
const OTHERS: u32 = 64u * STRIDE;
const SUMMED: u32 = 512u;
const SHARED: u32 = 864u;
var<workgroup> tile: array<vec4<f32>, 992>;

// What a workgroup and an invocation own.
struct Own {
    lane: u32,
    // The first row of the workgroup.
    first: u32,
    row: u32,
    column: u32,
    // The head among those of all samples.
    head_index: u32,
    // In vectors: where q of this head starts in token 0 of its sample; k and v follow at multiples of the width.
    q_start: u32,
    // Where o of this head starts in token 0 of its sample.
    o_start: u32,
    // Of a token's q, of its k, of its v, and of its o.
    width: u32,
}

// False for a workgroup past the last head. Apart from `Own`, since a struct with a lane in it counts as different in every
// lane: then no barrier may follow a branch on it.
fn has_rows(workgroup: u32) -> bool {
    return workgroup / params.blocks < params.batches * params.heads;
}

fn own_rows(workgroup: u32, lane: u32) -> Own {
    let head_index = workgroup / params.blocks;
    let batch = head_index / params.heads;
    let head = head_index % params.heads * CHUNKS;
    let width = params.heads * CHUNKS;
    let o_start = batch * params.tokens * width + head;
    let q_start = batch * params.tokens * 3u * width + head;
    let first = workgroup % params.blocks * 64u;
    // Lanes that differ only in bit 0 have the same columns, and those that differ only in bit 1 the same rows: so NVIDIA's
    // GPUs read a vector for each of 32 lanes in two steps instead of four.
    let row = (lane & 1u) | ((lane >> 1u) & 2u) | ((lane >> 3u) & 12u);
    let column = ((lane >> 1u) & 1u) | ((lane >> 2u) & 6u);
    return Own(lane, first, row, column, head_index, q_start, o_start, width);
}

// The other rows of an invocation.
fn others(own: Own, first: u32) -> vec4<u32> {
    return first + own.column + vec4<u32>(0u, 8u, 16u, 24u);
}

// Copies `chunks` vectors of each of `rows` rows, from vector `offset` of row `first` on: at most 4 for each invocation. The
// last row stands for those past the end, which have no weight; zeros for vectors past the end of a row.
fn stage(own: Own, part: u32, first: u32, rows: u32, offset: u32, chunks: u32, stride: u32, to: u32) {
    let all = rows * chunks;
    let count = (all + 127u) / 128u;
    // No branch around a load, so that all are under way at the same time.
    var loaded: array<vec4<f32>, 4>;
    for (var n = 0u; n < count; n++) {
        let i = own.lane + 128u * n;
        let token = min(first + i / chunks, params.tokens - 1u);
        loaded[n] = load(own, part, token, min(offset + i % chunks, CHUNKS - 1u));
    }
    for (var n = 0u; n < count; n++) {
        let i = own.lane + 128u * n;
        if all % 128u == 0u || i < all {
            let is_any = CHUNKS % SLICE == 0u || offset + i % chunks < CHUNKS;
            tile[to + i / chunks * stride + i % chunks] = select(vec4<f32>(), loaded[n], is_any);
        }
    }
}

// Adds the products of four elements of the owned rows, by element, with those of another row.
fn add_products(sums: vec4<f32>, x: mat4x4<f32>, y: vec4<f32>) -> vec4<f32> {
    let first = fma(x[1], vec4<f32>(y.y), fma(x[0], vec4<f32>(y.x), sums));
    return fma(x[3], vec4<f32>(y.w), fma(x[2], vec4<f32>(y.z), first));
}

// The dot products of the owned rows of one part with other rows of another. A column belongs to one of the others.
fn products(own: Own, part: u32, other_part: u32, first: u32) -> mat4x4<f32> {
    var sums = mat4x4<f32>();
    for (var slice = 0u; slice < CHUNKS; slice += SLICE) {
        workgroupBarrier();
        stage(own, part, own.first, 64u, slice, SLICE, STRIDE, 0u);
        stage(own, other_part, first, 32u, slice, SLICE, STRIDE, OTHERS);
        workgroupBarrier();
        for (var c = 0u; c < SLICE; c++) {
            let x = own.row * STRIDE + c;
            let rows = mat4x4<f32>(tile[x], tile[x + 16u * STRIDE], tile[x + 32u * STRIDE], tile[x + 48u * STRIDE]);
            let by_element = transpose(rows);
            let y = OTHERS + own.column * STRIDE + c;
            sums[0] = add_products(sums[0], by_element, tile[y]);
            sums[1] = add_products(sums[1], by_element, tile[y + 8u * STRIDE]);
            sums[2] = add_products(sums[2], by_element, tile[y + 16u * STRIDE]);
            sums[3] = add_products(sums[3], by_element, tile[y + 24u * STRIDE]);
        }
    }
    return sums;
}

// In every row of weights, vectors change places, so that neighbouring invocations write to different banks.
fn place_of_weights(other: u32, row: u32) -> u32 {
    return other * 16u + (row ^ (other % 2u * 4u));
}

// After a barrier that ends the reading of slices.
fn stage_weights(own: Own, weights: mat4x4<f32>) {
    tile[place_of_weights(own.column, own.row)] = weights[0];
    tile[place_of_weights(own.column + 8u, own.row)] = weights[1];
    tile[place_of_weights(own.column + 16u, own.row)] = weights[2];
    tile[place_of_weights(own.column + 24u, own.row)] = weights[3];
}

// Adds the other rows of a part, by the staged weights.
fn add_weighted(own: Own, part: u32, first: u32, sums: ptr<function, array<vec4<f32>, SUMS>>) {
    for (var slice = 0u; slice < 32u; slice += DEPTH) {
        if slice > 0u {
            workgroupBarrier();
        }
        stage(own, part, first + slice, DEPTH, 0u, CHUNKS, CHUNKS, SUMMED);
        workgroupBarrier();
        for (var eighth = 0u; eighth < DEPTH; eighth += 8u) {
            // Short enough for compilers to unroll it.
            for (var i = 0u; i < 8u; i++) {
                let other = eighth + i;
                let weights = tile[place_of_weights(slice + other, own.row)];
                for (var c = 0u; c < COLUMNS; c++) {
                    // Past the end of a row for some lanes, whose sums are not stored.
                    let x = tile[SUMMED + other * CHUNKS + own.column + 8u * c];
                    (*sums)[4u * c] = fma(vec4<f32>(weights.x), x, (*sums)[4u * c]);
                    (*sums)[4u * c + 1u] = fma(vec4<f32>(weights.y), x, (*sums)[4u * c + 1u]);
                    (*sums)[4u * c + 2u] = fma(vec4<f32>(weights.z), x, (*sums)[4u * c + 2u]);
                    (*sums)[4u * c + 3u] = fma(vec4<f32>(weights.w), x, (*sums)[4u * c + 3u]);
                }
            }
        }
    }
}

// Shows what this lane found out about its rows to the seven others with the same rows, after the next barrier.
fn share(own: Own, value: vec4<f32>) {
    tile[SHARED + own.column * 16u + own.row] = value;
}

fn shared_by(own: Own, column: u32) -> vec4<f32> {
    return tile[SHARED + column * 16u + own.row];
}

// The sum over all lanes with the same rows, always in the same order.
fn sum_of_lanes(own: Own, value: vec4<f32>) -> vec4<f32> {
    share(own, value);
    workgroupBarrier();
    var sum = shared_by(own, 0u);
    for (var column = 1u; column < 8u; column++) {
        sum += shared_by(own, column);
    }
    return sum;
}

fn decayed_each(x: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(decayed(x.x), decayed(x.y), decayed(x.z), decayed(x.w));
}

// Stores the rows of the sums times their factors, beginning with `start` for token 0 and `step` vectors apart.
fn store(own: Own, start: u32, step: u32, sums: ptr<function, array<vec4<f32>, SUMS>>, factors: vec4<f32>) {
    for (var c = 0u; c < COLUMNS; c++) {
        let chunk = own.column + 8u * c;
        for (var i = 0u; i < 4u; i++) {
            let token = own.first + own.row + 16u * i;
            if chunk < CHUNKS && token < params.tokens {
                results[start + token * step + chunk] = (*sums)[4u * c + i] * factors[i];
            }
        }
    }
}
