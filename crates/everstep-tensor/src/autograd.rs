//! The tape: every op that a gradient can flow through leaves a node; a backward pass walks them in reverse.
//!
//! Node numbers grow as ops are applied, so the order of numbers is the order of the list, and the walk names no op.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::op::{Op, Saved};
use crate::parameter::Leaf;
use crate::recompute::Part;
use crate::tensor::Version;
use crate::{Error, Precision, Result, Tensor, autocast, probe};

thread_local! {
    static RECORDING: Cell<bool> = const { Cell::new(true) };
}

static NEXT_NODE: AtomicU64 = AtomicU64::new(0);

/// A place on the tape.
pub(crate) struct Node {
    id: u64,
    kind: Kind,
}

enum Kind {
    Leaf(Arc<Leaf>),
    Op(Mutex<Option<Entry>>, &'static str),
    /// Ops whose tape was not kept.
    Part(Mutex<Option<Arc<Part>>>),
}

/// What an op leaves behind for its gradient.
#[derive(Clone)]
struct Entry {
    op: Arc<dyn Op>,
    inputs: Vec<Tensor>,
    // Without nodes: a node that held its own output would never be freed.
    outputs: Vec<Tensor>,
}

impl Node {
    fn new(kind: Kind) -> Arc<Self> {
        Arc::new(Self { id: NEXT_NODE.fetch_add(1, Ordering::Relaxed), kind })
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn leaf(leaf: Arc<Leaf>) -> Arc<Self> {
        Self::new(Kind::Leaf(leaf))
    }

    pub(crate) fn as_leaf(&self) -> Option<&Arc<Leaf>> {
        match &self.kind {
            Kind::Leaf(leaf) => Some(leaf),
            Kind::Op(..) | Kind::Part(_) => None,
        }
    }

    /// The tensors that only this node still held.
    fn take_tensors(&mut self) -> Vec<Tensor> {
        match &mut self.kind {
            Kind::Leaf(_) => Vec::new(),
            Kind::Op(entry, _) => {
                let entry = entry.get_mut().unwrap_or_else(PoisonError::into_inner).take();
                entry.map_or_else(Vec::new, |entry| entry.inputs)
            }
            Kind::Part(part) => {
                let part = part.get_mut().unwrap_or_else(PoisonError::into_inner).take();
                part.and_then(Arc::into_inner).map_or_else(Vec::new, |part| part.into_tensors().collect())
            }
        }
    }
}

impl Drop for Node {
    /// Frees the history behind this node in a loop: a long one would overflow the stack.
    fn drop(&mut self) {
        let mut stack = self.take_tensors();
        while let Some(tensor) = stack.pop() {
            if let Some(mut node) = tensor.into_inner().and_then(|inner| inner.into_node()).and_then(Arc::into_inner) {
                stack.extend(node.take_tensors());
            }
        }
    }
}

/// Puts an op on the tape, where a gradient is wanted: the output with its node.
pub(crate) fn record(op: Arc<dyn Op>, inputs: &[&Tensor], outputs: Vec<Tensor>) -> Tensor {
    let output = outputs[0].clone();
    let wanted = is_recording() && output.dtype().is_float() && inputs.iter().any(|input| input.node().is_some());
    if !wanted {
        return output;
    }
    let name = op.name();
    let entry = Entry { op, inputs: inputs.iter().map(|&input| input.clone()).collect(), outputs };
    output.with_node(Node::new(Kind::Op(Mutex::new(Some(entry)), name)))
}

/// A number that the nodes of later ops are not below.
pub(crate) fn next_number() -> u64 {
    NEXT_NODE.load(Ordering::Relaxed)
}

/// What a part of the tape leads to.
pub(crate) struct Reach {
    /// Parameters with their nodes, each once.
    pub(crate) leaves: Vec<Tensor>,
    /// Of tensors that were taken of something that may change and have no node.
    pub(crate) versions: Vec<Version>,
}

/// What the nodes from number `first` on that led to `result` used; `None` where it is of none of them.
pub(crate) fn reach(result: &Tensor, first: u64) -> Option<Reach> {
    let is_inner = |node: &&Arc<Node>| node.id >= first && node.as_leaf().is_none();
    let mut stack = vec![result.node().filter(is_inner)?.clone()];
    let (mut seen, mut reach) = (HashSet::new(), Reach { leaves: Vec::new(), versions: Vec::new() });
    while let Some(node) = stack.pop() {
        let used = match &node.kind {
            Kind::Leaf(_) => Vec::new(),
            Kind::Op(entry, _) => taken(entry, true).map_or_else(Vec::new, |entry| entry.inputs),
            Kind::Part(part) => taken(part, true).map_or_else(Vec::new, |part| part.used()),
        };
        for tensor in used {
            match (tensor.node(), tensor.version()) {
                (Some(node), _) if !seen.insert(node.id) => {}
                (Some(node), _) if node.as_leaf().is_some() => reach.leaves.push(tensor),
                (Some(node), _) if node.id >= first => stack.push(node.clone()),
                (None, Some(version)) => reach.versions.push(version.clone()),
                _ => {}
            }
        }
    }
    Some(reach)
}

/// `result` without the tape that led to it, which `part` can make again.
pub(crate) fn with_part(result: &Tensor, part: Part) -> Tensor {
    result.detach().with_node(Node::new(Kind::Part(Mutex::new(Some(Arc::new(part))))))
}

/// Whether ops of this thread are put on the tape.
pub fn is_recording() -> bool {
    RECORDING.get()
}

/// Runs `work` without a tape: its tensors have no history, and memory is freed as it goes.
pub fn no_grad<T>(work: impl FnOnce() -> T) -> T {
    with_recording(false, work)
}

pub(crate) fn with_recording<T>(recording: bool, work: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDING.set(self.0);
        }
    }
    let _restore = Restore(RECORDING.replace(recording));
    work()
}

