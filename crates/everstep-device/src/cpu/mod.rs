//! The native CPU engine: every kernel's twin, and the executor that runs them on a pool of its own.

mod adam;
mod attention;
mod conv;
mod conv_backward;
mod conv_direct;
mod conv_lower;
mod cross_entropy;
mod cumsum;
mod dropout;
mod executor;
mod gate;
mod gather;
pub(crate) mod lanes;
mod layer_norm;
mod log_softmax;
pub(crate) mod math;
mod matmul;
mod matmul_half;
mod matmul_split;
mod memory;
mod pointwise;
mod pool;
pub(crate) mod power;
mod product;
mod reduce;
mod rmsprop;
mod scratch;
mod seal;
mod settle;
mod sgd;
pub(crate) mod simd;
mod softmax;
mod tally;
mod tile;
#[cfg(target_arch = "x86_64")]
mod tile_avx512;

pub use adam::{Adam, AdamParams};
pub use attention::{Attention, AttentionBackward, AttentionParams, WIDEST_HEAD};
pub use conv::{Conv, ConvGeometry, ConvParams};
pub use conv_backward::{ConvBackwardInput, ConvBackwardWeight, ConvWeightParams};
pub use cross_entropy::{CrossEntropy, CrossEntropyBackward, CrossEntropyBackwardParams, CrossEntropyParams};
pub use cumsum::{Cumsum, CumsumParams};
pub use dropout::{Dropout, DropoutParams};
use executor::threads;
pub(crate) use executor::{CpuExecutor, describe, memory_limit};
pub use gate::{Gate, GateParams, HEALTH_BLOCK, Health, HealthParams};
pub use gather::{Gather, IndexParams, Indexing, ScatterAdd};
pub use layer_norm::{LayerNorm, LayerNormBackward, LayerNormBackwardWeight, LayerNormParams, WEIGHT_ROWS};
pub use log_softmax::{LogSoftmax, LogSoftmaxBackward};
pub use matmul::{Matmul, MatmulParams};
pub use matmul_half::MatmulHalf;
pub use matmul_split::{MatmulSplit, MatmulSum, MatmulSumParams};
pub use pointwise::Pointwise;
pub use pool::{AvgPool, AvgPoolBackward, MaxPool, MaxPoolBackward, MaxPoolGather, PoolGeometry, PoolParams};
pub use reduce::{ArgMax, ArgMaxParams, Reduce, ReduceParams, Reduction};
pub use rmsprop::{Rmsprop, RmspropParams};
pub use seal::{Seal, SealParams};
pub use settle::{Settle, SettleParams};
pub use sgd::{Sgd, SgdParams};
pub use softmax::{Softmax, SoftmaxBackward, SoftmaxParams};

use crate::params::Field;

/// Every kernel with a shader file and a uniform: the shader's name and the fields of its Rust struct.
pub const UNIFORMS: &[(&str, &[Field])] = &[
    ("adam", AdamParams::FIELDS),
    ("adam_quads", AdamParams::FIELDS),
    ("argmax", ArgMaxParams::FIELDS),
    ("attention", AttentionParams::FIELDS),
    ("attention_backward", AttentionParams::FIELDS),
    ("attention_backward_lanes", AttentionParams::FIELDS),
    ("attention_lanes", AttentionParams::FIELDS),
    ("avg_pool2d", PoolParams::FIELDS),
    ("avg_pool2d_backward", PoolParams::FIELDS),
    ("conv2d", ConvParams::FIELDS),
    ("conv2d_backward_weight", ConvWeightParams::FIELDS),
    ("conv2d_backward_weight_lanes", ConvWeightParams::FIELDS),
    ("conv2d_backward_weight_tiles", ConvWeightParams::FIELDS),
    ("conv2d_lanes", ConvParams::FIELDS),
    ("conv2d_tiles", ConvParams::FIELDS),
    ("cross_entropy", CrossEntropyParams::FIELDS),
    ("cross_entropy_backward", CrossEntropyBackwardParams::FIELDS),
    ("cumsum", CumsumParams::FIELDS),
    ("dropout", DropoutParams::FIELDS),
    ("gate", GateParams::FIELDS),
    ("gather", IndexParams::FIELDS),
    ("health", HealthParams::FIELDS),
    ("layer_norm", LayerNormParams::FIELDS),
    ("layer_norm_backward", LayerNormParams::FIELDS),
    ("layer_norm_backward_weight", LayerNormParams::FIELDS),
    ("log_softmax", SoftmaxParams::FIELDS),
    ("log_softmax_backward", SoftmaxParams::FIELDS),
    ("matmul", MatmulParams::FIELDS),
    ("matmul_cooperative", MatmulParams::FIELDS),
    ("matmul_lanes", MatmulParams::FIELDS),
    ("matmul_large", MatmulParams::FIELDS),
    ("matmul_ragged_lanes", MatmulParams::FIELDS),
    ("matmul_rows", MatmulParams::FIELDS),
    ("matmul_sum", MatmulSumParams::FIELDS),
    ("max_pool2d", PoolParams::FIELDS),
    ("max_pool2d_backward", PoolParams::FIELDS),
    ("max_pool2d_gather", PoolParams::FIELDS),
    ("reduce", ReduceParams::FIELDS),
    ("reduce_columns", ReduceParams::FIELDS),
    ("rmsprop", RmspropParams::FIELDS),
    ("scatter_add", IndexParams::FIELDS),
    ("seal", SealParams::FIELDS),
    ("settle", SettleParams::FIELDS),
    ("sgd", SgdParams::FIELDS),
    ("softmax", SoftmaxParams::FIELDS),
    ("softmax_backward", SoftmaxParams::FIELDS),
];
