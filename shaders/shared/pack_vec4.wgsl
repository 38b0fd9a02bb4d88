// Elements four at a time, in tensors whose rows consist of complete vectors.
alias Pack = vec4<f32>;
const PACK: u32 = 4u;

fn total(x: Pack) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}
