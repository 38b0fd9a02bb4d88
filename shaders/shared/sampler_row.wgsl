// A step of a sampler: x' = a*x + b*v + s*epsilon.
struct SamplerRow {
    a: f32,
    b: f32,
    s: f32,
}
