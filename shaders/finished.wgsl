// Counts submissions: the last dispatch of each adds one. A readback compares the count with the host's and
// thus detects an earlier submission that was dropped.

@group(0) @binding(1) var<storage, read_write> finished: array<u32>;

@compute @workgroup_size(1)
fn main() {
    finished[0] += 1u;
}
