// A and B, four elements at a time along whichever dimension is contiguous; its size and all strides are multiples
// of 4.
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
