// DiffusionNFT's loss of a sample and the factors of its gradient, as in src/flow/nft.rs: one workgroup per row.
//!import grid
//!import block_sum
//!import nft_settings
//!import outcome
//!import rows_columns
//!import sampler_row

@group(0) @binding(0) var<uniform> params: RowsColumnsParams;
@group(0) @binding(1) var<storage, read> v_new: array<f32>;
@group(0) @binding(2) var<storage, read> v_old: array<f32>;
// u = noise - data
@group(0) @binding(3) var<storage, read> u: array<f32>;
@group(0) @binding(4) var<storage, read> advantage: array<f32>;
// 1 - t, 0, t
@group(0) @binding(5) var<storage, read> rows: array<SamplerRow>;
@group(0) @binding(6) var<storage, read> settings: NftSettings;
@group(0) @binding(7) var<storage, read_write> loss: array<f32>;
@group(0) @binding(8) var<storage, read_write> outcomes: array<Outcome>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = linear_workgroup(workgroup, workgroups);
    if row >= params.rows {
        return;
    }
    var absolute = vec2<f32>();
    var squared = vec2<f32>();
    var moved = 0.0;
    for (var column = lane; column < params.columns; column += 64u) {
        let i = row * params.columns + column;
        let delta = v_new[i] - v_old[i];
        // Errors of the positive and the negative policy.
        let error = vec2<f32>(u[i] - v_old[i]) - settings.beta * delta * vec2<f32>(1.0, -1.0);
        absolute += abs(error);
        squared += error * error;
        moved += delta * delta;
    }
    absolute = block_sum(lane, absolute);
    squared = block_sum(lane, squared);
    moved = block_sum(lane, vec2<f32>(moved, 0.0)).x;
    if lane == 0u {
        let t = rows[row].s;
        let dim = f32(params.columns);
        let r = clamp(advantage[row] / (2.0 * settings.clip) + 0.5, 0.0, 1.0);
        let weight = max(t * absolute / dim, vec2<f32>(1e-5));
        let pull = settings.clip * t * t * vec2<f32>(r, 1.0 - r) / (dim * weight);
        let result = dot(pull, squared) / settings.beta;
        loss[row] = result;
        outcomes[row] = Outcome(result, 0.0, r, moved / dim, 1.0, 2.0 * pull.x, 2.0 * pull.y, 0.0);
    }
}
