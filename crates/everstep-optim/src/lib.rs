//! Optimizers: each one gated kernel over the state arena.
//!
//! A step is a transaction. [`Optimizer::step`] records the judgement of the step and the update behind it; on the device
//! a faulty step is refused, and every bit of the parameters and of the optimizer's state stays as it was.

mod adam;
mod error;
mod optimizer;
mod sgd;

pub use adam::{Adam, AdamW};
pub use error::{Error, Result};
pub use optimizer::{Optimizer, Rule};
pub use sgd::Sgd;
