//! Parameters: stable handles on tensors that an optimizer changes, and where their gradients go.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use everstep_device::{DType, Device, Generator, Shape};

use crate::autograd::Node;
use crate::tensor::{Parts, Version};
use crate::{Error, Result, Tensor, recompute};

/// A tensor that is learned: a stable handle, whatever buffer holds its values. Clones are the same parameter, so two
/// layers that hold clones are tied.
///
/// Where its device is lost, a restored snapshot of its optimizer brings the values back. Those of a parameter without an
/// optimizer are gone: its use is [`everstep_device::Error::DeviceLost`] until [`Parameter::set`].
#[derive(Clone)]
pub struct Parameter(Arc<Leaf>);

/// The shared state of a parameter; also the leaf of the tape.
pub(crate) struct Leaf {
    shape: Shape,
    dtype: DType,
    trainable: AtomicBool,
    version: Arc<AtomicU64>,
    home: Mutex<Home>,
}

/// Where values and gradients live.
struct Home {
    value: Tensor,
    gradient: Gradient,
    owner: Weak<()>,
    // One leaf for all uses on one tape, so that their gradients are added before they are stored.
    node: Weak<Node>,
}

enum Gradient {
    /// With the parameter itself.
    Free(Option<Tensor>),
    /// In a slot of an arena.
    Slot { slot: Tensor, holds: Holds },
}

/// What a gradient's slot holds. A recording that fails takes with it what it was to write, so each state but the first
/// is as of a number of failed recordings.
#[derive(Clone, Copy, PartialEq)]
enum Holds {
    /// What an earlier step left.
    Old,
    /// This step's gradient so far.
    Gradient(u64),
    /// Zeros.
    Zeros(u64),
}

impl Leaf {
    fn home(&self) -> MutexGuard<'_, Home> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn accumulate(&self, gradient: &Tensor) -> Result<()> {
        if !self.trainable.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut home = self.home();
        match &mut home.gradient {
            Gradient::Free(sum) => {
                *sum = Some(match sum.take() {
                    Some(earlier) => earlier.add(gradient)?,
                    None => gradient.detach(),
                });
            }
            Gradient::Slot { slot, holds } => {
                let now = Holds::Gradient(slot.device().failures());
                match *holds == now {
                    true => slot.write("accumulate", &slot.add(gradient)?)?,
                    false => slot.write("gradient", gradient)?,
                }
                *holds = now;
            }
        }
        Ok(())
    }

    pub(crate) fn gradient(&self) -> Option<Tensor> {
        match &self.home().gradient {
            Gradient::Free(gradient) => gradient.clone(),
            Gradient::Slot { slot, holds } => {
                (*holds == Holds::Gradient(slot.device().failures())).then(|| slot.clone())
            }
        }
    }
}

impl Parameter {
    /// A parameter with the values of `value`.
    ///
    /// # Errors
    /// [`Error::NotFloat`].
    pub fn new(value: &Tensor) -> Result<Self> {
        if !value.dtype().is_float() {
            return Err(Error::NotFloat { dtype: value.dtype() });
        }
        // Written before anything else can fail: a first batch that is too large does not take the weights with it.
        value.device().flush()?;
        Ok(Self(Arc::new(Leaf {
            shape: *value.shape(),
            dtype: value.dtype(),
            trainable: AtomicBool::new(true),
            version: Arc::default(),
            home: Mutex::new(Home {
                value: value.detach(),
                gradient: Gradient::Free(None),
                owner: Weak::new(),
                node: Weak::new(),
            }),
        })))
    }

