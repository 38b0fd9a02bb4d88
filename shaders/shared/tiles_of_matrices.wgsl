// 128x64 elements of C per workgroup, 32 steps of K at a time through workgroup memory in 16 bits. Four subgroups compute
// 64x32 elements each, as matrices of SIDE x SIDE that their lanes hold together; sums are in 32 bits.
//
// A driver may run smaller subgroups than the device's largest. There are then more than four: the others repeat what the
// first four do, and their results are not stored.
//
// Past an edge, elements of other rows or columns are loaded, whose results are not stored; past the end of K, both
// operands count as zero. Matrices must be used where all invocations certainly are: no branch around them depends on more
// than the parameters.

const DEPTH: u32 = 32u;
const BLOCK: vec2<u32> = vec2<u32>(128u, 64u);
// Of a subgroup: rows and columns, and in how many matrices.
const OWN: vec2<u32> = vec2<u32>(64u, 32u);
const ROWS: u32 = OWN.x / SIDE;
const COLUMNS: u32 = OWN.y / SIDE;
// From a row (of A) or a column (of B) to the next one in workgroup memory. Devices want matrices to start at multiples of
// 16 bytes.
const STRIDE: u32 = DEPTH + 8u;
const STORED_STRIDE: u32 = OWN.y + 4u;

// [row][k] and [column][k].
var<workgroup> tile_a: array<f16, BLOCK.x * STRIDE>;
var<workgroup> tile_b: array<f16, BLOCK.y * STRIDE>;
// A row of matrices of each of the four subgroups, [row][column], and one for all others: only in memory do matrices have
// elements.
var<workgroup> stored: array<f32, 5u * SIDE * STORED_STRIDE>;

// The (row or column, k) in a tile of the four elements that an invocation loads at once: along K or across it.
fn place(index: u32, extent: u32, along_k: bool) -> vec2<u32> {
    let across = vec2<u32>(index % (extent / 4u) * 4u, index / (extent / 4u));
    return select(across, vec2<u32>(index / (DEPTH / 4u), index % (DEPTH / 4u) * 4u), along_k);
}

// In 16 bits, with zeros from step `rest` of K on.
fn converted(x: vec4<f32>, step: u32, rest: u32, along_k: bool) -> vec4<f16> {
    let steps = vec4<u32>(step) + select(vec4<u32>(), vec4<u32>(0u, 1u, 2u, 3u), along_k);
    return vec4<f16>(select(vec4<f32>(), x, steps < vec4<u32>(rest)));
}

fn load_a(batch: u32, first_row: u32, start: u32, rest: u32, lane: u32, elements: u32) {
    let along_k = params.a_k == 1u;
    let apart = select(STRIDE, 1u, along_k);
    for (var index = lane; index < BLOCK.x * DEPTH / 4u; index += 4u * SUBGROUP) {
        let at = place(index, BLOCK.x, along_k);
        let from_a = batch * params.a_batch + (first_row + at.x) * params.a_row + (start + at.y) * params.a_k;
        let x = converted(a_four(from_a, elements), at.y, rest, along_k);
        let to = at.x * STRIDE + at.y;
        tile_a[to] = x.x;
        tile_a[to + apart] = x.y;
        tile_a[to + 2u * apart] = x.z;
        tile_a[to + 3u * apart] = x.w;
    }
}

fn load_b(batch: u32, first_column: u32, start: u32, rest: u32, lane: u32, elements: u32) {
    let along_k = params.b_k == 1u;
    let apart = select(STRIDE, 1u, along_k);
    for (var index = lane; index < BLOCK.y * DEPTH / 4u; index += 4u * SUBGROUP) {
        let at = place(index, BLOCK.y, along_k);
        let from_b = batch * params.b_batch + (first_column + at.x) * params.b_column + (start + at.y) * params.b_k;
        let x = converted(unpacked_four(b_four(from_b, elements), from_b, elements), at.y, rest, along_k);
        let to = at.x * STRIDE + at.y;
        tile_b[to] = x.x;
        tile_b[to + apart] = x.y;
        tile_b[to + 2u * apart] = x.z;
        tile_b[to + 3u * apart] = x.w;
    }
}

@compute @workgroup_size(4u * SUBGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) subgroup_size: u32,
    @builtin(subgroup_invocation_id) lane_of_subgroup: u32,
) {
    let tile = tile_in_band(linear_workgroup(workgroup, workgroups));
    // Workgroups beyond the last one store nothing.
    let is_any = tile.x < params.batches;
    let batch = min(tile.x, params.batches - 1u);
    let first = tile.yz * BLOCK;
    let inner = inner_size(batch);
    // In slices of K, all products have the same operands.
    let operands = select(params.batches, 1u, params.k_step > 0u);
    let a_elements = operands * params.m * params.k;
    let b_elements = operands * params.k * params.n;
    let own = vec2<u32>(subgroup / 2u % 2u, subgroup % 2u) * OWN;

    var sums: array<MatrixC, ROWS * COLUMNS>;
    // The last of several slices of K may be shorter than the others: it adds zeros.
    for (var start = 0u; start < params.k_slice; start += DEPTH) {
        let rest = inner - min(start, inner);
        load_a(batch, first.x, start, rest, lane, a_elements);
        load_b(batch, first.y, start, rest, lane, b_elements);
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k += SIDE) {
            var of_b: array<MatrixB, COLUMNS>;
            for (var column = 0u; column < COLUMNS; column++) {
                of_b[column] = coopLoad<MatrixB>(&tile_b[(own.y + column * SIDE) * STRIDE + k], STRIDE);
            }
            for (var row = 0u; row < ROWS; row++) {
                let of_a = coopLoadT<MatrixA>(&tile_a[(own.x + row * SIDE) * STRIDE + k], STRIDE);
                for (var column = 0u; column < COLUMNS; column++) {
                    let place = row * COLUMNS + column;
                    sums[place] = coopMultiplyAdd(of_a, of_b[column], sums[place]);
                }
            }
        }
        workgroupBarrier();
    }

    let own_stored = min(subgroup, 4u) * SIDE * STORED_STRIDE;
    for (var row = 0u; row < ROWS; row++) {
        for (var column = 0u; column < COLUMNS; column++) {
            let matrix = sums[row * COLUMNS + column];
            let to = own_stored + column * SIDE;
            let stride = STORED_STRIDE;
            coopStoreT(matrix, &stored[to], stride);
        }
        workgroupBarrier();
        if is_any && subgroup < 4u {
            for (var index = lane_of_subgroup; index < SIDE * OWN.y; index += subgroup_size) {
                let at = vec2<u32>(index / OWN.y, index % OWN.y);
                let sum = stored[own_stored + at.x * STORED_STRIDE + at.y];
                store(batch, first.x + own.x + row * SIDE + at.x, first.y + own.y + at.y, sum);
            }
        }
        workgroupBarrier();
    }
}
