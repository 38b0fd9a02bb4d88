// A, four elements at a time along whichever dimension is contiguous; its size and all strides are multiples of 4.
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
