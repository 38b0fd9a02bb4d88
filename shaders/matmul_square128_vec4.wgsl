// For GPUs and large products: tiles of 128x128, loaded four elements at a time.
//!import grid
//!import matmul
//!import fours_vec4
//!import epilogue
//!import tiles_128x128

// Numbers of the epilogue, of the type of weights and of the precision.
const EPILOGUE: u32 = 0u;
const WEIGHTS: u32 = 0u;
const PRECISION: u32 = 0u;
