//! Whether a model may compute something else than before.

use std::sync::atomic::{AtomicU64, Ordering};

static VERSION: AtomicU64 = AtomicU64::new(0);

/// A number that changes whenever a layer is switched between training and evaluation, or a parameter is frozen or let learn
/// again, anywhere in the process: a step that was captured before may be another one now.
///
/// ```
/// # use everstep_tensor::{Device, Parameter, Tensor, structure_version};
/// let parameter = Parameter::new(&Tensor::ones(&[2], &Device::cpu())?)?;
/// let before = structure_version();
/// parameter.set_trainable(false);
/// assert_ne!(structure_version(), before);
/// # Ok::<(), everstep_tensor::Error>(())
/// ```
pub fn structure_version() -> u64 {
    VERSION.load(Ordering::Acquire)
}

/// Changes [`structure_version`]: for layers of a program's own that switch what they compute.
pub fn structure_changed() {
    VERSION.fetch_add(1, Ordering::AcqRel);
}
