// The same as attention for GPUs and heads of whole vectors, with tiles in workgroup memory.
//!import attention_tiles

const HEAD_DIM: u32 = 8u;

@group(0) @binding(1) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> results: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> logsumexp: array<f32>;

// Below every logit.
const NOTHING: f32 = -3.0e38;

// q is part 0, k is 1 and v is 2.
fn load(own: Own, part: u32, token: u32, chunk: u32) -> vec4<f32> {
    return qkv[own.q_start + (token * 3u + part) * own.width + chunk];
}

// The largest of each row over all lanes that have it.
fn largest_of_lanes(own: Own, value: vec4<f32>) -> vec4<f32> {
    share(own, value);
    workgroupBarrier();
    var largest = shared_by(own, 0u);
    for (var column = 1u; column < 8u; column++) {
        largest = max(largest, shared_by(own, column));
    }
    return largest;
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
    var sums = array<vec4<f32>, SUMS>();
    var largest = vec4<f32>(NOTHING);
    // Of the keys of this lane.
    var denominators = vec4<f32>();
    for (var first = 0u; first < params.tokens; first += 32u) {
        let is_key = others(own, first) < vec4<u32>(params.tokens);
        var logits = products(own, 0u, 1u, first) * params.scale;
        logits[0] = select(vec4<f32>(NOTHING), logits[0], is_key.x);
        logits[1] = select(vec4<f32>(NOTHING), logits[1], is_key.y);
        logits[2] = select(vec4<f32>(NOTHING), logits[2], is_key.z);
        logits[3] = select(vec4<f32>(NOTHING), logits[3], is_key.w);
        let own_largest = max(max(logits[0], logits[1]), max(logits[2], logits[3]));
        let above = max(largest, largest_of_lanes(own, own_largest));
        let correction = decayed_each(largest - above);
        largest = above;
        let weights = mat4x4<f32>(
            select(vec4<f32>(), decayed_each(logits[0] - above), is_key.x),
            select(vec4<f32>(), decayed_each(logits[1] - above), is_key.y),
            select(vec4<f32>(), decayed_each(logits[2] - above), is_key.z),
            select(vec4<f32>(), decayed_each(logits[3] - above), is_key.w),
        );
        denominators = fma(denominators, correction, (weights[0] + weights[1]) + (weights[2] + weights[3]));
        for (var c = 0u; c < COLUMNS; c++) {
            sums[4u * c] *= correction.x;
            sums[4u * c + 1u] *= correction.y;
            sums[4u * c + 2u] *= correction.z;
            sums[4u * c + 3u] *= correction.w;
        }
        stage_weights(own, weights);
        add_weighted(own, 2u, first, &sums);
    }

    let denominator = sum_of_lanes(own, denominators);
    store(own, own.o_start, own.width, &sums, 1.0 / denominator);
    for (var i = 0u; i < 4u; i++) {
        let token = own.first + own.row + 16u * i;
        if own.column == 0u && token < params.tokens {
            logsumexp[own.head_index * params.tokens + token] = largest[i] + log(denominator[i]);
        }
    }
}
