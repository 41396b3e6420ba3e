//! Steps that are recorded once and run many times: the model's forward pass is not called again.

use everstep_device::Slice;
use everstep_device::capture::{Capture, Kept, Start, Trace};
use everstep_tensor::{Tensor, structure_version};

use crate::{Optimizer, Result};

/// A step that can be run again on another batch: forward, backward, judgement and update as one piece of work.
#[derive(Debug)]
pub struct CapturedStep {
    capture: Capture,
    record: Tensor,
    // The device's failed recordings then: what came after another one may lack something.
    failures: u64,
    // Of the model then.
    structure: u64,
}

/// What came of a step that might have been captured. It has been taken in any case.
#[derive(Debug)]
pub enum KeptStep {
    /// It is the same as the earlier one.
    Captured(CapturedStep),
    /// It is another one, for the next to be compared with.
    Trace(Trace),
    /// It cannot be captured, for this reason.
    Refused(&'static str),
}

impl CapturedStep {
    /// What it does, to compare another recording of it with.
    pub fn trace(&self) -> &Trace {
        self.capture.trace()
    }
}

impl Optimizer {
    /// Begins a step that may be captured; its forward and backward passes follow, and [`Optimizer::end_step`].
    ///
    /// # Errors
    /// Those of the recording.
    pub fn begin_step(&mut self) -> Result<Start> {
        self.prepare()?;
        Ok(self.device().begin_capture()?)
    }

    /// As [`Optimizer::step`], but for [`Optimizer::deliver`], which is to follow. Where everything since `start` is the same as
    /// `earlier`, on other `inputs`, it is captured.
    ///
    /// # Errors
    /// As [`Optimizer::step`].
    pub fn end_step(
        &mut self,
        start: Start,
        loss: &Tensor,
        inputs: &[Slice],
        earlier: Option<&Trace>,
    ) -> Result<KeptStep> {
        self.gate().check(loss)?;
        self.record(loss)?;
        let Some(record) = self.gate().record().cloned() else { return Ok(KeptStep::Refused("it was not judged")) };
        let outputs = [loss, &record].map(Tensor::memory).to_vec();
        Ok(match self.device().end_capture(start, inputs, outputs, earlier)? {
            Kept::Capture(capture) => {
                let (failures, structure) = (self.device().failures(), structure_version());
                KeptStep::Captured(CapturedStep { capture, record, failures, structure })
            }
            Kept::Trace(trace) => KeptStep::Trace(trace),
            Kept::Refused(reason) => KeptStep::Refused(reason),
        })
    }

    /// Takes a captured step on other inputs of the same shapes, in place of forward pass, backward pass and
    /// [`Optimizer::step`]; [`Optimizer::deliver`] is to follow. `false` where it can no longer be taken, and nothing was done: a
    /// layer was switched, a parameter frozen, a gradient collected elsewhere, the device was lost, or its memory was short.
    ///
    /// # Errors
    /// Those of the recording.
    pub fn replay(&mut self, step: &CapturedStep, inputs: &[Slice]) -> Result<bool> {
        self.prepare()?;
        let same = (step.failures, step.structure) == (self.device().failures(), structure_version());
        if !same || !self.arena().is_at_rest() || !self.device().replay(&step.capture, inputs)? {
            return Ok(false);
        }
        self.replayed(&step.record);
        Ok(true)
    }
}
