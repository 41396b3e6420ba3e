//! Layers and the [`Module`] trait: what holds parameters, and how they begin.

extern crate self as everstep_nn;

mod dropout;
mod error;
pub mod init;
mod linear;
mod module;

pub use dropout::Dropout;
pub use error::{Error, Result};
pub use everstep_derive::Module;
pub use init::{Fan, Init};
pub use linear::{Linear, LinearConfig};
pub use module::{Item, Mode, Module, Summary, Visitor};
