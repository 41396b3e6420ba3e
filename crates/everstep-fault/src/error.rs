//! What can go wrong with a guarded run.

use everstep_data::Cursor;
use everstep_tensor::Record;

use crate::{Budget, Tally};

/// Result of a guard's call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a guarded run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] everstep_tensor::Error),
    /// The optimizer refused.
    #[error(transparent)]
    Optim(Box<everstep_optim::Error>),
    /// The data could not be read.
    #[error(transparent)]
    Data(Box<everstep_data::Error>),
    /// A setting with which nothing can be guarded.
    #[error("Policy: `{field}` must be {rule}")]
    Setting {
        /// The field.
        field: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// A fault that the policy does not recover from. The state is that before the refused step, or, where the update had
    /// partly been written, that of the newest snapshot before it.
    #[error(
        "epoch {}, sample {}: the step was refused ({}; loss {}, gradient norm {}) and the policy has no further answer \
         ({budget}) after {tally}; look at that batch, or allow more",
        .at.epoch, .at.position, .record.reasons(), .record.loss, .record.norm
    )]
    GaveUp {
        /// The batch.
        at: Cursor,
        /// The refused step.
        record: Box<Record>,
        /// Which budget was used up.
        budget: Budget,
        /// What was done about the incident.
        tally: Tally,
    },
}

impl From<everstep_optim::Error> for Error {
    fn from(error: everstep_optim::Error) -> Self {
        Self::Optim(Box::new(error))
    }
}

impl From<everstep_data::Error> for Error {
    fn from(error: everstep_data::Error) -> Self {
        Self::Data(Box::new(error))
    }
}
