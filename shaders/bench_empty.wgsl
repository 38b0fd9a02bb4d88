// Does nothing, to measure the cost of a dispatch.
@compute @workgroup_size(1)
fn main() {}
