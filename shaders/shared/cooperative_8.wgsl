enable f16;
enable wgpu_cooperative_matrix;

// The cooperative matrices of Metal. Takes the place of shared/cooperative_16.

const SIDE: u32 = 8u;

alias MatrixA = coop_mat8x8<f16, A>;
alias MatrixB = coop_mat8x8<f16, B>;
alias MatrixC = coop_mat8x8<f32, C>;
