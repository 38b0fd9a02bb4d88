// The same as attention_backward_query for GPUs and heads of whole vectors, with tiles in workgroup memory.
//!import attention_tiles_backward

const HEAD_DIM: u32 = 8u;

@group(0) @binding(4) var<storage, read> o: array<vec4<f32>>;
// The gradient of q, k and v.
@group(0) @binding(5) var<storage, read_write> results: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> delta: array<f32>;

// Of the rows of an invocation. Rows past the end have that of the last.
fn deltas(own: Own, rows: vec4<u32>) -> vec4<f32> {
    var sums = vec4<f32>();
    for (var chunk = own.column; chunk < CHUNKS; chunk += 8u) {
        let at = own.o_start + min(rows, vec4<u32>(params.tokens - 1u)) * own.width + chunk;
        let of_rows = vec4<f32>(
            dot(o[at.x], d_o[at.x]),
            dot(o[at.y], d_o[at.y]),
            dot(o[at.z], d_o[at.z]),
            dot(o[at.w], d_o[at.w]),
        );
        sums += of_rows;
    }
    return sum_of_lanes(own, sums);
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = linear_workgroup(workgroup, workgroups);
    if !has_rows(index) {
        return;
    }
    let own = own_rows(index, lane);
    let rows = own.first + own.row + vec4<u32>(0u, 16u, 32u, 48u);
    let at = of_queries(own, rows);
    let denominators = vec4<f32>(logsumexp[at.x], logsumexp[at.y], logsumexp[at.z], logsumexp[at.w]);
    let row_deltas = deltas(own, rows);
    for (var i = 0u; i < 4u; i++) {
        if own.column == 0u && rows[i] < params.tokens {
            delta[at[i]] = row_deltas[i];
        }
    }

    var sums = array<vec4<f32>, SUMS>();
    for (var first = 0u; first < params.tokens; first += 32u) {
        let is_key = others(own, first) < vec4<u32>(params.tokens);
        let logits = products(own, Q, K, first) * params.scale;
        let d_weights = products(own, D_O, V, first);
        let d_logits = mat4x4<f32>(
            select(vec4<f32>(), decayed_each(logits[0] - denominators) * (d_weights[0] - row_deltas), is_key.x),
            select(vec4<f32>(), decayed_each(logits[1] - denominators) * (d_weights[1] - row_deltas), is_key.y),
            select(vec4<f32>(), decayed_each(logits[2] - denominators) * (d_weights[2] - row_deltas), is_key.z),
            select(vec4<f32>(), decayed_each(logits[3] - denominators) * (d_weights[3] - row_deltas), is_key.w),
        );
        workgroupBarrier();
        stage_weights(own, d_logits);
        add_weighted(own, K, first, &sums);
    }
    store(own, own.q_start, 3u * own.width, &sums, vec4<f32>(params.scale));
}
