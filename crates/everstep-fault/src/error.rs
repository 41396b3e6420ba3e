//! What can go wrong with a guarded run.

use everstep_tensor::Record;

use crate::{Budget, Place, Tally};

/// Result of a guard's call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a guarded run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] everstep_tensor::Error),
    /// A layer refused.
    #[error(transparent)]
    Nn(Box<everstep_nn::Error>),
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
    /// A planned fault that cannot be.
    #[error("planned fault {number} ({fault}): {problem}")]
    Plan {
        /// Its number in the plan, from 0.
        number: usize,
        /// The fault.
        fault: String,
        /// What is wrong.
        problem: String,
    },
    /// A file of a plan or a post-mortem.
    #[error("{path}: {problem}")]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What reading or writing it says.
        problem: String,
    },
    /// A fault that the policy does not recover from. The state is that before the refused step, or, where the update had
    /// partly been written or that state is suspect itself, that of the newest snapshot before it.
    #[error(
        "{place}: {} (loss {}, gradient norm {}), and the policy has no further answer ({budget}) after: {tally}; look at \
         that batch, or allow more",
        match .record.reasons() { reasons if reasons.is_empty() => "a slow fault".to_owned(), reasons => reasons },
        .record.loss, .record.norm
    )]
    GaveUp {
        /// The step.
        place: Place,
        /// Its record.
        record: Box<Record>,
        /// Which budget was used up.
        budget: Budget,
        /// What was done about the incident.
        tally: Tally,
    },
}

impl From<everstep_nn::Error> for Error {
    fn from(error: everstep_nn::Error) -> Self {
        Self::Nn(Box::new(error))
    }
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
