//! Optimizers: each one gated kernel over the state arena.
//!
//! A step is a transaction. [`Optimizer::step`] records the judgement of the step and the update behind it; on the device
//! a faulty step is refused, and every bit of the parameters and of the optimizer's state stays as it was.

mod adam;
mod captured;
mod error;
mod groups;
mod mixed;
mod optimizer;
mod plateau;
mod rates;
mod rmsprop;
mod rule;
mod schedule;
mod sgd;

pub use adam::{Adam, AdamW};
pub use captured::{CapturedStep, KeptStep};
pub use error::{Error, Result};
pub use groups::Groups;
pub use mixed::MixedPrecision;
pub use optimizer::Optimizer;
pub use plateau::{Better, Plateau, ReduceOnPlateau, Threshold};
pub use rates::{Adjustments, Settings};
pub use rmsprop::Rmsprop;
pub use rule::{Rule, Span};
pub use schedule::{LearningRate, Schedule};
pub use sgd::Sgd;
