//! Convolution of signals and images. It is linear in each operand, so its gradients are convolutions again: three ops,
//! each the gradient of the other two.

use std::sync::Arc;

use everstep_device::cpu::{
    Conv as Kernel, ConvBackwardInput as InputKernel, ConvBackwardWeight as WeightKernel, ConvGeometry, Reduce,
    Reduction,
};
use everstep_device::functions::Activation;
use everstep_device::{Command, DType, Generator, Shape, Work};

use super::matmul::before_activation;
use super::pointwise::call;
use super::reference::{Array, Domain};
use super::table::{Case, Cases, Entry, FLOAT, Gradient, Tolerance};
use crate::op::{Inferred, Op, Saved, apply, common_float, record_in_f32, record_kernel};
use crate::window::{check, extent, outputs};
use crate::{Autocast, ConvOptions, Error, Result, Tensor};

/// Shapes of a convolution's operands and result, and what they are to the kernels.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    geometry: ConvGeometry,
    x: Shape,
    weight: Shape,
    y: Shape,
}

impl Sizes {
    /// Of x [B, C, ..] and weight [O, C / groups, ..] with `dims` dimensions of an image; those of signals have height 1.
    fn new(op: &'static str, x: &Tensor, weight: &Tensor, options: &ConvOptions, dims: usize) -> Result<Self> {
        let ConvOptions { stride, padding, dilation, groups } = options;
        check(op, "stride", &stride.0[2 - dims..], 1)?;
        check(op, "padding", &padding.0[2 - dims..], 0)?;
        check(op, "dilation", &dilation.0[2 - dims..], 1)?;
        check(op, "groups", &[*groups], 1)?;
        let wrong = |rule| Error::Shapes { op, left: *x.shape(), right: *weight.shape(), rule };
        if x.rank() != dims + 2 || weight.rank() != dims + 2 {
            return Err(wrong("x is [batch, channels, size..] and the weight [outputs, channels / groups, size..]"));
        }
        let (channels, filters) = (x.shape()[1], weight.shape()[0]);
        if !channels.is_multiple_of(*groups) || !filters.is_multiple_of(*groups) {
            return Err(wrong("the channels of x and the outputs of the weight must be multiples of the groups"));
        }
        if weight.shape()[1] != channels / groups {
            return Err(wrong("the weight's second dimension is the channels of x divided by the groups"));
        }
        let mut geometry = ConvGeometry {
            batch: x.shape()[0],
            groups: *groups,
            channels: channels / groups,
            outputs: filters / groups,
            input: [1; 2],
            output: [1; 2],
            kernel: [1; 2],
            stride: [1; 2],
            padding: [0; 2],
            dilation: [1; 2],
        };
        let mut y = vec![x.shape()[0], filters];
        for (axis, place) in (2 - dims..2).zip(2..) {
            let (size, kernel) = (x.shape()[place], weight.shape()[place]);
            let reach = extent(kernel, dilation.0[axis]);
            let count = outputs(size, reach, stride.0[axis], padding.0[axis]).filter(|_| kernel > 0);
            let count = count.ok_or_else(|| wrong("the kernel must fit into the padded input, and have a tap"))?;
            (geometry.input[axis], geometry.kernel[axis], geometry.output[axis]) = (size, kernel, count);
            geometry.stride[axis] = stride.0[axis];
            geometry.padding[axis] = padding.0[axis];
            geometry.dilation[axis] = dilation.0[axis];
            y.push(count);
        }
        Ok(Self { geometry, x: *x.shape(), weight: *weight.shape(), y: Shape::new(&y)? })
    }
}

/// activation(x * weight + bias). Inputs: x, weight, bias where there is one.
#[derive(Clone, Debug)]
struct Conv {
    sizes: Sizes,
    activation: Activation,
}

/// dx from dy and the weight.
#[derive(Clone, Debug)]
struct BackwardInput(Sizes);

/// The gradient of the weight from x and dy.
#[derive(Clone, Debug)]
struct BackwardWeight(Sizes);

fn conv(sizes: Sizes, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    apply(Conv { sizes, activation: Activation::None }, &[x, weight])
}

impl Op for Conv {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn takes_halves(&self) -> bool {
        true
    }

