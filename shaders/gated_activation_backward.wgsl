// d_gate = dy * x * d act(gate) / d gate and, if it is needed, d_x = dy * act(gate).
//!import each
//!import gate

// See each.wgsl.
const PACKED: u32 = 0u;

// One of those in shared/gate.wgsl.
const ACTIVATION: u32 = 0u;

struct GatedActivationBackwardParams {
    elements: u32,
    with_x: u32,
}

@group(0) @binding(0) var<uniform> params: GatedActivationBackwardParams;
@group(0) @binding(1) var<storage, read> gate: array<Pack>;
@group(0) @binding(2) var<storage, read> x: array<Pack>;
@group(0) @binding(3) var<storage, read> dy: array<Pack>;
@group(0) @binding(4) var<storage, read_write> d_gate: array<Pack>;
@group(0) @binding(5) var<storage, read_write> d_x: array<Pack>;

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
    d_gate[i] = gate_gradient(gate[i], dy[i] * x[i]);
    if params.with_x == 1u {
        d_x[i] = gate_value(gate[i]) * dy[i];
    }
}
