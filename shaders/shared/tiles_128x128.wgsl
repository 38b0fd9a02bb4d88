// 128x128 elements of C per workgroup, 8 steps of K at a time through workgroup memory, 8x8 elements in the registers
// of each of 256 invocations: as in tiles_128, but an element of A serves twice as many columns. Half of the
// invocations load A, the others B, for the next tiles while they multiply two.
//!import products_8x8

const DEPTH: u32 = 8u;
// Columns between the pairs of an invocation, and rows.
const APART: u32 = 32u;
// Vectors in a row of a tile in workgroup memory.
const STRIDE: u32 = 64u;

// [k / 2][row / 2] of A, then [k / 2][column / 2] of B: two rows or columns, and below them the same two at the next k.
var<workgroup> tiles: array<vec4<f32>, DEPTH * STRIDE>;

// As in tiles_128.
fn swapped(vector: u32, k: u32) -> u32 {
    return vector ^ (k / 4u * 4u);
}

// What an invocation loads: two vectors of one operand, so many elements apart.
struct Part {
    is_b: bool,
    // They continue along K.
    along_k: bool,
    // The first one in the tile: row or column, and step of K.
    side: u32,
    step: u32,
    k_stride: u32,
    apart: u32,
    // Of the operand.
    elements: u32,
}

fn part_of(lane: u32) -> Part {
    let is_b = lane >= 128u;
    let place = lane % 128u;
    let k_stride = select(params.a_k, params.b_k, is_b);
    let along_k = k_stride == 1u;
    // In slices of K, all products have the same operands.
    let operands = select(params.batches, 1u, params.k_step > 0u);
    return Part(
        is_b,
        along_k,
        select(place % 32u * 4u, place / 2u * 2u, along_k),
        select(place / 32u * 2u, place % 2u * 4u, along_k),
        k_stride,
        select(k_stride, select(params.a_row, params.b_column, is_b), along_k),
        operands * params.k * select(params.m, params.n, is_b),
    );
}

fn load(part: Part, at: u32) -> vec4<f32> {
    if part.is_b {
        return unpacked_four(b_four(at, part.elements), at, part.elements);
    }
    return a_four(at, part.elements);
}

fn stage(part: Part, to: u32, of_x: vec4<f32>, of_y: vec4<f32>) {
    // Those of B are rounded already.
    let x = select(rounded_four(of_x), of_x, part.is_b);
    let y = select(rounded_four(of_y), of_y, part.is_b);
    if part.along_k {
        tiles[to] = vec4<f32>(x.x, y.x, x.y, y.y);
        tiles[to + STRIDE] = vec4<f32>(x.z, y.z, x.w, y.w);
    } else {
        tiles[to] = vec4<f32>(x.xy, y.xy);
        tiles[to + 1u] = vec4<f32>(x.zw, y.zw);
    }
}

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
    let first_row = tile.y * 128u;
    let first_column = tile.z * 128u;
    let inner = inner_size(batch);

    let part = part_of(lane);
    let side_stride = select(params.a_row, params.b_column, part.is_b);
    let first = select(first_row, first_column, part.is_b) + part.side;
    let start_of_batch = batch * select(params.a_batch, params.b_batch, part.is_b);
    var at = start_of_batch + first * side_stride + part.step * part.k_stride;
    let vector = swapped(part.side / 2u, part.step);
    let to = (select(0u, DEPTH, part.is_b) + part.step) / 2u * STRIDE + vector;
    var x = load(part, at);
    var y = load(part, at + part.apart);

    let row = lane / 16u;
    let column = lane % 16u;
    var sums: array<vec4<f32>, 16>;
    for (var start = 0u; start < inner; start += DEPTH) {
        let rest = inner - start;
        if rest < DEPTH {
            x = cut(x, part.step, rest, part.along_k);
            y = cut(y, part.step + select(1u, 0u, part.along_k), rest, part.along_k);
        }
        stage(part, to, x, y);
        workgroupBarrier();

        if rest > DEPTH {
            at += DEPTH * part.k_stride;
            x = load(part, at);
            y = load(part, at + part.apart);
        }

        for (var k = 0u; k < DEPTH; k += 2u) {
            let at_a = k / 2u * STRIDE + swapped(row, k);
            let at_b = (DEPTH + k) / 2u * STRIDE + swapped(column, k);
            let a_0 = tiles[at_a];
            let a_1 = tiles[at_a + 16u];
            let a_2 = tiles[at_a + 32u];
            let a_3 = tiles[at_a + 48u];
            let b_0 = tiles[at_b];
            let b_1 = tiles[at_b + 16u];
            let b_2 = tiles[at_b + 32u];
            let b_3 = tiles[at_b + 48u];
            let this_k = array<vec4<f32>, 2>(vec4<f32>(a_0.xy, a_1.xy), vec4<f32>(a_2.xy, a_3.xy));
            add_products(&sums, this_k, vec4<f32>(b_0.xy, b_1.xy), vec4<f32>(b_2.xy, b_3.xy));
            let next_k = array<vec4<f32>, 2>(vec4<f32>(a_0.zw, a_1.zw), vec4<f32>(a_2.zw, a_3.zw));
            add_products(&sums, next_k, vec4<f32>(b_0.zw, b_1.zw), vec4<f32>(b_2.zw, b_3.zw));
        }
        workgroupBarrier();
    }

    let row_of_c = first_row + row * 2u;
    let column_of_c = first_column + column * 2u;
    store_row(batch, row_of_c, column_of_c, sums[0], sums[1]);
    store_row(batch, row_of_c + 1u, column_of_c, sums[2], sums[3]);
    store_row(batch, row_of_c + APART, column_of_c, sums[4], sums[5]);
    store_row(batch, row_of_c + APART + 1u, column_of_c, sums[6], sums[7]);
    store_row(batch, row_of_c + 2u * APART, column_of_c, sums[8], sums[9]);
    store_row(batch, row_of_c + 2u * APART + 1u, column_of_c, sums[10], sums[11]);
    store_row(batch, row_of_c + 3u * APART, column_of_c, sums[12], sums[13]);
    store_row(batch, row_of_c + 3u * APART + 1u, column_of_c, sums[14], sums[15]);
}