    fn autocast(&self) -> Autocast {
        Autocast::Halves
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        if inputs.iter().any(|input| !input.dtype().is_float()) {
            return Err(Error::DTypes { op: self.name(), found: inputs.iter().map(|input| input.dtype()).collect() });
        }
        Ok(Inferred::one(self.sizes.y, common_float(inputs.iter().map(|input| input.dtype()))))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let bias = inputs.get(2).copied();
        let kernel = Kernel { geometry: self.sizes.geometry, bias: bias.is_some(), activation: self.activation };
        let inputs = [inputs[0], inputs[1], bias.unwrap_or(inputs[1])];
        record_in_f32(self.name(), &inputs, outputs, |inputs, outputs| record_kernel(kernel, inputs, outputs))
    }

    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let gradient = before_activation(self.activation, &saved.outputs[0], gradient)?;
        let mut parts = vec![None; saved.inputs.len()];
        if saved.wants(0) {
            parts[0] = Some(apply(BackwardInput(self.sizes), &[&gradient, &saved.inputs[1]])?);
        }
        if saved.wants(1) {
            parts[1] = Some(apply(BackwardWeight(self.sizes), &[&saved.inputs[0], &gradient])?);
        }
        if saved.inputs.len() > 2 && saved.wants(2) {
            // First over each image, along its rows, then over the batch.
            let axes: Vec<isize> = (2..gradient.rank() as isize).collect();
            parts[2] = Some(gradient.sum(&axes, false)?.sum(&[0], false)?);
        }
        Ok(parts)
    }
}

impl Op for BackwardInput {
    fn name(&self) -> &'static str {
        "conv2d_backward_input"
    }

    fn takes_halves(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        Ok(Inferred::one(self.0.x, common_float(inputs.iter().map(|input| input.dtype()))))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let (kernel, inputs) = (InputKernel { geometry: self.0.geometry }, [inputs[0], inputs[1], inputs[1]]);
        record_in_f32(self.name(), &inputs, outputs, |inputs, outputs| record_kernel(kernel, inputs, outputs))
    }

    fn vjp(&self, saved: &Saved<'_>, h: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let dy = saved.wants(0).then(|| conv(self.0, h, &saved.inputs[1])).transpose()?;
        let weight = saved.wants(1).then(|| apply(BackwardWeight(self.0), &[h, &saved.inputs[0]])).transpose()?;
        Ok(vec![dy, weight])
    }
}

impl Op for BackwardWeight {
    fn name(&self) -> &'static str {
        "conv2d_backward_weight"
    }

    fn takes_halves(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        Ok(Inferred::one(self.0.weight, common_float(inputs.iter().map(|input| input.dtype()))))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        record_in_f32(self.name(), inputs, outputs, |inputs, outputs| self.record_single(inputs, outputs))
    }

    fn vjp(&self, saved: &Saved<'_>, h: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let x = saved.wants(0).then(|| apply(BackwardInput(self.0), &[&saved.inputs[1], h])).transpose()?;
        let dy = saved.wants(1).then(|| conv(self.0, &saved.inputs[0], h)).transpose()?;
        Ok(vec![x, dy])
    }
}

impl BackwardWeight {
    /// Parts of the sum, whose number follows from the sizes, and then their sum.
    fn record_single(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let kernel = WeightKernel::new(self.0.geometry);
        if kernel.parts() == 1 {
            return record_kernel(kernel, inputs, outputs);
        }
        let shape = Shape::new(&[kernel.parts(), self.0.weight.count()])?;
        let parts = Tensor::unwritten(self.name(), shape, DType::F32, inputs[0].device())?;
        record_kernel(kernel, inputs, std::slice::from_ref(&parts))?;
        let input = parts.layout().permute(&[1, 0])?;
        let sum = Reduce { input, reduced: 1, reduction: Reduction::Sum, scale: 1.0 };
        Ok(parts.device().record(Command {
            op: self.name(),
            work: Work::Kernel(Arc::new(sum)),
            inputs: vec![parts.slice_of_buffer()],
            outputs: vec![outputs[0].slice_of_buffer()],
        })?)
    }
}

