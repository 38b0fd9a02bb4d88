// Whether the bits of an f32 are those of an infinity or a NaN. Only bits can tell, and only loaded ones:
// compilers may assume that arithmetic yields neither.
fn is_non_finite(bits: u32) -> bool {
    return (bits & 0x7f800000u) == 0x7f800000u;
}
