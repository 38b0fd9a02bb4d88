// 128x64 elements of C per workgroup, 16 steps of K at a time through workgroup memory, 8x8 elements in the registers
// of each of 128 invocations. A vector that is read from workgroup memory serves 16 multiply-adds; in tiles.wgsl a
// number serves 2, and reading takes longer than arithmetic. While a workgroup multiplies two tiles, the loads of the
// next two are under way.
//
// Past an edge, elements of other rows or columns are loaded, whose results are not stored; past the end of K, both
// operands count as zero. Every branch around a barrier is the same for the entire workgroup.
//!import products_8x8

const DEPTH: u32 = 16u;
// Columns between the pairs of an invocation.
const APART: u32 = 16u;
// Vectors in a row of a tile in workgroup memory.
const STRIDE: u32 = 32u;

// [k][row / 4]: four rows.
var<workgroup> tile_a: array<vec4<f32>, DEPTH * STRIDE>;
// [k / 2][column / 2]: two columns, and below them the same two at the next k. An invocation loads no more than two
// vectors of B, which is enough for complete vectors of this kind.
var<workgroup> tile_b: array<vec4<f32>, DEPTH / 2u * STRIDE>;

// In a row of a tile, vectors change places depending on k, so that neighbouring invocations, which write to different
// rows, write to different banks.
fn swapped(vector: u32, k: u32) -> u32 {
    return vector ^ (k / 4u * 2u);
}

// The first step of K of the tile that an invocation loads of A: one for all its vectors, or 4 between them.
fn first_step_of_a(lane: u32) -> u32 {
    return select(lane / 32u, lane % 4u * 4u, params.a_k == 1u);
}

// The first of two, one for both or 1 between them.
fn first_step_of_b(lane: u32) -> u32 {
    return select(lane / 16u * 2u, lane % 4u * 4u, params.b_k == 1u);
}

// The first of the four vectors of A that an invocation loads for the first tile, and the distance between them, in
// elements.
fn place_in_a(batch: u32, first_row: u32, lane: u32) -> u32 {
    let row = first_row + select(lane % 32u * 4u, lane / 4u * 4u, params.a_k == 1u);
    return batch * params.a_batch + row * params.a_row + first_step_of_a(lane) * params.a_k;
}

fn apart_in_a() -> u32 {
    return select(4u * params.a_k, params.a_row, params.a_k == 1u);
}

// The same for the two vectors of B.
fn place_in_b(batch: u32, first_column: u32, lane: u32) -> u32 {
    let column = first_column + select(lane % 16u * 4u, lane / 4u * 2u, params.b_k == 1u);
    return batch * params.b_batch + column * params.b_column + first_step_of_b(lane) * params.b_k;
}

fn apart_in_b() -> u32 {
    return select(params.b_k, params.b_column, params.b_k == 1u);
}

// Where the first of its vectors go.
fn place_in_tile_a(lane: u32) -> u32 {
    let k = lane % 4u * 4u;
    return select(lane, k * STRIDE + swapped(lane / 4u, k), params.a_k == 1u);
}

fn place_in_tile_b(lane: u32) -> u32 {
    let k = first_step_of_b(lane);
    return k / 2u * STRIDE + swapped(select(lane % 16u * 2u, lane / 4u, params.b_k == 1u), k);
}

fn load_a(place: u32, elements: u32) -> mat4x4<f32> {
    let at = place + vec4<u32>(0u, 1u, 2u, 3u) * apart_in_a();
    return mat4x4<f32>(
        a_four(at.x, elements),
        a_four(at.y, elements),
        a_four(at.z, elements),
        a_four(at.w, elements),
    );
}

fn stage_a(at: u32, loaded: mat4x4<f32>) {
    if params.a_k == 1u {
        let by_k = transpose(loaded);
        tile_a[at] = rounded_four(by_k[0]);
        tile_a[at + STRIDE] = rounded_four(by_k[1]);
        tile_a[at + 2u * STRIDE] = rounded_four(by_k[2]);
        tile_a[at + 3u * STRIDE] = rounded_four(by_k[3]);
    } else {
        tile_a[at] = rounded_four(loaded[0]);
        tile_a[4u * STRIDE + swapped(at, 4u)] = rounded_four(loaded[1]);
        tile_a[8u * STRIDE + swapped(at, 8u)] = rounded_four(loaded[2]);
        tile_a[12u * STRIDE + swapped(at, 12u)] = rounded_four(loaded[3]);
    }
}

