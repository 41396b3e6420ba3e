//! What looks at every op as it passes the funnel: attribution, and faults that are planned.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use crate::{Result, Tensor};

/// Which part of a step an op belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It was called.
    Forward,
    /// It is part of an op's vector-Jacobian product, or adds up gradients of that op's result.
    Backward {
        /// The name of the op whose gradient it is.
        of: &'static str,
        /// That op's number, where it was seen.
        number: Option<u64>,
    },
}

/// An op that has been recorded and not yet been put on the tape.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its name.
    pub op: &'static str,
    /// Ops that were seen before it: the same one in every run of the same program.
    pub number: u64,
    /// Which part of the step it belongs to.
    pub phase: Phase,
    /// What it read.
    pub inputs: &'a [&'a Tensor],
    /// What it has made: nothing where it is a view.
    pub outputs: &'a [Tensor],
}

/// Sees each op of [`with_probe`]'s work. Its own ops are not seen.
pub trait Probe {
    /// An op has been recorded; what is recorded here comes between it and the next one.
    ///
    /// # Errors
    /// Those of looking: the op then returns them.
    fn see(&mut self, seen: &Seen<'_>) -> Result<()>;
}

struct Current {
    probe: Rc<RefCell<dyn Probe>>,
    next: u64,
    // Ops on the tape, by their nodes.
    numbers: HashMap<u64, u64>,
}

thread_local! {
    // Alone, so that an op without a probe pays for one look at it.
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
    // The op that a backward pass is at: its name and its node.
    static BACKWARD: Cell<Option<(&'static str, u64)>> = const { Cell::new(None) };
}

/// Runs `work` on this thread with `probe` seeing its ops. A probe within a probe's work takes its place until it ends.
///
/// ```
/// use std::{cell::RefCell, rc::Rc};
///
/// use everstep_tensor::{Device, Probe, Result, Seen, Tensor, with_probe};
///
/// struct Names(Vec<&'static str>);
///
/// impl Probe for Names {
///     fn see(&mut self, seen: &Seen<'_>) -> Result<()> {
///         self.0.push(seen.op);
///         Ok(())
///     }
/// }
///
/// let names = Rc::new(RefCell::new(Names(Vec::new())));
/// let x = Tensor::ones(&[2, 2], &Device::cpu())?;
/// with_probe(&names, || x.matmul(&x)?.relu())?;
/// assert_eq!(names.borrow().0, ["matmul", "relu"]);
/// # Ok::<(), everstep_tensor::Error>(())
/// ```
pub fn with_probe<T>(probe: &Rc<RefCell<impl Probe + 'static>>, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Current>);
    impl Drop for Restore {
        fn drop(&mut self) {
            ACTIVE.set(self.0.is_some());
            CURRENT.set(self.0.take());
        }
    }
    let current = Current { probe: probe.clone(), next: 0, numbers: HashMap::new() };
    let _restore = Restore(CURRENT.replace(Some(current)));
    ACTIVE.set(true);
    work()
}

/// Shows an op to the probe, if there is one: its number.
pub(crate) fn see(op: &'static str, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<Option<u64>> {
    if !ACTIVE.get() {
        return Ok(None);
    }
    let shown = CURRENT.with_borrow_mut(|current| {
        let current = current.as_mut()?;
        let number = current.next;
        current.next += 1;
        let phase = match BACKWARD.get() {
            None => Phase::Forward,
            Some((of, node)) => Phase::Backward { of, number: current.numbers.get(&node).copied() },
        };
        Some((current.probe.clone(), Seen { op, number, phase, inputs, outputs }))
    });
    let Some((probe, seen)) = shown else { return Ok(None) };
    ACTIVE.set(false);
    let outcome = probe.borrow_mut().see(&seen);
    ACTIVE.set(true);
    outcome.map(|()| Some(seen.number))
}

/// Remembers which op a node on the tape is.
pub(crate) fn taped(number: u64, node: u64) {
    CURRENT.with_borrow_mut(|current| {
        current.iter_mut().for_each(|current| _ = current.numbers.insert(node, number));
    });
}

/// Runs `work` as part of the backward pass at the op of `node`.
pub(crate) fn within_backward<T>(op: &'static str, node: u64, work: impl FnOnce() -> T) -> T {
    if !ACTIVE.get() {
        return work();
    }
    let earlier = BACKWARD.replace(Some((op, node)));
    let outcome = work();
    BACKWARD.set(earlier);
    outcome
}
