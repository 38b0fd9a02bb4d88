// Two sums at once over the 64 lanes of a workgroup, always in the same order.

var<workgroup> block_sums: array<vec2<f32>, 64>;

// Every lane must call it, and every lane gets the sums. The first barrier lets slower lanes read the sums
// of the previous call.
fn block_sum(lane: u32, value: vec2<f32>) -> vec2<f32> {
    workgroupBarrier();
    block_sums[lane] = value;
    workgroupBarrier();
    for (var width = 32u; width > 0u; width >>= 1u) {
        if lane < width {
            block_sums[lane] += block_sums[lane + width];
        }
        workgroupBarrier();
    }
    return block_sums[0];
}
