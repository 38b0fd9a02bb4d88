// The parameters of kernels with one invocation per element that read something of its row, too.
struct ElementsColumnsParams {
    elements: u32,
    columns: u32,
}
