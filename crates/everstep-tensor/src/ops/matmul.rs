//! Matrix products, with bias and activation in the epilogue.

use std::sync::Arc;

use everstep_device::cpu::Matmul as Kernel;
use everstep_device::functions::Activation;
use everstep_device::{Command, DType, MAX_RANK, Shape, Work};

use super::pointwise::call;
use crate::op::{Inferred, Op, Saved, apply};
use crate::{Error, Result, Tensor};

/// activation(a b + bias): a [.., M, K], b [.., K, N], bias [N]; batch dimensions broadcast.
#[derive(Debug)]
struct Matmul {
    activation: Activation,
}

/// The shape of the batch dimensions of a and b together.
fn batch(a: &Tensor, b: &Tensor) -> Option<Shape> {
    let lead = |tensor: &Tensor| Shape::new(&tensor.shape()[..tensor.rank() - 2]).ok();
    lead(a)?.broadcast(&lead(b)?)
}

fn with_matrix(batch: &Shape, rows: usize, columns: usize) -> Result<Shape> {
    Ok(Shape::new(&[&batch[..], &[rows, columns]].concat())?)
}

/// (rows, columns) of the matrices.
fn matrix(tensor: &Tensor) -> (usize, usize) {
    (tensor.shape()[tensor.rank() - 2], tensor.shape()[tensor.rank() - 1])
}

impl Matmul {
    fn shape(&self, inputs: &[&Tensor]) -> Result<Shape> {
        let (a, b) = (inputs[0], inputs[1]);
        let rule = "matmul takes [.., M, K] and [.., K, N] with batch dimensions that broadcast";
        let wrong = || Error::Shapes { op: "matmul", left: *a.shape(), right: *b.shape(), rule };
        if a.rank() < 2 || b.rank() < 2 || matrix(a).1 != matrix(b).0 {
            return Err(wrong());
        }
        let batch = batch(a, b).ok_or_else(wrong)?;
        if let Some(bias) = inputs.get(2).filter(|bias| **bias.shape() != [matrix(b).1]) {
            let rule = "the bias is [N]";
            return Err(Error::Shapes { op: "matmul", left: *bias.shape(), right: *b.shape(), rule });
        }
        with_matrix(&batch, matrix(a).0, matrix(b).1)
    }
}

impl Op for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        if inputs.iter().any(|input| input.dtype() != DType::F32) {
            return Err(Error::DTypes { op: self.name(), found: inputs.iter().map(|input| input.dtype()).collect() });
        }
        Ok(Inferred::one(self.shape(inputs)?, DType::F32))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let (a, b) = (inputs[0], inputs[1]);
        let batch = batch(a, b).unwrap_or(Shape::scalar());
        debug_assert!(batch.rank() + 2 <= MAX_RANK);
        let stretch = |tensor: &Tensor| {
            let (rows, columns) = matrix(tensor);
            let shape = with_matrix(&batch, rows, columns)?;
            let wrong = Error::Shape { op: "matmul", shape, rule: "batch dimensions that broadcast" };
            tensor.layout().broadcast_to(&shape).ok_or(wrong)
        };
        let bias = inputs.get(2).map(|bias| (bias.layout().offset(), bias.layout().strides()[0]));
        let kernel = Kernel { a: stretch(a)?, b: stretch(b)?, bias, activation: self.activation };
        let third = inputs.get(2).copied().unwrap_or(a);
        Ok(a.device().record(Command {
            op: self.name(),
            work: Work::Kernel(Arc::new(kernel)),
            inputs: [a, b, third].map(|tensor| tensor.slice_of_buffer()).to_vec(),
            outputs: vec![outputs[0].slice_of_buffer()],
        })?)
    }

    /// da = g b^T, db = a^T g, dbias = the sum of g over all rows; batch dimensions that were stretched are summed.
    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let gradient = self.before_activation(&saved.outputs[0], gradient)?;
        let (a, b) = (&saved.inputs[0], &saved.inputs[1]);
        let mut parts = vec![None; saved.inputs.len()];
        if saved.wants(0) {
            parts[0] = Some(product(a, &gradient, &b.t()?)?.sum_to(a.shape())?);
        }
        if saved.wants(1) {
            parts[1] = Some(product(b, &a.t()?, &gradient)?.sum_to(b.shape())?);
        }
        if saved.inputs.len() > 2 && saved.wants(2) {
            let axes: Vec<isize> = (0..gradient.rank() as isize - 1).collect();
            parts[2] = Some(gradient.sum(&axes, false)?);
        }
        Ok(parts)
    }
}

