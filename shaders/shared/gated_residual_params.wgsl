// Parameters of a gated residual and of its gradient with respect to h.
struct GatedResidualParams {
    batch: u32,
    tokens: u32,
    columns: u32,
}