    /// The values as they are now, for use in a forward pass. A backward pass over it after an optimizer step is an
    /// error, because the values have changed by then.
    pub fn tensor(&self) -> Tensor {
        let mut home = self.0.home();
        let version = Version { current: self.0.version.clone(), taken: self.0.version.load(Ordering::Acquire) };
        let node = (self.is_trainable() && crate::is_recording()).then(|| {
            let node = home.node.upgrade().unwrap_or_else(|| Node::leaf(self.0.clone()));
            home.node = Arc::downgrade(&node);
            node
        });
        Tensor::from_parts(Parts {
            region: home.value.region().clone(),
            layout: *home.value.layout(),
            dtype: self.0.dtype,
            node,
            version: Some(version),
        })
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        &self.0.shape
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// The device.
    pub fn device(&self) -> Device {
        self.0.home().value.device().clone()
    }

    /// The gradient that backward passes have collected since the last step; `None` where none reached it.
    pub fn grad(&self) -> Option<Tensor> {
        self.0.gradient()
    }

    /// Forgets the collected gradient. An optimizer's step does so by itself.
    pub fn zero_grad(&self) {
        match &mut self.0.home().gradient {
            Gradient::Free(gradient) => *gradient = None,
            Gradient::Slot { holds, .. } => *holds = Holds::Old,
        }
    }

    /// Replaces the values: in its slot where an arena holds it, else in memory of its own. Tensors that share memory
    /// with the earlier values keep them.
    ///
    /// # Errors
    /// [`Error::Shapes`] and [`Error::DTypes`] where shape or dtype differ; [`Error::Devices`].
    pub fn set(&self, value: &Tensor) -> Result<()> {
        if value.shape() != self.shape() {
            let rule = "a parameter keeps its shape";
            return Err(Error::Shapes { op: "set", left: *value.shape(), right: *self.shape(), rule });
        }
        if value.dtype() != self.dtype() {
            return Err(Error::DTypes { op: "set", found: vec![value.dtype(), self.dtype()] });
        }
        let mut home = self.0.home();
        if !value.device().is(home.value.device()) {
            let (left, right) = (value.device().to_string(), home.value.device().to_string());
            return Err(Error::Devices { op: "set", left, right });
        }
        match home.gradient {
            Gradient::Slot { .. } => home.value.write("set", &value.detach())?,
            // Outside an arena the values may be a view of a tensor, repeated ones even: nothing to write to.
            Gradient::Free(_) => home.value = value.detach().copy()?,
        }
        let device = home.value.device().clone();
        drop(home);
        self.changed();
        // Written before anything else can fail: weights that were loaded stay loaded.
        Ok(device.flush()?)
    }

    /// Whether backward passes collect its gradient.
    pub fn is_trainable(&self) -> bool {
        self.0.trainable.load(Ordering::Relaxed)
    }

    /// Freezes it, or lets it learn again.
    pub fn set_trainable(&self, trainable: bool) {
        if self.0.trainable.swap(trainable, Ordering::Relaxed) != trainable {
            crate::structure_changed();
        }
    }

    /// Whether no gradient has been collected since the last step, so that the next one begins anew.
    pub(crate) fn is_at_rest(&self) -> bool {
        match &self.0.home().gradient {
            Gradient::Free(gradient) => gradient.is_none(),
            Gradient::Slot { holds, .. } => !matches!(holds, Holds::Gradient(_)),
        }
    }

    /// Whether two handles are the same parameter.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether `tensor` is its values, a view of them, or their cast in the scope of [`crate::autocast()`].
    pub fn is_behind(&self, tensor: &Tensor) -> bool {
        if tensor.version().is_some_and(|version| Arc::ptr_eq(&version.current, &self.0.version)) {
            return true;
        }
        let (value, other) = (self.0.home().value.slice_of_buffer(), tensor.slice_of_buffer());
        (value.buffer, value.offset) == (other.buffer, other.offset)
    }

    /// Whether an arena that lives holds it.
    pub(crate) fn is_owned(&self) -> bool {
        self.0.home().owner.strong_count() > 0
    }

    /// How often the values have changed.
    pub(crate) fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    /// Marks the values as changed: tapes that hold them are stale.
    pub(crate) fn changed(&self) {
        self.0.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Moves values and gradient into slots of an arena that lives as long as `owner`.
    pub(crate) fn rehome(&self, value: Tensor, gradient: Tensor, owner: &Arc<()>) -> Result<()> {
        let mut home = self.0.home();
        if home.owner.strong_count() > 0 {
            return Err(Error::ParameterInUse { shape: self.0.shape });
        }
        value.write("rehome", &home.value)?;
        let holds = match &home.gradient {
            Gradient::Free(Some(earlier)) => {
                gradient.write("rehome", earlier)?;
                Holds::Gradient(gradient.device().failures())
            }
            // The slot of an arena that is gone: its gradient went with its optimizer.
            Gradient::Free(None) | Gradient::Slot { .. } => Holds::Old,
        };
        // From here on the old home is gone, so the new one must be written.
        gradient.device().flush()?;
        let gradient = Gradient::Slot { slot: gradient, holds };
        *home = Home { value, gradient, owner: Arc::downgrade(owner), node: Weak::new() };
        drop(home);
        self.changed();
        Ok(())
    }

    /// For the end of a step: zeroes the slot where no gradient reached it or none is wanted, and begins to collect anew.
    pub(crate) fn finish_gradient(&self) -> Result<()> {
        if let Gradient::Slot { slot, holds } = &mut self.0.home().gradient {
            let failures = slot.device().failures();
            *holds = match *holds {
                Holds::Gradient(at) if at == failures && self.is_trainable() => Holds::Old,
                Holds::Zeros(at) if at == failures => Holds::Zeros(at),
                _ => {
                    slot.fill(0.0)?;
                    Holds::Zeros(failures)
                }
            };
        }
        Ok(())
    }
}

impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parameter({}{})", self.0.dtype, self.0.shape)
    }
}

