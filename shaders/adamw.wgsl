// AdamW (Loshchilov and Hutter, arXiv 1711.05101) after clipping by the global norm, in place; clears the
// gradients and updates the averaged weights. Gradients with a non-finite element change no parameter.
//!import each
//!import non_finite
//!import elements

// See each.wgsl.
const PACKED: u32 = 0u;

struct AdamWStep {
    learning_rate: f32,
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    weight_decay: f32,
    // 1 - beta^step
    bias_correction1: f32,
    bias_correction2: f32,
    gradient_factor: f32,
    // 0 disables clipping
    max_grad_norm: f32,
    // 1 leaves the average unchanged
    average_decay: f32,
}

@group(0) @binding(0) var<uniform> params: ElementsParams;
@group(0) @binding(1) var<storage, read> settings: AdamWStep;
// The sum of squares of all gradients and the number of non-finite ones, as bits.
@group(0) @binding(2) var<storage, read> sum_squares: array<u32>;
@group(0) @binding(3) var<storage, read_write> parameters: array<Pack>;
@group(0) @binding(4) var<storage, read_write> first_moment: array<Pack>;
@group(0) @binding(5) var<storage, read_write> second_moment: array<Pack>;
@group(0) @binding(6) var<storage, read_write> gradients: array<Pack>;
@group(0) @binding(7) var<storage, read_write> averages: array<Pack>;

fn clip_coefficient() -> f32 {
    if settings.max_grad_norm > 0.0 {
        return min(1.0, settings.max_grad_norm / (sqrt(bitcast<f32>(sum_squares[0])) * settings.gradient_factor + 1e-6));
    }
    return 1.0;
}

// The parameter after a step with this gradient.
fn step(i: u32, gradient: Pack) -> Pack {
    let g = clip_coefficient() * (settings.gradient_factor * gradient);
    let m = settings.beta1 * first_moment[i] + (1.0 - settings.beta1) * g;
    let v = settings.beta2 * second_moment[i] + (1.0 - settings.beta2) * g * g;
    first_moment[i] = m;
    second_moment[i] = v;
    let direction = m / settings.bias_correction1 / (sqrt(v / settings.bias_correction2) + settings.epsilon);
    let decayed = parameters[i] - settings.learning_rate * settings.weight_decay * parameters[i];
    return decayed - settings.learning_rate * direction;
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * LANES + lane;
    if i >= params.elements / PACK {
        return;
    }
    let gradient = gradients[i];
    gradients[i] = Pack();
    var parameter = parameters[i];
    // The sum overflows before the largest gradient does: such a step is skipped too. The count is never
    // negative, so its bits are 0 exactly if it is 0.
    if !is_non_finite(sum_squares[0]) && sum_squares[1] == 0u {
        parameter = step(i, gradient);
        parameters[i] = parameter;
    }
    if settings.average_decay < 1.0 {
        averages[i] = settings.average_decay * averages[i] + (1.0 - settings.average_decay) * parameter;
    }
}
