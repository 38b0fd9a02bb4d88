//! Every op on the device against its twin in f64, and every gradient against central differences, over odd
//! shapes.

mod common;

mod ops {
    mod adamw;
    mod attention;
    mod conv2d;
    mod copy_tokens;
    mod cross_entropy;
    mod data_types;
    mod elementwise;
    mod group_norm;
    mod half_precision;
    mod matmul;
    mod matmul_half;
    mod matmul_joined;
    mod mean_squared_error;
    mod modulation;
    mod nft_loss;
    mod packs;
    mod philox_normal;
    mod policy_objective;
    mod policy_stats;
    mod rms_norm;
    mod rope;
    mod sampler_step;
    mod softmax_rows;
    mod sum_squares;
    mod text;
    mod transformer;
    mod unwanted;
}
