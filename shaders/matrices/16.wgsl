// Products of 16x16 matrices that the lanes of a subgroup hold together.
enable f16;
enable wgpu_cooperative_matrix;

const SIDE: u32 = 16u;
alias MatrixA = coop_mat16x16<f16, A>;
alias MatrixB = coop_mat16x16<f16, B>;
alias MatrixC = coop_mat16x16<f32, C>;
