//! Buffers that forward passes change, within the transaction of the step.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use everstep_device::{DType, Device, Shape};

use crate::tensor::{Parts, Version};
use crate::{Error, Result, Tensor, recompute};

/// A tensor that forward passes change and no gradient does, such as the running mean of a batch norm: a stable handle,
/// clones of which are the same buffer.
///
/// Under an optimizer it exists twice. [`RunningBuffer::write`] changes the pending one; the end of the step makes it the
/// committed one, or, where the step is refused, undoes it, on the device. Without an optimizer there is no transaction,
/// and a write counts at once.
///
/// Where its device is lost, a restored snapshot of its optimizer brings the values back. Without an optimizer they are gone:
/// its use is [`everstep_device::Error::DeviceLost`] until [`RunningBuffer::set`].
#[derive(Clone)]
pub struct RunningBuffer(Arc<Mutex<State>>);

struct State {
    committed: Tensor,
    pending: Option<Pending>,
    owner: Weak<()>,
    version: Arc<AtomicU64>,
}

struct Pending {
    slot: Tensor,
    // The device's failed recordings when it was in step with the committed one: a later one may have left it anywhere.
    failures: u64,
}

impl RunningBuffer {
    /// A buffer with the values of `value`.
    ///
    /// # Errors
    /// [`Error::DTypes`] where it is not f32.
    pub fn new(value: &Tensor) -> Result<Self> {
        if value.dtype() != DType::F32 {
            return Err(Error::DTypes { op: "RunningBuffer", found: vec![value.dtype()] });
        }
        let committed = value.detach();
        committed.device().flush()?;
        let state = State { committed, pending: None, owner: Weak::new(), version: Arc::default() };
        Ok(Self(Arc::new(Mutex::new(state))))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The committed values: those of the last step that was. No gradient flows to them, and a backward pass over them
    /// after they have changed is an error.
    pub fn tensor(&self) -> Tensor {
        // Nothing writes the committed values before the step ends; without an optimizer a write leaves these as they are.
        recompute::buffer(|| Ok(self.committed()), false).unwrap_or_else(|_| self.committed())
    }

    fn committed(&self) -> Tensor {
        let state = self.state();
        let version = Version { current: state.version.clone(), taken: state.version.load(Ordering::Acquire) };
        Tensor::from_parts(Parts {
            region: state.committed.region().clone(),
            layout: *state.committed.layout(),
            dtype: DType::F32,
            node: None,
            version: Some(version),
        })
    }

    /// The values with what this step has written so far: what the next [`RunningBuffer::write`] starts from.
    ///
    /// # Errors
    /// Those of the recording.
    pub fn pending(&self) -> Result<Tensor> {
        recompute::buffer(|| self.written_so_far(), true)
    }

    fn written_so_far(&self) -> Result<Tensor> {
        let mut state = self.state();
        state.let_go();
        let State { committed, pending, .. } = &mut *state;
        let Some(Pending { slot, failures }) = pending else { return Ok(committed.clone()) };
        let now = slot.device().failures();
        if *failures != now {
            slot.write("running_buffer", committed)?;
            *failures = now;
        }
        Ok(slot.detach())
    }

    /// Changes the pending values; without an optimizer, the values. A part of the forward pass that a backward pass runs
    /// again changes nothing: it has done so.
    ///
    /// ```
    /// # use everstep_tensor::{Device, RunningBuffer, Tensor};
    /// let device = Device::cpu();
    /// let mean = RunningBuffer::new(&Tensor::zeros(&[2], &device)?)?;
    /// mean.write(&mean.pending()?.add_scalar(0.5)?)?;
    /// assert_eq!(mean.tensor().to_vec::<f32>()?, [0.5, 0.5]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shapes`], [`Error::DTypes`], [`Error::Devices`]; those of the recording.
    pub fn write(&self, value: &Tensor) -> Result<()> {
        self.check("write", value)?;
        if recompute::is_running_again() {
            return Ok(());
        }
        // An earlier failure would else leave its mark behind this write.
        self.written_so_far()?;
        let mut state = self.state();
        match &state.pending {
            Some(pending) => pending.slot.write("running_buffer", &value.detach()),
            None => state.replace(value),
        }
    }

    /// Replaces the values, pending and committed.
    ///
    /// # Errors
    /// As [`RunningBuffer::write`].
    pub fn set(&self, value: &Tensor) -> Result<()> {
        self.check("set", value)?;
        let mut state = self.state();
        state.let_go();
        let Some(pending) = &mut state.pending else { return state.replace(value) };
        pending.slot.write("running_buffer", &value.detach())?;
        pending.failures = pending.slot.device().failures();
        state.committed.write("running_buffer", &value.detach())?;
        state.version.fetch_add(1, Ordering::AcqRel);
        // Written before anything else can fail: what was loaded stays loaded.
        Ok(state.committed.device().flush()?)
    }

    fn check(&self, op: &'static str, value: &Tensor) -> Result<()> {
        let state = self.state();
        if value.shape() != state.committed.shape() {
            let rule = "a buffer keeps its shape";
            return Err(Error::Shapes { op, left: *value.shape(), right: *state.committed.shape(), rule });
        }
        if value.dtype() != DType::F32 {
            return Err(Error::DTypes { op, found: vec![value.dtype(), DType::F32] });
        }
        if !value.device().is(state.committed.device()) {
            let (left, right) = (value.device().to_string(), state.committed.device().to_string());
            return Err(Error::Devices { op, left, right });
        }
        Ok(())
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        *self.state().committed.shape()
    }

    /// The device.
    pub fn device(&self) -> Device {
        self.state().committed.device().clone()
    }

    /// Whether two handles are the same buffer.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether an arena that lives holds it.
    pub(crate) fn is_owned(&self) -> bool {
        self.state().owner.strong_count() > 0
    }

    /// Marks the committed values as changed.
    pub(crate) fn changed(&self) {
        self.state().version.fetch_add(1, Ordering::AcqRel);
    }

    /// Moves it into slots of an arena that lives as long as `owner`.
    pub(crate) fn rehome(&self, committed: Tensor, pending: Tensor, owner: &Arc<()>) -> Result<()> {
        let mut state = self.state();
        committed.write("rehome", &state.committed)?;
        pending.write("rehome", &state.committed)?;
        // From here on the old home is gone, so the new one must be written.
        committed.device().flush()?;
        let failures = pending.device().failures();
        state.committed = committed;
        state.pending = Some(Pending { slot: pending, failures });
        state.owner = Arc::downgrade(owner);
        state.version.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

impl State {
    /// With its optimizer gone there is no transaction any more, and what was pending in it never was.
    fn let_go(&mut self) {
        if self.owner.strong_count() == 0 {
            self.pending = None;
        }
    }

    /// Replaces the values where no arena holds them. They are computed at once: nothing could bring the earlier ones back.
    fn replace(&mut self, value: &Tensor) -> Result<()> {
        // The value may be a view of something else.
        let value = value.detach().copy()?;
        value.device().flush()?;
        self.committed = value;
        self.version.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

impl fmt::Debug for RunningBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunningBuffer({})", self.shape())
    }
}
