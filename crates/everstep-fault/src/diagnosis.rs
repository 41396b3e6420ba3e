//! What a fault was.

use std::fmt;

use everstep_tensor::Record;
use serde::Serialize;

use crate::{Place, Slow, Tally};

/// What a fault was, as running the step again told, on the same state and on another one, with its batch and another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The same step on the same state was clean: the device, in passing.
    Passing,
    /// The batch: it is faulty on another state too, and another batch is not.
    Data,
    /// The batch on this state: on another one it is clean, as is another batch on this state.
    DataAndState,
    /// The state: other batches are faulty on it too, or its memory had changed.
    State,
    /// Neither: other batches are faulty too, and on another state as well. The machine, or the program.
    Computation,
    /// A learning rate far above those before.
    LearningRate,
    /// Nothing sudden: see [`Slow`].
    Slow(Slow),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passing => "a passing fault of the device: the same step was clean when it ran again",
            Self::Data => "the data: the batch is faulty on another state too",
            Self::DataAndState => "this batch on this state: each was clean without the other",
            Self::State => "the state: parameters or optimizer states were not what training had made of them",
            Self::Computation => "the computation: every batch is faulty on every state",
            Self::LearningRate => "a learning rate far above those before",
            Self::Slow(slow) => return slow.fmt(f),
        })
    }
}

/// Where a value that is not finite first came up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The op that made it; `gradient` where all ops were clean and it lay in a parameter's gradient.
    pub op: &'static str,
    /// Ops of the step before it.
    pub number: u64,
    /// For a part of a backward pass, the op whose gradient it is.
    pub backward_of: Option<&'static str>,
    /// The layer: the name that leads to the parameter that was used last, its own excluded.
    pub layer: Option<String>,
    /// The shape of what it made.
    pub shape: Vec<usize>,
    /// The place of the first element that is not finite.
    pub element: Vec<usize>,
    /// That element: `NaN`, `inf` or `-inf`.
    pub value: String,
    /// What it read that was not finite already: a parameter's name or a batch's tensor.
    pub from: Option<String>,
    /// The sample that the element belongs to, where the first dimension counts samples.
    pub sample: Option<u64>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { op, backward_of, layer, shape, element, value, from, sample, .. } = self;
        match backward_of {
            Some(of) => write!(f, "{op} in the backward pass of {of}")?,
            None => write!(f, "{op}")?,
        }
        if let Some(layer) = layer {
            write!(f, " at {layer}")?;
        }
        write!(f, " first gave {value}, element {element:?} of {shape:?}")?;
        if let Some(sample) = sample {
            write!(f, ", sample {sample}")?;
        }
        from.as_ref().map_or(Ok(()), |from| write!(f, "; {from} was not finite before"))
    }
}

/// Everything that is known of an incident that is over.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diagnosis {
    /// What it was.
    pub cause: Cause,
    /// The step that was first refused.
    pub place: Place,
    /// The attempt at it.
    pub attempt: u64,
    /// Why it was refused, in words.
    pub reasons: String,
    /// Its record.
    #[serde(serialize_with = "crate::postmortem::record")]
    pub record: Record,
    /// Where the first value that is not finite came up, if there was one and it came again.
    pub origin: Option<Origin>,
    /// Whether the batch was faulty on another state, where that was tried.
    pub on_other_state: Option<bool>,
    /// Whether another batch was faulty on the state, where that was tried.
    pub with_other_batch: Option<bool>,
    /// The samples that halving the batch has found, and that are left out from now on.
    pub samples: Vec<u64>,
    /// What was done.
    pub tally: Tally,
    /// Attempts that did not move the run on: refused and held ones, trials, and steps that ran again.
    pub lost_steps: u64,
    /// Whether the run has recovered.
    pub recovered: bool,
    /// Whether faults were planned in this run.
    pub chaos: bool,
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.cause)?;
        if let Some(origin) = &self.origin {
            write!(f, "; {origin}")?;
        }
        if !self.samples.is_empty() {
            write!(f, "; samples {:?}", self.samples)?;
        }
        Ok(())
    }
}