fn stage_b(at: u32, x: vec4<f32>, y: vec4<f32>) {
    if params.b_k == 1u {
        tile_b[at] = vec4<f32>(x.x, y.x, x.y, y.y);
        tile_b[at + STRIDE] = vec4<f32>(x.z, y.z, x.w, y.w);
    } else {
        tile_b[at] = vec4<f32>(x.xy, y.xy);
        tile_b[at + 1u] = vec4<f32>(x.zw, y.zw);
    }
}

// The same at the end of K, of which `rest` steps are left.
fn stage_rest(a_to: u32, of_a: mat4x4<f32>, b_to: u32, x: vec4<f32>, y: vec4<f32>, rest: u32) {
    let a_along = params.a_k == 1u;
    let a_steps = a_to / STRIDE + vec4<u32>(0u, 1u, 2u, 3u) * select(4u, 0u, a_along);
    stage_a(a_to, mat4x4<f32>(
        cut(of_a[0], a_steps.x, rest, a_along),
        cut(of_a[1], a_steps.y, rest, a_along),
        cut(of_a[2], a_steps.z, rest, a_along),
        cut(of_a[3], a_steps.w, rest, a_along),
    ));
    let b_along = params.b_k == 1u;
    let b_step = b_to / STRIDE * 2u;
    stage_b(b_to, cut(x, b_step, rest, b_along), cut(y, b_step + select(1u, 0u, b_along), rest, b_along));
}

@compute @workgroup_size(128)
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
    let first_row = tile.y * 128u;
    let first_column = tile.z * 64u;
    let inner = inner_size(batch);

    // In slices of K, all products have the same operands.
    let operands = select(params.batches, 1u, params.k_step > 0u);
    let a_elements = operands * params.m * params.k;
    let b_elements = operands * params.k * params.n;
    let a_to = place_in_tile_a(lane);
    let b_to = place_in_tile_b(lane);
    var a_from = place_in_a(batch, first_row, lane);
    var b_from = place_in_b(batch, first_column, lane);
    var of_a = load_a(a_from, a_elements);
    var of_b_0 = b_four(b_from, b_elements);
    var of_b_1 = b_four(b_from + apart_in_b(), b_elements);

    let row = lane / 8u;
    let column = lane % 8u;
    var sums: array<vec4<f32>, 16>;
    for (var start = 0u; start < inner; start += DEPTH) {
        let x = unpacked_four(of_b_0, b_from, b_elements);
        let y = unpacked_four(of_b_1, b_from + apart_in_b(), b_elements);
        if inner - start < DEPTH {
            stage_rest(a_to, of_a, b_to, x, y, inner - start);
        } else {
            stage_a(a_to, of_a);
            stage_b(b_to, x, y);
        }
        workgroupBarrier();

        if inner - start > DEPTH {
            a_from += DEPTH * params.a_k;
            b_from += DEPTH * params.b_k;
            of_a = load_a(a_from, a_elements);
            of_b_0 = b_four(b_from, b_elements);
            of_b_1 = b_four(b_from + apart_in_b(), b_elements);
        }

        for (var k = 0u; k < DEPTH; k += 2u) {
            let at_a = k * STRIDE + swapped(row, k);
            let at_b = k / 2u * STRIDE + swapped(column, k);
            let b_0 = tile_b[at_b];
            let b_1 = tile_b[at_b + 8u];
            let b_2 = tile_b[at_b + 16u];
            let b_3 = tile_b[at_b + 24u];
            let a_0 = array<vec4<f32>, 2>(tile_a[at_a], tile_a[at_a + 16u]);
            add_products(&sums, a_0, vec4<f32>(b_0.xy, b_1.xy), vec4<f32>(b_2.xy, b_3.xy));
            let a_1 = array<vec4<f32>, 2>(tile_a[at_a + STRIDE], tile_a[at_a + STRIDE + 16u]);
            add_products(&sums, a_1, vec4<f32>(b_0.zw, b_1.zw), vec4<f32>(b_2.zw, b_3.zw));
        }
        workgroupBarrier();
    }

    let row_of_c = first_row + row * 4u;
    let column_of_c = first_column + column * 2u;
    store_row(batch, row_of_c, column_of_c, sums[0], sums[1]);
    store_row(batch, row_of_c + 1u, column_of_c, sums[2], sums[3]);
    store_row(batch, row_of_c + 2u, column_of_c, sums[4], sums[5]);
    store_row(batch, row_of_c + 3u, column_of_c, sums[6], sums[7]);
    store_row(batch, row_of_c + 64u, column_of_c, sums[8], sums[9]);
    store_row(batch, row_of_c + 65u, column_of_c, sums[10], sums[11]);
    store_row(batch, row_of_c + 66u, column_of_c, sums[12], sums[13]);
    store_row(batch, row_of_c + 67u, column_of_c, sums[14], sums[15]);
}
