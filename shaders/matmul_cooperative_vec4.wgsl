// For GPUs with products of matrices of 16 bits: tiles loaded four elements at a time.
//!import grid
//!import matmul
//!import fours_vec4
//!import epilogue
//!import matrices
//!import tiles_of_matrices

// Numbers of the epilogue, of the type of weights and of the size of matrices.
const EPILOGUE: u32 = 0u;
const WEIGHTS: u32 = 0u;
const MATRICES: u32 = 0u;
// The largest size that a subgroup of the device may have.
const SUBGROUP: u32 = 8u;
