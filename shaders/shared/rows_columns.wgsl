// The parameters of kernels that work on whole rows.
struct RowsColumnsParams {
    rows: u32,
    columns: u32,
}
