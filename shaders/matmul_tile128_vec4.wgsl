// For GPUs and large products: tiles of 128x64, loaded four elements at a time.
//!import grid
//!import matmul
//!import fours_vec4
//!import epilogue
//!import tiles_128

// Numbers of the epilogue and of the type of weights.
const EPILOGUE: u32 = 0u;
const WEIGHTS: u32 = 0u;
