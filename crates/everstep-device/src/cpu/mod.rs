//! The native CPU engine: every kernel's twin, and the executor that runs them on a pool of its own.

mod adam;
mod cross_entropy;
mod dropout;
mod executor;
mod gate;
pub(crate) mod lanes;
pub(crate) mod math;
mod matmul;
mod memory;
mod pointwise;
mod reduce;
mod sgd;
pub(crate) mod simd;
mod softmax;

pub use adam::{Adam, AdamParams};
pub use cross_entropy::{CrossEntropy, CrossEntropyBackward, CrossEntropyBackwardParams, CrossEntropyParams};
pub use dropout::{Dropout, DropoutParams};
pub(crate) use executor::{CpuExecutor, describe, memory_limit};
pub use gate::{Gate, GateParams, HEALTH_BLOCK, Health, HealthParams};
pub use matmul::{Matmul, MatmulParams};
pub use pointwise::Pointwise;
pub use reduce::{ArgMax, ArgMaxParams, Reduce, ReduceParams, Reduction};
pub use sgd::{Sgd, SgdParams};
pub use softmax::{Softmax, SoftmaxBackward, SoftmaxParams};

use crate::params::Field;

/// Every kernel with a shader file and a uniform: the shader's name and the fields of its Rust struct.
pub const UNIFORMS: &[(&str, &[Field])] = &[
    ("adam", AdamParams::FIELDS),
    ("argmax", ArgMaxParams::FIELDS),
    ("cross_entropy", CrossEntropyParams::FIELDS),
    ("cross_entropy_backward", CrossEntropyBackwardParams::FIELDS),
    ("dropout", DropoutParams::FIELDS),
    ("gate", GateParams::FIELDS),
    ("health", HealthParams::FIELDS),
    ("matmul", MatmulParams::FIELDS),
    ("matmul_rows", MatmulParams::FIELDS),
    ("reduce", ReduceParams::FIELDS),
    ("reduce_columns", ReduceParams::FIELDS),
    ("sgd", SgdParams::FIELDS),
    ("softmax", SoftmaxParams::FIELDS),
    ("softmax_backward", SoftmaxParams::FIELDS),
];
