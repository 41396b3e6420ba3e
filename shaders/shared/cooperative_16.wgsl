enable f16;
enable wgpu_cooperative_matrix;

// The cooperative matrices that most GPUs have through Vulkan. These files come first, as nothing may stand before `enable`.

const SIDE: u32 = 16u;

alias MatrixA = coop_mat16x16<f16, A>;
alias MatrixB = coop_mat16x16<f16, B>;
alias MatrixC = coop_mat16x16<f32, C>;
