//! The ops, one file each; methods of [`crate::Tensor`] apply them. At the bottom of each file stands the op's entry
//! of the table [`ALL`], from which its tests are generated, with its meaning in f64.

pub mod any_all;
pub mod argmax;
pub mod arrange;
pub mod attention;
pub mod batch_norm;
pub mod cast;
pub mod compare;
pub mod conv;
pub mod cross_entropy;
pub mod cross_entropy_with;
pub mod cumsum;
pub mod dropout;
pub mod elementwise;
pub mod gather;
pub mod join;
pub mod layer_norm;
pub mod log_softmax;
pub mod matmul;
pub mod pad;
pub mod pointwise;
mod pointwise_cases;
pub mod pool;
pub mod reduce;
pub mod reference;
pub mod softmax;
pub mod statistics;
pub mod table;
pub mod view;

pub use table::ALL;
