// The first pass of a sum over the rows of [outer, rows, columns]: what invocation `i` of outer x chunks x packs of
// columns sums. The kernel declares `params` with the members named here.

struct Chunk {
    outer: u32,
    // First column, in packs.
    column: u32,
    first_row: u32,
    // One beyond the last.
    end: u32,
}

fn chunk_of(i: u32) -> Chunk {
    let packs = params.columns / PACK;
    let chunk = (i / packs) % params.chunks;
    let first = chunk * params.chunk;
    return Chunk(i / packs / params.chunks, i % packs, first, min(first + params.chunk, params.rows));
}

// The offset of a row of a chunk, in packs.
fn at_row(chunk: Chunk, row: u32) -> u32 {
    return (chunk.outer * params.rows + row) * (params.columns / PACK) + chunk.column;
}

fn is_beyond(i: u32) -> bool {
    return i >= params.outer * params.chunks * (params.columns / PACK);
}