impl Tensor {
    /// activation(x * weight + bias), a convolution of images (strictly a cross-correlation, as in PyTorch): y\[b, o, i, j\] = sum over c, u, v of
    /// x\[b, c, i s - p + u d, j s - p + v d\] weight\[o, c, u, v\], with stride s, padding p and dilation d. x `[B, C, H, W]`
    /// (this tensor), weight `[O, C / groups, kernel height, kernel width]`, bias `[O]`: `[B, O, H', W']` with
    /// H' = floor((H + 2 p - d (kernel height - 1) - 1) / s) + 1.
    ///
    /// Pixels of the padding are zeros like others: times an infinite weight they are NaN.
    ///
    /// # Errors
    /// [`Error::Shapes`], [`Error::Argument`] for a stride, dilation or number of groups of 0, [`Error::DTypes`],
    /// [`Error::Devices`].
    ///
    /// ```
    /// # use everstep_tensor::{Activation, ConvOptions, Device, Tensor};
    /// let device = Device::cpu();
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[1, 1, 2, 2], &device)?;
    /// let sum = Tensor::ones(&[1, 1, 2, 2], &device)?;
    /// let options = ConvOptions::default().padding([0, 1]);
    /// let y = x.conv2d(&sum, None, &options, Activation::None)?;
    /// assert_eq!((y.shape().to_vec(), y.to_vec::<f32>()?), (vec![1, 1, 1, 3], vec![4.0, 10.0, 6.0]));
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn conv2d(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        options: &ConvOptions,
        activation: Activation,
    ) -> Result<Tensor> {
        self.convolve("conv2d", weight, bias, options, activation, 2)
    }

    /// As [`Tensor::conv2d`], of signals: x `[B, C, L]`, weight `[O, C / groups, kernel]`, bias `[O]`: `[B, O, L']`. Of each
    /// pair of the options the second number counts.
    ///
    /// # Errors
    /// As [`Tensor::conv2d`].
    ///
    /// ```
    /// # use everstep_tensor::{Activation, ConvOptions, Device, Tensor};
    /// let device = Device::cpu();
    /// let x = Tensor::from_slice(&[1.0f32, 4.0, 9.0, 16.0], &[1, 1, 4], &device)?;
    /// let difference = Tensor::from_slice(&[-1.0f32, 1.0], &[1, 1, 2], &device)?;
    /// let y = x.conv1d(&difference, None, &ConvOptions::default(), Activation::None)?;
    /// assert_eq!(y.to_vec::<f32>()?, [3.0, 5.0, 7.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn conv1d(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        options: &ConvOptions,
        activation: Activation,
    ) -> Result<Tensor> {
        self.convolve("conv1d", weight, bias, options, activation, 1)
    }

    fn convolve(
        &self,
        op: &'static str,
        weight: &Tensor,
        bias: Option<&Tensor>,
        options: &ConvOptions,
        activation: Activation,
        dims: usize,
    ) -> Result<Tensor> {
        let sizes = Sizes::new(op, self, weight, options, dims)?;
        if let Some(bias) = bias.filter(|bias| **bias.shape() != weight.shape()[..1]) {
            let rule = "the bias is [outputs]";
            return Err(Error::Shapes { op, left: *bias.shape(), right: *weight.shape(), rule });
        }
        let inputs: Vec<&Tensor> = [Some(self), Some(weight), bias].into_iter().flatten().collect();
        // The derivative of gelu is no function of its value.
        let wants_gradient = crate::is_recording() && inputs.iter().any(|input| input.node().is_some());
        let apart = wants_gradient && matches!(activation, Activation::Gelu | Activation::GeluTanh);
        match activation.function().filter(|_| apart) {
            Some(function) => call(function, &[&apply(Conv { sizes, activation: Activation::None }, &inputs)?]),
            None => apply(Conv { sizes, activation }, &inputs),
        }
    }
}

pub(super) const CONV2D: Entry = Entry {
    name: "conv2d",
    dtypes: FLOAT,
    gradient: Gradient::Any,
    tolerance: Tolerance {
        relative: 1e-6,
        absolute: 3e-5,
        why: "sums of up to 400 products below 4, which cancel: partial sums of some tens, each rounded",
    },
    cases: Cases::Listed(image_cases),
};

pub(super) const CONV1D: Entry = Entry { name: "conv1d", cases: Cases::Listed(signal_cases), ..CONV2D };

const OPERANDS: Domain = Domain::between(-2.0, 2.0);

type Use<'a> = (&'a [usize], &'a [usize], bool, ConvOptions, Activation);

fn case((x, weight, bias, options, activation): Use<'_>, generator: &mut Generator) -> Case {
    let label = format!("{x:?} * {weight:?}, bias {bias}, {options:?}, {activation:?}");
    let mut inputs = vec![Array::draw(x, OPERANDS, generator), Array::draw(weight, OPERANDS, generator)];
    inputs.extend(bias.then(|| Array::draw(&weight[..1], OPERANDS, generator)));
    let signal = x.len() == 3;
    let apply = move |x: &[Tensor]| match signal {
        true => x[0].conv1d(&x[1], x.get(2), &options, activation),
        false => x[0].conv2d(&x[1], x.get(2), &options, activation),
    };
    let case = Case::new(label, inputs, apply, move |x| reference(x, &options, activation));
    // The second derivative of relu is 0 next to a kink.
    if activation == Activation::Relu { case.with_orders(1) } else { case }
}

