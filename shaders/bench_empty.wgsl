// Does nothing: what is left is the cost of a dispatch.
@compute @workgroup_size(1)
fn main() {}
