// The parameters of kernels with one invocation per element.
struct ElementsParams {
    elements: u32,
}
