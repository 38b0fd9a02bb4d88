// One step of any sampler: y = a*x + b*v + s*epsilon, with the row's (a, b, s).
//!import grid
//!import elements_columns
//!import sampler_row

@group(0) @binding(0) var<uniform> params: ElementsColumnsParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> epsilon: array<f32>;
@group(0) @binding(4) var<storage, read> rows: array<SamplerRow>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i >= params.elements {
        return;
    }
    let row = rows[i / params.columns];
    y[i] = row.a * x[i] + row.b * v[i] + row.s * epsilon[i];
}