/// How [`gradients`] walks the tape.
#[derive(Clone, Copy, Debug, Default)]
pub struct GradientOptions {
    /// Keeps the tape, so that it can be walked again.
    pub retain: bool,
    /// Puts the backward pass itself on the tape, for gradients of gradients. Implies `retain`.
    pub create_graph: bool,
}

/// The gradient of the scalar `output` with respect to each of `inputs`; `None` where none flows. Parameters'
/// gradients are left alone.
///
/// # Errors
/// As [`Tensor::backward`].
///
/// ```
/// # use everstep_tensor::{Device, GradientOptions, Tensor, gradients};
/// let x = Tensor::scalar(3.0f32, &Device::cpu())?.requires_grad()?;
/// let y = x.mul(&x)?.mul(&x)?; // x^3, 3 x^2, 6 x
/// let twice = GradientOptions { create_graph: true, ..Default::default() };
/// let first = gradients(&y, &[&x], twice)?[0].clone().unwrap();
/// let second = gradients(&first, &[&x], GradientOptions::default())?[0].clone().unwrap();
/// assert_eq!((first.item::<f32>()?, second.item::<f32>()?), (27.0, 18.0));
/// # Ok::<(), everstep_tensor::Error>(())
/// ```
pub fn gradients(output: &Tensor, inputs: &[&Tensor], options: GradientOptions) -> Result<Vec<Option<Tensor>>> {
    let wanted: Vec<Option<u64>> = inputs.iter().map(|input| input.node().map(|node| node.id)).collect();
    let mut found: HashMap<u64, Tensor> = HashMap::new();
    with_recording(options.create_graph, || {
        let retain = options.retain || options.create_graph;
        walk(output, seed(output)?, retain, options.create_graph, |node, gradient| {
            if wanted.contains(&Some(node.id)) {
                found.insert(node.id, gradient.clone());
            }
        })
    })?;
    Ok(wanted.into_iter().map(|id| id.and_then(|id| found.get(&id).cloned())).collect())
}

fn seed(output: &Tensor) -> Result<Tensor> {
    if output.count() != 1 {
        return Err(Error::NotScalar { shape: *output.shape() });
    }
    Tensor::ones(output.shape(), output.device())?.cast(output.dtype())
}

/// The reverse walk: `visit` sees each node's whole gradient once, outputs before inputs.
fn walk(
    output: &Tensor,
    seed: Tensor,
    retain: bool,
    with_graph: bool,
    mut visit: impl FnMut(&Arc<Node>, &Tensor),
) -> Result<()> {
    let root = output.node().ok_or(Error::NoTape)?;
    if !retain {
        autocast::forget_casts();
    }
    // The forward pass has chosen the dtypes.
    let _scope = autocast::Scope::enter(Precision::F32);
    let mut pending = BTreeMap::from([(root.id, (root.clone(), seed))]);
    while let Some((_, (node, gradient))) = pending.pop_last() {
        visit(&node, &gradient);
        let (entry, name) = match &node.kind {
            Kind::Leaf(_) => continue,
            Kind::Op(entry, name) => (entry, name),
            Kind::Part(part) => {
                let part = taken(part, retain).ok_or(Error::TapeFreed { op: "recompute" })?;
                // Its nodes are the newest, so they come next, and what they add to others in the order of any tape.
                let result = part.run_again()?;
                let node = result.node().ok_or(Error::NoTape)?.clone();
                pending.insert(node.id, (node, gradient));
                continue;
            }
        };
        let Entry { op, inputs, mut outputs } = taken(entry, retain).ok_or(Error::TapeFreed { op: name })?;
        if !inputs.iter().all(Tensor::is_current) {
            return Err(Error::StaleParameter { op: op.name() });
        }
        if with_graph {
            outputs[0] = outputs[0].with_node(node.clone());
        }
        probe::within_backward(op.name(), node.id, || {
            let parts = op.vjp(&Saved { inputs: &inputs, outputs: &outputs }, &gradient)?;
            spread(op.name(), &inputs, parts, &mut pending)
        })?;
    }
    Ok(())
}

