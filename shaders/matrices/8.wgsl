// Products of 8x8 matrices that the lanes of a subgroup hold together.
enable f16;
enable wgpu_cooperative_matrix;

const SIDE: u32 = 8u;
alias MatrixA = coop_mat8x8<f16, A>;
alias MatrixB = coop_mat8x8<f16, B>;
alias MatrixC = coop_mat8x8<f32, C>;
