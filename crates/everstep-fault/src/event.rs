//! What a guard tells.

use std::fmt;

use everstep_data::Cursor;
use everstep_tensor::Record;

use crate::{Budget, Tally};

/// Something that a program may want to show or keep.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A step was refused on the device.
    Detected {
        /// Its record.
        record: Record,
        /// Its batch.
        at: Cursor,
    },
    /// It is run again from the state before it.
    Replayed {
        /// Its batch.
        at: Cursor,
    },
    /// Its batch is left out.
    Skipped {
        /// The batch.
        at: Cursor,
    },
    /// A snapshot was restored.
    Rewound {
        /// The attempt after which it was taken.
        attempt: u64,
        /// The batch that comes next.
        to: Cursor,
    },
    /// The learning rate was lowered, and the optimizer's states began anew.
    LearningRateLowered {
        /// The factor on it from now on.
        factor: f64,
    },
    /// The incident is over.
    Recovered {
        /// What it was, as what helped tells.
        cause: Cause,
        /// What was done.
        tally: Tally,
    },
    /// The policy has no further answer.
    GaveUp {
        /// Which budget was used up.
        budget: Budget,
    },
}

/// What a fault was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The same step on the same state was clean: the device, in passing.
    Passing,
    /// The state had changed: an earlier one was clean on the same batches.
    State,
    /// Leaving out the batch, or its neighbours, helped.
    Data,
    /// A lower learning rate helped.
    LearningRate,
}

/// As a sentence for a person.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |at: &Cursor| format!("epoch {}, sample {}", at.epoch, at.position);
        match self {
            Self::Detected { record, at } => {
                let (reasons, loss, norm) = (record.reasons(), record.loss, record.norm);
                write!(f, "{}: step refused: {reasons} (loss {loss:.4}, gradient norm {norm:.4})", place(at))
            }
            Self::Replayed { at } => write!(f, "{}: the step runs again", place(at)),
            Self::Skipped { at } => write!(f, "{}: the batch is left out", place(at)),
            Self::Rewound { attempt, to } => {
                write!(f, "back to the state after attempt {attempt}; {} comes next", place(to))
            }
            Self::LearningRateLowered { factor } => write!(f, "learning rate times {factor}, optimizer begins anew"),
            Self::Recovered { cause, tally } => write!(f, "recovered: {cause} ({tally})"),
            Self::GaveUp { budget } => write!(f, "given up: {budget}"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passing => "a passing fault of the device",
            Self::State => "the state had changed",
            Self::Data => "the data",
            Self::LearningRate => "the learning rate",
        })
    }
}

/// What one call of [`crate::Guard::step`] did.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The batch.
    pub at: Cursor,
    /// Records that have arrived, oldest first.
    pub records: Vec<Record>,
    /// What has happened.
    pub events: Vec<Event>,
}