/// left right, laid out in memory like `like`: where that one is a transposed view, (right^T left^T)^T, so that the
/// gradient of a transposed weight comes out in the weight's own order.
fn product(like: &Tensor, left: &Tensor, right: &Tensor) -> Result<Tensor> {
    let strides = like.layout().strides();
    let rank = strides.len();
    let transposed = strides[rank - 2] < strides[rank - 1];
    if transposed { multiply(&right.t()?, &left.t()?)?.t() } else { multiply(left, right) }
}

fn multiply(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    apply(Matmul { activation: Activation::None }, &[a, b])
}

impl Matmul {
    /// The gradient before the activation. The fused ones have derivatives that are functions of their output.
    fn before_activation(&self, output: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        use everstep_device::functions::RELU_GATE;
        match self.activation {
            Activation::None => Ok(gradient.clone()),
            Activation::Relu => call(&RELU_GATE, &[output, gradient]),
            Activation::Tanh => gradient.sub(&gradient.mul(output)?.mul(output)?),
            Activation::Sigmoid => gradient.mul(&output.sub(&output.mul(output)?)?),
            // `linear` does not fuse these where a gradient is wanted.
            Activation::Gelu | Activation::GeluTanh => Err(Error::NotDifferentiable { op: "matmul with gelu" }),
        }
    }
}

impl Tensor {
    /// The matrix product of [.., M, K] (this tensor) and [.., K, N]: [.., M, N]. Batch dimensions broadcast; a vector is a
    /// row on the left and a column on the right, and that dimension is gone from the result. Transposed operands are
    /// views and cost no copy.
    ///
    /// # Errors
    /// [`Error::Shapes`], [`Error::DTypes`], [`Error::Devices`].
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        if self.rank() == 0 || other.rank() == 0 {
            let rule = "matmul takes no scalars; use `mul`";
            return Err(Error::Shapes { op: "matmul", left: *self.shape(), right: *other.shape(), rule });
        }
        match (self.rank(), other.rank()) {
            (1, 1) => self.unsqueeze(0)?.matmul(&other.unsqueeze(1)?)?.reshape(&[]),
            (1, _) => self.unsqueeze(0)?.matmul(other)?.squeeze(-2),
            (_, 1) => self.matmul(&other.unsqueeze(1)?)?.squeeze(-1),
            (_, 2) => self.rows_times(other, None, Activation::None),
            _ => multiply(self, other),
        }
    }

    /// activation(x W^T + b): x [.., in] (this tensor), weight [out, in], bias [out]: [.., out].
    ///
    /// # Errors
    /// [`Error::Shapes`], [`Error::DTypes`], [`Error::Devices`].
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>, activation: Activation) -> Result<Tensor> {
        if self.rank() == 0 || weight.rank() != 2 {
            let rule = "linear takes x [.., in] and a weight [out, in]";
            return Err(Error::Shapes { op: "linear", left: *self.shape(), right: *weight.shape(), rule });
        }
        if self.rank() == 1 {
            return self.unsqueeze(0)?.linear(weight, bias, activation)?.squeeze(0);
        }
        let wants_gradient = crate::is_recording()
            && [Some(self), Some(weight), bias].into_iter().flatten().any(|tensor| tensor.node().is_some());
        let apart = wants_gradient && matches!(activation, Activation::Gelu | Activation::GeluTanh);
        match activation.function().filter(|_| apart) {
            Some(function) => call(function, &[&self.rows_times(&weight.t()?, bias, Activation::None)?]),
            None => self.rows_times(&weight.t()?, bias, activation),
        }
    }

    /// [.., K] times one matrix [K, N], as a single product of all rows.
    fn rows_times(&self, matrix: &Tensor, bias: Option<&Tensor>, activation: Activation) -> Result<Tensor> {
        let mut shape = self.shape().to_vec();
        let columns = shape.pop().unwrap_or(1);
        let rows: usize = shape.iter().product();
        let flat = if self.rank() == 2 { self.clone() } else { self.reshape(&[rows, columns])? };
        let inputs: Vec<&Tensor> = [Some(&flat), Some(matrix), bias].into_iter().flatten().collect();
        let product = apply(Matmul { activation }, &inputs)?;
        if self.rank() == 2 {
            return Ok(product);
        }
        shape.push(product.shape()[1]);
        product.reshape(&shape)
    }
}
