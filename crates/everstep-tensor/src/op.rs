//! What an op is, and the one funnel that every op passes through.

use std::fmt::Debug;
use std::sync::Arc;

use everstep_device::{Command, DType, DeviceKind, Kernel, Layout, Shape, Work};

use crate::{Autocast, Error, Result, Tensor, autocast, autograd, probe};

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

    /// Whether it takes tensors of f16 and bf16. To an op that does not, they come as f32, and where all its floats are of
    /// the same of the two, so is its result. A view takes any dtype.
    fn takes_halves(&self) -> bool {
        false
    }

    /// What it takes in the scope of [`crate::autocast()`].
    fn autocast(&self) -> Autocast {
        Autocast::AsGiven
    }

    /// Shapes and dtypes of what it makes of `inputs`.
    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred>;

    /// Records the commands that write `outputs`. A view has none.
    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()>;

    /// The gradient of each input from the result's: `None` where none flows or none is wanted.
    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>>;
}

/// For [`Op::record`] of a program's own op: records one run of `kernel`, whose inputs are the elements of `inputs` in
/// row-major order (copied first where they lie otherwise) and whose outputs are those of `outputs`.
///
/// # Errors
/// Those of the recording; [`everstep_device::Kernel::check`] is asked.
pub fn record_kernel(kernel: impl Kernel, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
    let Some(first) = outputs.first() else { return Err(Error::NoOutputs { op: kernel.name() }) };
    let dense = inputs.iter().map(|input| input.dense()).collect::<Result<Vec<_>>>()?;
    Ok(first.device().record(Command {
        op: kernel.name(),
        work: Work::Kernel(Arc::new(kernel)),
        inputs: dense.iter().map(Tensor::slice_of_buffer).collect(),
        outputs: outputs.iter().map(Tensor::slice_of_buffer).collect(),
    })?)
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

/// Applies an op: infer, record, tape. Every op passes through here and nowhere else; a [`crate::Probe`] looks on.
pub fn apply(op: impl Op, inputs: &[&Tensor]) -> Result<Tensor> {
    let name = op.name();
    tracing::trace!(op = name, "apply");
    let first = *inputs.first().ok_or(Error::NoInputs { op: name })?;
    if let Some(other) = inputs.iter().find(|input| !input.device().is(first.device())) {
        let (left, right) = (first.device().to_string(), other.device().to_string());
        return Err(Error::Devices { op: name, left, right });
    }
    if let Some(cast) = autocast::inputs(op.autocast(), inputs)? {
        return apply_as_given(op, &cast.iter().collect::<Vec<_>>());
    }
    apply_as_given(op, inputs)
}

fn apply_as_given(op: impl Op, inputs: &[&Tensor]) -> Result<Tensor> {
    let (name, first) = (op.name(), inputs[0]);
    let halves = inputs.iter().any(|input| input.dtype().is_half());
    if halves && !op.takes_halves() && !matches!(op.infer(inputs), Ok(Inferred::View(_))) {
        return apply_in_f32(op, inputs);
    }
    let (outputs, seen) = match op.infer(inputs)? {
        Inferred::View(layout) => (vec![first.view(layout)], probe::see(name, inputs, &[])?),
        Inferred::New(list) if list.is_empty() => return Err(Error::NoOutputs { op: name }),
        Inferred::New(list) => {
            check_counts(name, inputs)?;
            let new = |(shape, dtype)| Tensor::unwritten(name, shape, dtype, first.device());
            let outputs = list.into_iter().map(new).collect::<Result<Vec<_>>>()?;
            op.record(inputs, &outputs)?;
            let seen = probe::see(name, inputs, &outputs)?;
            (outputs, seen)
        }
    };
    let output = autograd::record(Arc::new(op), inputs, outputs);
    if let (Some(number), Some(node)) = (seen, output.node()) {
        probe::taped(number, node.id());
    }
    Ok(output)
}

/// Applies an op to halves as f32: they are cast on the tape, so that their gradients are cast back. The result of f16
/// with bf16, or of either with f32, is f32, as PyTorch has it.
fn apply_in_f32(op: impl Op, inputs: &[&Tensor]) -> Result<Tensor> {
    let single = |input: &&Tensor| if input.dtype().is_half() { input.cast(DType::F32) } else { Ok((*input).clone()) };
    let single = inputs.iter().map(single).collect::<Result<Vec<_>>>()?;
    let result = apply_as_given(op, &single.iter().collect::<Vec<_>>())?;
    match common_float(inputs.iter().map(|input| input.dtype())) {
        half if half.is_half() && result.dtype() == DType::F32 => result.cast(half),
        _ => Ok(result),
    }
}

/// The one dtype of all floats among `dtypes`; f32 where they differ or there are none.
pub(crate) fn common_float(dtypes: impl IntoIterator<Item = DType>) -> DType {
    let mut floats = dtypes.into_iter().filter(|dtype| dtype.is_float());
    floats.next().filter(|first| floats.all(|dtype| dtype == *first)).unwrap_or(DType::F32)
}

/// For an op whose kernel takes and gives f32, on tensors of which some are halves: `record` is shown f32 copies of those,
/// and its results are rounded where the outputs are halves. The tape keeps the halves alone; the copies are dead once
/// the recording has run, so they lie in memory that others use too.
pub(crate) fn record_in_f32(
    op: &'static str,
    inputs: &[&Tensor],
    outputs: &[Tensor],
    record: impl FnOnce(&[&Tensor], &[Tensor]) -> Result<()>,
) -> Result<()> {
    if !inputs.iter().copied().chain(outputs).any(|tensor| tensor.dtype().is_half()) {
        return record(inputs, outputs);
    }
    let single = inputs.iter().map(|input| widened(op, input)).collect::<Result<Vec<_>>>()?;
    let target = |output: &Tensor| match output.dtype().is_half() {
        true => Tensor::unwritten(op, *output.shape(), DType::F32, output.device()),
        false => Ok(output.clone()),
    };
    let targets = outputs.iter().map(target).collect::<Result<Vec<_>>>()?;
    record(&single.iter().collect::<Vec<_>>(), &targets)?;
    let rounded = outputs.iter().zip(&targets).filter(|(output, _)| output.dtype().is_half());
    rounded.into_iter().try_for_each(|(output, target)| output.write_cast(op, target))
}

/// A half as f32, its elements in the same order in memory; anything else as it is.
fn widened(op: &'static str, tensor: &Tensor) -> Result<Tensor> {
    if !tensor.dtype().is_half() {
        return Ok(tensor.clone());
    }
    let axes = autocast::memory_order(tensor.layout());
    let source = match &axes {
        Some(axes) => tensor.view(tensor.layout().permute(axes)?),
        None => tensor.view(*tensor.layout()),
    };
    let copy = Tensor::unwritten(op, *source.shape(), DType::F32, source.device())?;
    copy.write_cast(op, &source)?;
    match axes {
        Some(axes) => Ok(copy.view(copy.layout().permute(&autocast::inverse(&axes))?)),
        None => Ok(copy),
    }
}
