// The policy objectives: a row's loss and gradient from its (S1, S2), advantage and transition. The functions
// have the same names as in src/flow/objective.rs, which explains them.
//!import grid
//!import non_finite
//!import outcome
//!import sampler_row
//!import policy_objective_params

const FLOW_DPPO_ASYMMETRIC: u32 = 0u;
const FLOW_DPPO_SYMMETRIC: u32 = 1u;
const FLOW_DPPO_NO_MASK: u32 = 2u;
const FLOW_GRPO: u32 = 3u;
const GRPO_GUARD: u32 = 4u;
// The objective of this kernel.
const OBJECTIVE: u32 = 0u;

const GAUSSIAN: u32 = 0u;
const CPS_SPECIAL: u32 = 1u;
const LOG_PROB: u32 = 0u;

// The quantity that the mask compares with its threshold.
const KL: u32 = 0u;
const KL_UNNORMALISED: u32 = 1u;
const VELOCITY: u32 = 2u;
const DIVERGENCE: u32 = 0u;

struct PolicySettings {
    dim: f32,
    kl_mask_threshold: f32,
    clip_low: f32,
    clip_high: f32,
    // ln(1 - clip_low) and ln(1 + clip_high), from the host: computing them needs more digits than f32 has.
    log_clip_low: f32,
    log_clip_high: f32,
}

struct Term {
    s1: f32,
    s2: f32,
    b: f32,
    s: f32,
    advantage: f32,
    step_weight: f32,
}

// The constant that replaces the ratio of a dropped term.
struct Held {
    dropped: bool,
    value: f32,
}

@group(0) @binding(0) var<uniform> params: PolicyObjectiveParams;
// [rows, 2], as bits
@group(0) @binding(1) var<storage, read> stats: array<u32>;
@group(0) @binding(2) var<storage, read> advantage: array<f32>;
@group(0) @binding(3) var<storage, read> rows: array<SamplerRow>;
@group(0) @binding(4) var<storage, read> step_weight: array<f32>;
@group(0) @binding(5) var<storage, read> settings: PolicySettings;
@group(0) @binding(6) var<storage, read_write> loss: array<f32>;
@group(0) @binding(7) var<storage, read_write> outcomes: array<Outcome>;

fn kappa(term: Term) -> f32 {
    let slope = term.b / term.s;
    return 0.5 * slope * slope;
}

// The (p, q) of ln ratio = p*S1 - q*S2.
fn exponent(term: Term) -> vec2<f32> {
    if OBJECTIVE == GRPO_GUARD {
        return vec2<f32>(term.b / settings.dim, 0.0);
    }
    if LOG_PROB == CPS_SPECIAL {
        return vec2<f32>(2.0 * term.b * term.s, term.b * term.b) / settings.dim;
    }
    return vec2<f32>(term.b / term.s, kappa(term)) / settings.dim;
}

// exp without overflow. The series is exactly 1 at 0 on every device, and more accurate than exp nearby.
fn ratio_of(log_ratio: f32) -> f32 {
    let x = clamp(log_ratio, -20.0, 20.0);
    let series = 1.0 + x * (1.0 + x * (0.5 + x * (1.0 / 6.0)));
    return select(exp(x), series, abs(x) < 0.01);
}

fn drops(far: bool, log_ratio: f32, advantage: f32) -> bool {
    let outward = (log_ratio > 0.0 && advantage > 0.0) || (log_ratio < 0.0 && advantage < 0.0);
    if OBJECTIVE == FLOW_DPPO_ASYMMETRIC {
        return far && outward;
    }
    return OBJECTIVE == FLOW_DPPO_SYMMETRIC && far;
}

fn clipped_at(log_ratio: f32, advantage: f32) -> Held {
    if advantage >= 0.0 {
        return Held(log_ratio > settings.log_clip_high, 1.0 + settings.clip_high);
    }
    return Held(log_ratio < settings.log_clip_low, 1.0 - settings.clip_low);
}

// The factor of the mean of delta^2.
fn divergence_factor(term: Term) -> f32 {
    if DIVERGENCE == KL_UNNORMALISED {
        return 0.5 * term.b * term.b;
    }
    if DIVERGENCE == VELOCITY {
        return 1.0;
    }
    return kappa(term);
}

fn is_beyond(term: Term, log_ratio: f32) -> bool {
    if OBJECTIVE <= FLOW_DPPO_NO_MASK {
        return divergence_factor(term) / settings.dim * term.s2 >= settings.kl_mask_threshold;
    }
    return log_ratio > settings.log_clip_high || log_ratio < settings.log_clip_low;
}

fn weight(term: Term) -> f32 {
    if OBJECTIVE == GRPO_GUARD {
        return term.step_weight;
    }
    return 1.0;
}

fn evaluate(term: Term) -> Outcome {
    let kl = kappa(term) / settings.dim * term.s2;
    let pq = exponent(term);
    let log_ratio = pq.x * term.s1 - pq.y * term.s2;
    let ratio = ratio_of(log_ratio);
    let beyond = is_beyond(term, log_ratio);
    var held = Held(drops(beyond, log_ratio, term.advantage), 0.0);
    if OBJECTIVE > FLOW_DPPO_NO_MASK {
        held = clipped_at(log_ratio, term.advantage);
    }
    let gain = -weight(term) * term.advantage;
    // Selected, never multiplied by 0: a dropped value may be huge.
    let slope = select(gain * ratio, 0.0, held.dropped);
    return Outcome(
        gain * select(ratio, held.value, held.dropped),
        log_ratio,
        ratio,
        kl,
        select(1.0, 0.0, held.dropped),
        slope * pq.x,
        -slope * pq.y,
        select(0.0, 1.0, beyond),
    );
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i >= params.rows {
        return;
    }
    let s1 = bitcast<f32>(stats[i * 2u]);
    let s2 = bitcast<f32>(stats[i * 2u + 1u]);
    let term = Term(s1, s2, rows[i].b, rows[i].s, advantage[i], step_weight[i]);
    var outcome = evaluate(term);
    // The clamp must not turn a non-finite sum into a finite one.
    let broken = is_non_finite(stats[i * 2u]) || is_non_finite(stats[i * 2u + 1u]);
    if broken {
        outcome.loss = s1 + s2;
        outcome.d_s1 = s1 + s2;
        outcome.d_s2 = s1 + s2;
    }
    loss[i] = outcome.loss;
    outcomes[i] = outcome;
}
