// Parameters of layer norm and of its gradient with respect to x.
struct LayerNormParams {
    rows: u32,
    tokens: u32,
    columns: u32,
}
