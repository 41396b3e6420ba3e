//! Layers and the [`Module`] trait: what holds parameters, and how they begin.

extern crate self as everstep_nn;

mod activation;
mod attention;
mod conv;
mod dropout;
mod embedding;
mod error;
pub mod init;
mod layer;
mod linear;
pub mod loss;
mod module;
mod norm;
mod pattern;
mod pool;
pub mod safetensors;
pub mod transformer;

pub use activation::{Elu, Flatten, Gelu, GeluTanh, LeakyRelu, Relu, Sigmoid, Silu, Softplus, Tanh};
pub use attention::MultiHeadAttention;
pub use conv::{Conv1d, Conv1dConfig, Conv2d, Conv2dConfig};
pub use dropout::Dropout;
pub use embedding::Embedding;
pub use error::{Error, Result};
pub use everstep_derive::Module;
pub use init::{Fan, Init};
pub use layer::{Layer, Sequential};
pub use linear::{Linear, LinearConfig};
pub use module::{Item, Mode, Module, Summary, Visitor};
pub use norm::{BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, RmsNorm};
pub use pattern::Pattern;
pub use pool::{AdaptiveAvgPool1d, AdaptiveAvgPool2d, AvgPool1d, AvgPool2d, MaxPool1d, MaxPool2d};
