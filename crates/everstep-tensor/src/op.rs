//! What an op is, and the one funnel that every op passes through.

use std::fmt::Debug;
use std::sync::Arc;

use everstep_device::{DType, DeviceKind, Layout, Shape};

use crate::{Error, Result, Tensor, autograd};

/// What an op is going to make.
#[derive(Clone, Debug)]
pub enum Inferred {
    /// The first input's elements under another layout; nothing runs.
    View(Layout),
    /// New tensors: the result first, then what the gradient wants kept.
    New(Vec<(Shape, DType)>),
}

impl Inferred {
    /// One new tensor.
    pub fn one(shape: Shape, dtype: DType) -> Self {
        Self::New(vec![(shape, dtype)])
    }
}

/// What a gradient sees of the forward pass.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// The inputs.
    pub inputs: &'a [Tensor],
    /// The outputs: the result, then what was kept.
    pub outputs: &'a [Tensor],
}

impl Saved<'_> {
    /// Whether the gradient of input `index` is wanted.
    pub fn wants(&self, index: usize) -> bool {
        self.inputs[index].node().is_some()
    }
}

/// An operation: it infers what it makes or returns an error, records its commands, and gives its vector-Jacobian
/// product written in tensor ops.
pub trait Op: Debug + Send + Sync + 'static {
    /// Its name, which errors, spans and the op table use.
    fn name(&self) -> &'static str;

    /// Shapes and dtypes of what it makes of `inputs`.
    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred>;

    /// Records the commands that write `outputs`. A view has none.
    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()>;

    /// The gradient of each input from the result's: `None` where none flows or none is wanted.
    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>>;
}

/// Elements that a shader can count: it does so in 32 bits, and steps past the end.
const SHADER_ELEMENTS: usize = 1 << 31;

/// Whether kernels can walk the inputs. What they write has a limit of its own, but an input may be a view that repeats
/// few elements very often.
fn check_counts(op: &'static str, inputs: &[&Tensor]) -> Result<()> {
    let on_gpu = inputs[0].device().info().kind == DeviceKind::Gpu;
    match inputs.iter().find(|input| on_gpu && input.count() > SHADER_ELEMENTS) {
        None => Ok(()),
        Some(input) => Err(Error::Device(everstep_device::Error::TooLarge {
            op,
            bytes: input.count().saturating_mul(input.dtype().size()),
            limit_name: "what a shader can count",
            limit: SHADER_ELEMENTS.saturating_mul(input.dtype().size()),
        })),
    }
}

/// Applies an op: infer, record, tape. Every op passes through here and nowhere else.
pub fn apply(op: impl Op, inputs: &[&Tensor]) -> Result<Tensor> {
    let name = op.name();
    tracing::trace!(op = name, "apply");
    let first = *inputs.first().ok_or(Error::NoInputs { op: name })?;
    if let Some(other) = inputs.iter().find(|input| !input.device().is(first.device())) {
        let (left, right) = (first.device().to_string(), other.device().to_string());
        return Err(Error::Devices { op: name, left, right });
    }
    let outputs = match op.infer(inputs)? {
        Inferred::View(layout) => vec![first.view(layout)],
        Inferred::New(list) if list.is_empty() => return Err(Error::NoOutputs { op: name }),
        Inferred::New(list) => {
            check_counts(name, inputs)?;
            let new = |(shape, dtype)| Tensor::unwritten(name, shape, dtype, first.device());
            let outputs = list.into_iter().map(new).collect::<Result<Vec<_>>>()?;
            op.record(inputs, &outputs)?;
            outputs
        }
    };
    Ok(autograd::record(Arc::new(op), inputs, outputs))
}
