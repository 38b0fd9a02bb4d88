// The index of a workgroup in a grid that the host folded into two dimensions (WebGPU guarantees only 65 535
// along one).
fn linear_workgroup(workgroup: vec3<u32>, workgroups: vec3<u32>) -> u32 {
    return workgroup.x + workgroup.y * workgroups.x;
}