fn image_cases(generator: &mut Generator) -> Vec<Case> {
    use Activation::{Gelu, None, Relu};
    let plain = ConvOptions::default();
    let uses: [Use<'_>; 15] = [
        (&[1, 1, 3, 3], &[2, 1, 2, 2], true, plain.padding(1), None),
        (&[2, 2, 4, 5], &[3, 2, 3, 3], true, plain.padding(1), None),
        (&[2, 3, 2, 3], &[4, 3, 1, 1], true, plain, Relu),
        (&[1, 2, 5, 4], &[2, 2, 2, 3], false, plain.stride([2, 1]).padding([0, 2]), None),
        (&[1, 4, 4, 5], &[4, 2, 2, 2], true, plain.groups(2).dilation([1, 2]), None),
        (&[2, 3, 4, 3], &[3, 1, 2, 2], true, plain.groups(3).stride(2).padding(1), Gelu),
        (&[1, 2, 3, 7], &[2, 2, 1, 3], false, plain.stride([1, 3]).padding([1, 4]).dilation([1, 3]), None),
        (&[0, 2, 3, 3], &[2, 2, 2, 2], true, plain, None),
        (&[2, 2, 3, 3], &[0, 2, 2, 2], true, plain, None),
        (&[2, 0, 3, 3], &[2, 0, 2, 2], true, plain, None),
        (&[1, 2, 0, 2], &[2, 2, 2, 2], false, plain.padding(1), None),
        // Several blocks of positions; of channels; many small images; several strips of a workgroup's channels.
        (&[1, 16, 31, 33], &[9, 16, 3, 3], true, plain.padding(1), Relu),
        (&[2, 42, 6, 5], &[5, 42, 3, 3], true, plain, None),
        (&[33, 3, 4, 3], &[17, 3, 3, 2], false, plain.padding([1, 0]).stride([2, 1]), None),
        (&[2, 8, 9, 9], &[12, 4, 1, 1], false, plain.groups(2), None),
    ];
    uses.into_iter().map(|one| case(one, generator)).collect()
}

fn signal_cases(generator: &mut Generator) -> Vec<Case> {
    use Activation::{None, Relu, Tanh};
    let plain = ConvOptions::default();
    let uses: [Use<'_>; 6] = [
        (&[1, 2, 4], &[2, 2, 3], true, plain.padding(1), None),
        (&[2, 2, 7], &[3, 2, 2], true, plain.stride(2).dilation(3).padding(2), Tanh),
        (&[2, 4, 5], &[6, 2, 3], false, plain.groups(2), None),
        // A height is not there, whatever the options say of it.
        (&[1, 1, 5], &[2, 1, 2], true, plain.stride([0, 2]).dilation([0, 1]), None),
        (&[0, 2, 5], &[3, 2, 3], true, plain, Relu),
        (&[2, 3, 300], &[4, 3, 5], true, plain.padding(2), Relu),
    ];
    uses.into_iter().map(|one| case(one, generator)).collect()
}

/// The sum of its definition, tap by tap.
fn reference(inputs: &[Array], options: &ConvOptions, activation: Activation) -> Array {
    let signal = inputs[0].shape.len() == 3;
    let image = |array: &Array| match array.shape[..] {
        [first, second, length] => array.reshaped(&[first, second, 1, length]),
        _ => array.clone(),
    };
    let (x, weight) = (image(&inputs[0]), image(&inputs[1]));
    let ConvOptions { stride, padding, dilation, groups } = *options;
    let of = |pair: [usize; 2], other: usize| if signal { [other, pair[1]] } else { pair };
    let (stride, padding, dilation) = (of(stride.0, 1), of(padding.0, 0), of(dilation.0, 1));
    let size = |axis: usize| {
        let taken = dilation[axis] * (weight.shape[2 + axis] - 1) + 1;
        (x.shape[2 + axis] + 2 * padding[axis] - taken) / stride[axis] + 1
    };
    let (filters, channels) = (weight.shape[0], weight.shape[1]);
    let y = Array::from_fn(&[x.shape[0], filters, size(0), size(1)], |at| {
        let first = at[1] / (filters / groups) * channels;
        let mut sum = inputs.get(2).map_or(0.0, |bias| bias.values[at[1]]);
        for tap in super::reference::indices(&weight.shape[1..]) {
            let row = (at[2] * stride[0] + tap[1] * dilation[0]).wrapping_sub(padding[0]);
            let column = (at[3] * stride[1] + tap[2] * dilation[1]).wrapping_sub(padding[1]);
            let inside = row < x.shape[2] && column < x.shape[3];
            let pixel = if inside { x.at(&[at[0], first + tap[0], row, column]) } else { 0.0 };
            sum += pixel * weight.at(&[at[1], tap[0], tap[1], tap[2]]);
        }
        activation.function().map_or(sum, |function| (function.reference)(&[sum]))
    });
    if signal { y.reshaped(&[y.shape[0], y.shape[1], y.shape[3]]) } else { y }
}
