//! What can go wrong with a guarded run.

use everstep_tensor::Record;

use crate::checkpoint::CheckpointError;
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
    /// A checkpoint could not be written or read.
    #[error(transparent)]
    Checkpoint(#[from] Box<CheckpointError>),
    /// A setting with which nothing can be guarded.
    #[error("`{field}` must be {rule}")]
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
    /// A checkpoint of another model, optimizer or data set.
    #[error(
        "the checkpoint is of another run: {difference}; go on with what it was made with, or take over the weights that fit \
         with `load_weights`"
    )]
    Changed {
        /// What is different.
        difference: String,
    },
    /// A folder without checkpoints.
    #[error("{folder}: there is no checkpoint")]
    NothingSaved {
        /// The folder.
        folder: std::path::PathBuf,
    },
    /// A guard without checkpoints was asked for one.
    #[error("this guard has no checkpoints: make it with `Guard::resume_or_new` or `Guard::with_checkpoints`")]
    NoCheckpoints,
    /// A checkpoint that could not be written.
    #[error(
        "a checkpoint could not be saved: {problem}; the earlier ones are as they were, and the next save tries again"
    )]
    Writer {
        /// What went wrong.
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
    /// The run was asked to stop, and did so after a step: no fault.
    #[error(
        "stopped as asked; {}; run the same command to go on",
        match (.generation, .problem) {
            (Some(generation), None) => format!("the state is saved as generation {generation}"),
            (None, None) => "nothing was saved, as the run keeps no checkpoints".to_owned(),
            (Some(generation), Some(problem)) => {
                format!("the last steps could not be saved ({problem}), generation {generation} is the newest")
            }
            (None, Some(problem)) => format!("nothing could be saved: {problem}"),
        }
    )]
    Stopped {
        /// The generation that holds the state; `None` for a run that keeps none.
        generation: Option<u64>,
        /// Why the last state could not be saved.
        problem: Option<String>,
    },
    /// The process cannot listen to signals.
    #[error("signals cannot be listened to: {problem}")]
    Signals {
        /// What the system says, or that the program listens already.
        problem: String,
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

impl From<CheckpointError> for Error {
    fn from(error: CheckpointError) -> Self {
        Self::Checkpoint(Box::new(error))
    }
}