/// What a node has left; its own no longer, unless the tape is retained.
fn taken<T: Clone>(left: &Mutex<Option<T>>, retain: bool) -> Option<T> {
    let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
    if retain { left.clone() } else { left.take() }
}

/// Adds the parts of a gradient to those of the nodes that they belong to.
fn spread(
    op: &'static str,
    inputs: &[Tensor],
    parts: Vec<Option<Tensor>>,
    pending: &mut BTreeMap<u64, (Arc<Node>, Tensor)>,
) -> Result<()> {
    if parts.len() != inputs.len() {
        return Err(Error::Gradients { op, found: parts.len(), expected: inputs.len() });
    }
    for (input, part) in inputs.iter().zip(parts) {
        let (Some(node), Some(part)) = (input.node(), part) else { continue };
        if part.shape() != input.shape() {
            let rule = "a gradient has the shape of its input";
            return Err(Error::Shapes { op, left: *part.shape(), right: *input.shape(), rule });
        }
        let part = if part.dtype() == input.dtype() { part } else { part.cast(input.dtype())? };
        let sum = match pending.remove(&node.id) {
            Some((_, earlier)) => earlier.add(&part)?,
            None => part,
        };
        pending.insert(node.id, (node.clone(), sum));
    }
    Ok(())
}

impl Tensor {
    /// Adds the gradient of this scalar to every parameter that led to it. The tape is freed as it is walked.
    ///
    /// # Errors
    /// [`Error::NotScalar`], [`Error::NoTape`]; [`Error::TapeFreed`] the second time; [`Error::StaleParameter`] where an
    /// optimizer step came in between; [`Error::NotDifferentiable`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], &[2], &Device::cpu())?.requires_grad()?;
    /// x.mul(&x)?.sum_all()?.backward()?;
    /// assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [2.0, 4.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn backward(&self) -> Result<()> {
        // Stored once the whole walk went well: a backward pass that fails leaves every gradient as it was.
        let mut leaves = Vec::new();
        no_grad(|| {
            walk(self, seed(self)?, false, false, |node, gradient| {
                leaves.extend(node.as_leaf().map(|leaf| (leaf.clone(), gradient.clone())));
            })?;
            leaves.iter().try_for_each(|(leaf, gradient)| leaf.accumulate(gradient))
        })
    }

    /// The same values without history: no gradient flows past it.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], &[2], &Device::cpu())?.requires_grad()?;
    /// x.mul(&x.detach())?.sum_all()?.backward()?;
    /// // Of x x the gradient would be 2 x; here the second x is a constant.
    /// assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [1.0, 2.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    #[must_use]
    pub fn detach(&self) -> Self {
        self.view(*self.layout())
    }

    /// A tensor of the same values whose gradient [`Tensor::backward`] collects, for [`Tensor::grad`].
    ///
    /// # Errors
    /// [`Error::NotFloat`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[3.0f32], &[1], &Device::cpu())?.requires_grad()?;
    /// x.mul_scalar(5.0)?.sum_all()?.backward()?;
    /// assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [5.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn requires_grad(&self) -> Result<Self> {
        let parameter = crate::Parameter::new(&self.detach())?;
        Ok(with_recording(true, || parameter.tensor()))
    }

    /// The gradient collected so far, if this tensor is a parameter's or was made by [`Tensor::requires_grad`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::ones(&[2], &Device::cpu())?.requires_grad()?;
    /// assert!(x.grad().is_none());
    /// x.sum_all()?.backward()?;
    /// assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [1.0, 1.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn grad(&self) -> Option<Tensor> {
        self.node()?.as_leaf()?.gradient()
    }
}
