//! The ops, one file each; methods of [`crate::Tensor`] apply them. At the bottom of each file stands the op's entry
//! of the table [`ALL`], from which its tests are generated, with its meaning in f64.

pub mod argmax;
pub mod cast;
pub mod cross_entropy;
pub mod dropout;
pub mod matmul;
pub mod pointwise;
pub mod reduce;
pub mod reference;
pub mod softmax;
pub mod table;
pub mod view;

pub use table::ALL;
