//! The ops, one file each; methods of [`crate::Tensor`] apply them.

pub mod argmax;
pub mod cast;
pub mod cross_entropy;
pub mod dropout;
pub mod matmul;
pub mod pointwise;
pub mod reduce;
pub mod softmax;
pub mod table;
pub mod view;

pub use table::ALL;
