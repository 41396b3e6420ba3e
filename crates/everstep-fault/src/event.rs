//! What a guard tells.

use std::fmt;

use everstep_tensor::Record;
use serde::Serialize;

use crate::{Budget, Cause, Diagnosis, Place, Slow, Stall};

/// Something that a program may want to show or keep.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A fault was seen: on the device, in the step that made it.
    Detected {
        /// The step's record.
        #[serde(serialize_with = "crate::postmortem::record")]
        record: Record,
        /// The step.
        place: Place,
    },
    /// A slow fault was seen in the series of committed steps.
    DetectedSlow {
        /// What it is.
        slow: Slow,
        /// The step.
        place: Place,
    },
    /// The policy leaves it at the device's answer: the step was refused, or only told of.
    Rejected {
        /// The step.
        place: Place,
        /// Whether the step was committed all the same.
        committed: bool,
    },
    /// The step is run again from the state before it.
    Replayed {
        /// The step.
        place: Place,
    },
    /// The cause was looked for.
    Examined {
        /// The step.
        place: Place,
        /// What it is thought to be.
        cause: Cause,
        /// The samples that were found.
        samples: Vec<u64>,
    },
    /// Samples are left out from now on.
    Quarantined {
        /// Their ids.
        samples: Vec<u64>,
    },
    /// A batch is left out.
    Skipped {
        /// Its step.
        place: Place,
    },
    /// A snapshot was restored.
    Rewound {
        /// The attempt after which it was taken.
        attempt: u64,
        /// The step that comes next.
        to: Place,
    },
    /// No learning rate is above this one from now on.
    LearningRateLimited {
        /// The limit.
        limit: f64,
    },
    /// The learning rate was lowered, and the optimizer's states began anew.
    LearningRateLowered {
        /// The factor on it from now on.
        factor: f64,
    },
    /// The incident is over.
    Recovered {
        /// What it was.
        diagnosis: Box<Diagnosis>,
    },
    /// The policy has no further answer.
    GaveUp {
        /// Which budget was used up.
        budget: Budget,
        /// What is known.
        diagnosis: Box<Diagnosis>,
    },
    /// A planned fault was made for the first time.
    Injected {
        /// The fault.
        fault: String,
        /// The step.
        place: Place,
    },
    /// The run stands, or stood, still for longer than is usual.
    Stalled {
        /// At what.
        stall: Stall,
    },
    /// The device is gone, and what lay on it.
    DeviceLost {
        /// What its driver says.
        reason: String,
        /// The step.
        place: Place,
    },
    /// A device was set up anew, with the state of a snapshot.
    DeviceRebuilt {
        /// Its name.
        device: String,
        /// The attempt after which the snapshot was taken.
        attempt: u64,
        /// The step that comes next.
        to: Place,
    },
    /// The run goes on with the CPU engine.
    FellBackToCpu {
        /// Why no device was set up.
        reason: String,
    },
    /// The run goes on from a checkpoint.
    Resumed {
        /// Its generation.
        generation: u64,
        /// The step that comes next.
        to: Place,
        /// What is another device than the one that saved it: the same bits are not to be expected then.
        device_changed: Option<String>,
    },
    /// A generation of the checkpoint cannot be used, and an older one is.
    GenerationDamaged {
        /// The generation.
        generation: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// The state was saved.
    Saved {
        /// Its generation.
        generation: u64,
        /// Its size.
        bytes: u64,
        /// How long it took.
        milliseconds: u64,
    },
    /// The state could not be saved; the run goes on, and tries again.
    SaveFailed {
        /// Why.
        problem: String,
    },
}

/// As a sentence for a person.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Detected { record, place } => {
                let (reasons, loss, norm) = (record.reasons(), record.loss, record.norm);
                write!(f, "{place}: seen on the device: {reasons} (loss {loss:.4}, gradient norm {norm:.4})")
            }
            Self::DetectedSlow { slow, place } => write!(f, "{place}: {slow}"),
            Self::Rejected { place, committed: false } => write!(f, "{place}: the step was refused"),
            Self::Rejected { place, committed: true } => write!(f, "{place}: told, and nothing was changed"),
            Self::Replayed { place } => write!(f, "{place}: the step runs again from the state before it"),
            Self::Examined { place, cause, samples } if samples.is_empty() => write!(f, "{place}: {cause}"),
            Self::Examined { place, cause, samples } => write!(f, "{place}: {cause}; samples {samples:?}"),
            Self::Quarantined { samples } => write!(f, "samples {samples:?} are left out from now on"),
            Self::Skipped { place } => write!(f, "{place}: the batch is left out"),
            Self::Rewound { attempt, to } => write!(f, "back to the state after attempt {attempt}; {to} comes next"),
            Self::LearningRateLimited { limit } => write!(f, "no learning rate above {limit:e} from now on"),
            Self::LearningRateLowered { factor } => write!(f, "learning rate times {factor}, optimizer begins anew"),
            Self::Recovered { diagnosis } => write!(f, "recovered from {diagnosis} ({})", diagnosis.tally),
            Self::GaveUp { budget, diagnosis } => write!(f, "given up ({budget}): {diagnosis}"),
            Self::Injected { fault, place } => write!(f, "{place}: planned fault: {fault}"),
            Self::Stalled { stall } => stall.fmt(f),
            Self::DeviceLost { reason, place } => write!(f, "{place}: the device was lost: {reason}"),
            Self::DeviceRebuilt { device, attempt, to } => {
                write!(f, "{device} was set up anew with the state after attempt {attempt}; {to} comes next")
            }
            Self::FellBackToCpu { reason } => write!(f, "the run goes on with the CPU engine: {reason}"),
            Self::Resumed { generation, to, device_changed: None } => {
                write!(f, "resumed from generation {generation}; {to} comes next")
            }
            Self::Resumed { generation, to, device_changed: Some(change) } => {
                write!(f, "resumed from generation {generation} on another device ({change}); {to} comes next")
            }
            Self::GenerationDamaged { generation, problem } => {
                write!(f, "generation {generation} cannot be used: {problem}")
            }
            Self::Saved { generation, bytes, milliseconds } => {
                write!(f, "saved as generation {generation}: {bytes} bytes in {milliseconds} ms")
            }
            Self::SaveFailed { problem } => write!(f, "the state could not be saved: {problem}"),
        }
    }
}

/// What one call of [`crate::Guard::step`] did.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The step.
    pub place: Place,
    /// Records that have arrived, oldest first.
    pub records: Vec<Record>,
    /// What has happened.
    pub events: Vec<Event>,
    /// Whether faults are planned in this run: what it says of itself is then no news of the machine.
    pub chaos: bool,
}
