// Parameters of kernels that are alone with row_sums.
struct RowSumsParams {
    outer: u32,
    rows: u32,
    columns: u32,
    chunk: u32,
    chunks: u32,
}
