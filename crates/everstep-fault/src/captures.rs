//! Steps that are recorded once and run many times.
//!
//! A step is recorded anew, forward pass and all, until two in a row on batches of the same shapes have been the same work. From
//! then on that is run, and the program's forward pass is not called. Now and then it is called again, to see whether it is
//! still the same: at the beginning of an epoch, after a layer was switched, and every so many steps.

use everstep_device::capture::Trace;
use everstep_device::{DType, Layout, Slice};
use everstep_optim::{CapturedStep, KeptStep};
use everstep_tensor::Tensor;

use crate::Batches;

/// Kinds of batches, by their shapes, of which steps are kept.
const KINDS: usize = 8;
/// Steps without a captured one until no more is tried of that kind.
const PATIENCE: u32 = 6;
/// Captured steps in a row after which the forward pass is called again.
const CHECK: u32 = 512;

/// What is known of the steps on batches of one kind.
enum Known {
    /// Nothing, or what the last one did; and how many could not be captured or were not like the one before.
    Traced(Option<Trace>, u32),
    Captured {
        step: CapturedStep,
        runs: u32,
        epoch: u64,
    },
    /// They cannot be captured.
    Never,
}

/// A tensor of a batch, but for where it lies.
type Kind = (Layout, DType, usize);

/// The captured steps of a guard.
#[derive(Default)]
pub(crate) struct Captures {
    known: Vec<(Vec<Kind>, Known)>,
    // Of the batch at hand.
    kind: Vec<Kind>,
    inputs: Vec<Slice>,
    index: usize,
}

impl Captures {
    /// Takes in the tensors of `batch`; whether steps on it can be captured.
    pub(crate) fn look<B: Batches>(&mut self, batch: &mut B::Batch) -> bool {
        let Self { known, kind, inputs, index } = self;
        kind.clear();
        inputs.clear();
        B::tensors(batch, &mut |_, tensor: &mut Tensor| {
            let slice = tensor.memory().slice();
            kind.push((*tensor.layout(), tensor.dtype(), slice.bytes));
            inputs.push(slice);
        });
        // A batch that shows nothing may still hold something, unless it is nothing at all.
        if kind.is_empty() && size_of::<B::Batch>() > 0 {
            return false;
        }
        let found = known.iter().position(|(known, _)| known == kind);
        *index = found.unwrap_or_else(|| {
            if known.len() >= KINDS {
                known.remove(0);
            }
            known.push((kind.clone(), Known::Traced(None, 0)));
            known.len() - 1
        });
        !matches!(known[*index].1, Known::Never)
    }

    /// The inputs of a step on the batch at hand.
    pub(crate) fn inputs(&self) -> &[Slice] {
        &self.inputs
    }

    /// The captured step to run on the batch at hand, in `epoch`; `None` where the forward pass is to be called.
    pub(crate) fn due(&mut self, epoch: u64) -> Option<(&CapturedStep, &[Slice])> {
        match &mut self.known[self.index].1 {
            Known::Captured { step, runs, epoch: of } if *runs < CHECK && *of == epoch => {
                *runs += 1;
                Some((step, &self.inputs))
            }
            _ => None,
        }
    }

    /// What a step on the batch at hand is compared with.
    pub(crate) fn earlier(&self) -> Option<&Trace> {
        match &self.known[self.index].1 {
            Known::Traced(trace, _) => trace.as_ref(),
            Known::Captured { step, .. } => Some(step.trace()),
            Known::Never => None,
        }
    }

    /// Takes in what came of a step that was recorded.
    pub(crate) fn learn(&mut self, kept: KeptStep, epoch: u64) {
        let known = &mut self.known[self.index].1;
        let misses = match known {
            Known::Traced(trace, misses) => *misses + u32::from(trace.is_some()),
            Known::Captured { .. } => {
                tracing::debug!("the forward pass was called again, and compared with the captured step");
                0
            }
            _ => 0,
        };
        *known = match kept {
            KeptStep::Captured(step) => {
                tracing::debug!("step captured");
                Known::Captured { step, runs: 0, epoch }
            }
            KeptStep::Trace(_) if misses >= PATIENCE => {
                tracing::debug!("steps are not captured: each is other work than the one before");
                Known::Never
            }
            KeptStep::Trace(trace) => {
                if matches!(known, Known::Captured { .. }) {
                    tracing::warn!(
                        "the forward pass does something else than when its step was captured: it depends on more than its \
                         batch and the model. It is called for each step until two are the same; Policy::capture turns \
                         capturing off"
                    );
                }
                Known::Traced(Some(trace), misses)
            }
            // What disturbs one may not disturb the next.
            KeptStep::Refused(reason) => {
                tracing::debug!(reason, "step not captured");
                if misses >= PATIENCE { Known::Never } else { Known::Traced(None, misses + 1) }
            }
        };
    }

    /// The captured step of the batch at hand is gone.
    pub(crate) fn forget(&mut self) {
        self.known[self.index].1 = Known::Traced(None, 0);
    }

    /// Has every forward pass called again before its captured step is run.
    pub(crate) fn check_all(&mut self) {
        for (_, known) in &mut self.known {
            match known {
                Known::Captured { runs, .. } => *runs = CHECK,
                Known::Never => *known = Known::Traced(None, 0),
                Known::Traced(..) => {}
            }
        }
    }
}
