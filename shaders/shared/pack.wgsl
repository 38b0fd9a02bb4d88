// Elements one at a time. pack_vec4 has the same names for four at a time: a kernel that imports either is
// written once.
alias Pack = f32;
const PACK: u32 = 1u;

fn total(x: Pack) -> f32 {
    return x;
}
