//! Recomputation of activations (Chen et al., 2016): a part of the forward pass keeps its input and what it read, and no
//! tape; the backward pass runs it once more, on a tape this time, when it comes to it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use everstep_device::{DType, Shape};

use crate::parameter::Draw;
use crate::tensor::Version;
use crate::{Error, Precision, Result, Tensor, autocast, autograd};

/// What a part reads besides tensors, whose next read would give something else.
#[derive(Clone)]
enum Read {
    Draw(Draw),
    Buffer(Tensor),
}

/// What is going on in this thread.
#[derive(Default)]
struct Context {
    // Of each part that is under way, from the outside in: what it has read so far.
    logs: Vec<Vec<Read>>,
    // Of a part that runs again: what it read the first time and has not yet read again.
    again: Option<VecDeque<Read>>,
    // Whether it has asked for something else.
    strayed: bool,
}

thread_local! {
    // Alone, so that a draw outside of any part pays for one look at it.
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
    static CONTEXT: RefCell<Context> = RefCell::new(Context::default());
}

/// What a part does with its input.
type Forward = dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync;

/// A part of a forward pass that the backward pass runs again.
pub(crate) struct Part {
    forward: Box<Forward>,
    x: Tensor,
    // The parameters that it used, with their places on the tape: there their gradients are added up.
    leaves: Vec<Tensor>,
    // Of what it used besides: frozen parameters and committed buffers.
    versions: Vec<Version>,
    reads: Vec<Read>,
    precision: Precision,
    shape: Shape,
    dtype: DType,
}

/// Runs `forward` on `x` without keeping what its gradient needs; the backward pass runs it again and keeps it just then. So
/// a stack of such parts needs memory for the input of each and the activations of one, at the cost of a second forward
/// pass. The gradients are the same, bit for bit: what `forward` draws at random it draws again, running buffers move once,
/// and gradients are added in the same order.
///
/// `forward` depends on `x`, on parameters, random streams and running buffers, and on nothing else that changes until the
/// backward pass. Modules whose layers it uses are shared with it through an [`std::sync::Arc`].
///
/// ```
/// # use everstep_tensor::{Device, Parameter, Tensor, recompute};
/// # let device = Device::cpu();
/// let weight = Parameter::new(&Tensor::full(&[3, 3], 0.5, &device)?)?;
/// let mut x = Tensor::ones(&[2, 3], &device)?;
/// for _ in 0..8 {
///     let weight = weight.clone();
///     x = recompute(&x, move |x| x.matmul(&weight.tensor())?.tanh())?;
/// }
/// x.mean_all()?.backward()?;
/// assert!(weight.grad().is_some());
/// # Ok::<(), everstep_tensor::Error>(())
/// ```
///
/// # Errors
/// Those of `forward`. In the backward pass, [`Error::Recomputed`] where it does something else than before, and
/// [`Error::StaleParameter`] where a parameter has changed.
pub fn recompute(x: &Tensor, forward: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static) -> Result<Tensor> {
    if !autograd::is_recording() {
        return forward(x);
    }
    let first = autograd::next_number();
    let (result, reads) = logged(|| forward(x));
    let result = result?;
    // On the tape like any forward pass so far, so every op has done what it does there. Now that is let go.
    let Some(autograd::Reach { leaves, versions }) = autograd::reach(&result, first) else { return Ok(result) };
    let part = Part {
        forward: Box::new(forward),
        x: x.clone(),
        leaves,
        versions,
        reads,
        precision: autocast::precision(),
        shape: *result.shape(),
        dtype: result.dtype(),
    };
    Ok(autograd::with_part(&result, part))
}

impl Part {
    /// The result once more, with its tape.
    pub(crate) fn run_again(&self) -> Result<Tensor> {
        let stale = self.versions.iter().any(|version| !version.is_current());
        if stale || !self.leaves.iter().chain([&self.x]).all(Tensor::is_current) {
            return Err(Error::StaleParameter { op: "recompute" });
        }
        let _scope = autocast::Scope::enter(self.precision);
        let again = Again::begin(&self.reads);
        let result = autograd::with_recording(true, || (self.forward)(&self.x));
        let is_same = again.end();
        let result = result?;
        match () {
            () if !is_same => Err(Error::Recomputed { problem: "it drew other random numbers or read other buffers" }),
            () if (*result.shape(), result.dtype()) != (self.shape, self.dtype) => {
                Err(Error::Recomputed { problem: "its result has another shape or dtype" })
            }
            () => Ok(result),
        }
    }

