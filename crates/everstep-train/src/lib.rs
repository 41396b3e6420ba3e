//! Metrics and the training loop of Everstep.
//!
//! A [`ConfusionMatrix`] counts a classifier's answers, and accuracy, precision, recall and F1 follow from it; a
//! [`Mean`] is the mean of a loss over batches of different sizes.

mod error;
mod metrics;

pub use error::{Error, Result};
pub use metrics::{Average, ConfusionMatrix, Mean, Scores};
