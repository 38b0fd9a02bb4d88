// The largest value over the 64 lanes of a workgroup.

var<workgroup> block_maxima: array<f32, 64>;

// Every lane must call it, and every lane gets the maximum. The first barrier lets slower lanes read that of the
// previous call.
fn block_max(lane: u32, value: f32) -> f32 {
    workgroupBarrier();
    block_maxima[lane] = value;
    workgroupBarrier();
    for (var width = 32u; width > 0u; width >>= 1u) {
        if lane < width {
            block_maxima[lane] = max(block_maxima[lane], block_maxima[lane + width]);
        }
        workgroupBarrier();
    }
    return block_maxima[0];
}
