// o = softmax(scale * q k^T + bias) v, head by head, with an optional causal mask and an optional mask of keys: the
// online softmax of Milakov and Gimelshein (arXiv 1805.02867) over blocks of 64 keys.
//
// A workgroup owns one query of one head. For each block, every lane computes the logit of one key, then every lane adds
// up its own elements of the head over the block. A row's bits depend only on its own sample.
//!import block_sum
//!import decayed
//!import grid

struct AttentionBiasParams {
    batches: u32,
    queries: u32,
    keys: u32,
    heads: u32,
    head_dim: u32,
    causal: u32,
    has_bias: u32,
    has_mask: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: AttentionBiasParams;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
// [heads, queries, keys]
@group(0) @binding(4) var<storage, read> bias: array<f32>;
// [batches, keys]: 0 for a key that no query sees.
@group(0) @binding(5) var<storage, read> mask: array<u32>;
@group(0) @binding(6) var<storage, read_write> o: array<f32>;

// Elements of a head that a lane owns, for heads of up to 256.
const OWNED: u32 = 4u;
// Below every logit.
const NOTHING: f32 = -3.0e38;

var<workgroup> block_logits: array<f32, 64>;
var<workgroup> block_weights: array<f32, 64>;

// The largest value of all lanes. The first barrier lets slower lanes finish with the previous block.
fn block_max(lane: u32, value: f32) -> f32 {
    workgroupBarrier();
    block_logits[lane] = value;
    workgroupBarrier();
    for (var width = 32u; width > 0u; width >>= 1u) {
        if lane < width {
            block_logits[lane] = max(block_logits[lane], block_logits[lane + width]);
        }
        workgroupBarrier();
    }
    return block_logits[0];
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = linear_workgroup(workgroup, workgroups);
    let query = index % params.queries;
    let head = (index / params.queries) % params.heads;
    let batch = index / params.queries / params.heads;
    if batch >= params.batches {
        return;
    }
    let width = params.heads * params.head_dim;
    let q_start = (batch * params.queries + query) * width + head * params.head_dim;
    let k_start = batch * params.keys * width + head * params.head_dim;
    let visible = select(params.keys, query + 1u, params.causal == 1u);

    var sums: array<f32, OWNED>;
    for (var c = 0u; c < OWNED; c++) {
        sums[c] = 0.0;
    }
    var largest = NOTHING;
    var denominator = 0.0;
    for (var first = 0u; first < visible; first += 64u) {
        let key = first + lane;
        var is_seen = key < visible;
        if is_seen && params.has_mask == 1u {
            is_seen = mask[batch * params.keys + key] != 0u;
        }
        var logit = NOTHING;
        if is_seen {
            var product = 0.0;
            for (var c = 0u; c < params.head_dim; c++) {
                product = fma(q[q_start + c], k[k_start + key * width + c], product);
            }
            logit = product * params.scale;
            if params.has_bias == 1u {
                logit += bias[(head * params.queries + query) * params.keys + key];
            }
        }
        let above = max(largest, block_max(lane, logit));
        let weight = select(0.0, decayed(logit - above), is_seen);
        let correction = decayed(largest - above);
        largest = above;
        block_weights[lane] = weight;
        // Its barriers also let every lane see the weights.
        denominator = fma(denominator, correction, block_sum(lane, vec2<f32>(weight, 0.0)).x);
        let count = min(64u, visible - first);
        for (var c = 0u; c < OWNED; c++) {
            let element = lane + 64u * c;
            if element < params.head_dim {
                var sum = sums[c] * correction;
                for (var i = 0u; i < count; i++) {
                    sum = fma(block_weights[i], v[k_start + (first + i) * width + element], sum);
                }
                sums[c] = sum;
            }
        }
    }

    for (var c = 0u; c < OWNED; c++) {
        let element = lane + 64u * c;
        if element < params.head_dim {
            // A query that sees no key gets zeros.
            o[q_start + element] = select(sums[c] / denominator, 0.0, denominator == 0.0);
        }
    }
}