/// Random numbers of a layer: a stream of its own, counted by the step.
///
/// Until an optimizer adopts it the step is the number of draws. Afterwards it is the committed counter on the device,
/// so that a refused step that runs again draws the same numbers, and `call` tells apart the draws within a step.
#[derive(Clone)]
pub struct RandomStream(Arc<Mutex<StreamState>>);

struct StreamState {
    generator: Generator,
    // The optimizer's words on the device of which one is the step, and its number of the attempt under way.
    adopted: Option<(Tensor, usize, Arc<AtomicU64>)>,
    // A step of 0 for draws elsewhere, and the device's failed recordings before it: a later one, or a loss, may have taken it.
    zero: Option<(Tensor, u64)>,
    attempt: u64,
    calls: u32,
}

/// What a random op needs to draw.
#[derive(Clone, Debug)]
pub struct Draw {
    /// The seed.
    pub seed: u64,
    /// The stream.
    pub stream: u32,
    /// Which draw of the step.
    pub call: u32,
    /// Words of which the one at `step_offset` is the step.
    pub steps: Tensor,
    /// See `steps`.
    pub step_offset: usize,
}

impl RandomStream {
    /// A stream of its own from `generator`.
    pub fn new(generator: &mut Generator) -> Self {
        let generator = generator.fork();
        let state = StreamState { generator, adopted: None, zero: None, attempt: 0, calls: 0 };
        Self(Arc::new(Mutex::new(state)))
    }

    /// The key of its numbers: seed and stream.
    pub fn key(&self) -> (u64, u32) {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (state.generator.seed(), state.generator.stream())
    }

    /// The next draw, on `device`. In a backward pass that runs a part of the forward pass again, the draw of that time.
    pub fn draw(&self, device: &Device) -> Result<Draw> {
        recompute::draw(self.key(), || self.next_draw(device))
    }

    fn next_draw(&self, device: &Device) -> Result<Draw> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let adopted = state.adopted.clone().filter(|(steps, ..)| steps.device().is(device));
        let (steps, step_offset) = match adopted {
            Some((steps, step_offset, attempts)) => {
                let attempt = attempts.load(Ordering::Relaxed);
                if attempt != state.attempt {
                    (state.attempt, state.calls) = (attempt, 0);
                }
                (steps, step_offset)
            }
            None => {
                let failures = device.failures();
                let holds = |(zero, at): &(Tensor, u64)| zero.device().is(device) && *at == failures;
                let known = state.zero.clone().filter(holds);
                let zero = known.map_or_else(|| Ok::<_, Error>((Tensor::scalar(0u32, device)?, failures)), Ok)?;
                state.zero = Some(zero.clone());
                (zero.0, 0)
            }
        };
        let call = state.calls;
        state.calls = state.calls.wrapping_add(1);
        let (seed, stream) = (state.generator.seed(), state.generator.stream());
        Ok(Draw { seed, stream, call, steps, step_offset })
    }

    /// Counts by a word on the device from now on; `attempts` is the host's number of the attempt under way, which each
    /// judgement and each restore changes.
    pub(crate) fn adopt(&self, steps: &Tensor, step_offset: usize, attempts: &Arc<AtomicU64>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.attempt = attempts.load(Ordering::Relaxed);
        state.adopted = Some((steps.clone(), step_offset, attempts.clone()));
        state.calls = 0;
    }
}

impl fmt::Debug for RandomStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "RandomStream(seed {}, stream {})", state.generator.seed(), state.generator.stream())
    }
}