    /// The tensors that it held, for whoever frees them in a loop.
    pub(crate) fn into_tensors(self) -> impl Iterator<Item = Tensor> {
        self.leaves.into_iter().chain([self.x])
    }

    /// The tensors that it holds.
    pub(crate) fn used(&self) -> Vec<Tensor> {
        self.leaves.iter().chain([&self.x]).cloned().collect()
    }
}

/// Runs `work` and returns what it has read.
fn logged<T>(work: impl FnOnce() -> T) -> (T, Vec<Read>) {
    /// Takes the log back where `work` unwinds, too.
    struct Log(bool);
    impl Drop for Log {
        fn drop(&mut self) {
            ACTIVE.set(self.0);
            CONTEXT.with_borrow_mut(|context| _ = context.logs.pop());
        }
    }
    CONTEXT.with_borrow_mut(|context| context.logs.push(Vec::new()));
    let _log = Log(ACTIVE.replace(true));
    let outcome = work();
    let reads = CONTEXT.with_borrow_mut(|context| context.logs.last_mut().map(std::mem::take)).unwrap_or_default();
    (outcome, reads)
}

/// A part that runs again, until it ends or is dropped.
struct Again {
    outer: Option<(bool, Context)>,
}

impl Again {
    fn begin(reads: &[Read]) -> Self {
        let context = Context { again: Some(reads.iter().cloned().collect()), ..Context::default() };
        Self { outer: Some((ACTIVE.replace(true), CONTEXT.replace(context))) }
    }

    /// Whether it has read what it read the first time.
    fn end(mut self) -> bool {
        self.restore().is_some_and(|inner| !inner.strayed && inner.again.is_some_and(|rest| rest.is_empty()))
    }

    fn restore(&mut self) -> Option<Context> {
        let (active, outer) = self.outer.take()?;
        ACTIVE.set(active);
        Some(CONTEXT.replace(outer))
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        self.restore();
    }
}

/// Whether a part is running again in this thread: what it changed, it has changed.
pub(crate) fn is_running_again() -> bool {
    ACTIVE.get() && CONTEXT.with_borrow(|context| context.again.is_some())
}

/// The next read of a part that runs again; `None` elsewhere, and where it reads more than it did.
fn next_again() -> Option<Read> {
    CONTEXT.with_borrow_mut(|context| {
        let next = context.again.as_mut()?.pop_front();
        context.strayed |= next.is_none();
        next
    })
}

fn stray() {
    CONTEXT.with_borrow_mut(|context| context.strayed = true);
}

fn note(read: &Read) {
    CONTEXT.with_borrow_mut(|context| context.logs.iter_mut().for_each(|log| log.push(read.clone())));
}

/// A draw of the stream of this key: that of the first time, where a part runs again.
pub(crate) fn draw(key: (u64, u32), fetch: impl FnOnce() -> Result<Draw>) -> Result<Draw> {
    if !ACTIVE.get() {
        return fetch();
    }
    let draw = match next_again() {
        Some(Read::Draw(draw)) if (draw.seed, draw.stream) == key => draw,
        Some(_) => {
            stray();
            fetch()?
        }
        None => fetch()?,
    };
    note(&Read::Draw(draw.clone()));
    Ok(draw)
}

/// What a buffer holds: what it held the first time, where a part runs again. Where a later write would change that in place,
/// `copy` keeps it.
pub(crate) fn buffer(fetch: impl FnOnce() -> Result<Tensor>, copy: bool) -> Result<Tensor> {
    if !ACTIVE.get() {
        return fetch();
    }
    let held = match next_again() {
        Some(Read::Buffer(held)) => held,
        Some(Read::Draw(_)) => {
            stray();
            fetch()?
        }
        None if copy => fetch()?.copy()?,
        None => fetch()?,
    };
    note(&Read::Buffer(held.clone()));
    Ok(held)
}
