//! Matrix products, with bias and activation in the epilogue.

use std::sync::Arc;

use everstep_device::cpu::{Matmul as Kernel, MatmulHalf, MatmulSplit};
use everstep_device::functions::Activation;
use everstep_device::{Command, DType, DeviceKind, Generator, MAX_RANK, Shape, Work};

use super::pointwise::call;
use super::reference::{Array, Domain, broadcast};
use super::table::{Case, Cases, Entry, FLOAT, Gradient, Tolerance};
use crate::op::{Inferred, Op, Saved, apply, common_float, record_in_f32};
use crate::{Autocast, Error, Result, Tensor};

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
        Ok(Inferred::one(self.shape(inputs)?, common_float(inputs.iter().map(|input| input.dtype()))))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let half = common_float(inputs.iter().map(|input| input.dtype()));
        let output = &outputs[0];
        // The CPU engine multiplies f32: copies in memory that the recording plans serve it as well.
        if !half.is_half() || output.device().info().kind == DeviceKind::Cpu {
            return record_in_f32(self.name(), inputs, outputs, |inputs, outputs| {
                self.record_product(inputs, &outputs[0])
            });
        }
        if matrix(output).1.is_multiple_of(2) {
            return self.record_product(inputs, output);
        }
        // Rows of an odd number of halves begin within words, which the kernel does not write.
        let sums = Tensor::unwritten(self.name(), *output.shape(), DType::F32, output.device())?;
        self.record_product(inputs, &sums)?;
        output.write_cast(self.name(), &sums)
    }

    /// da = g b^T, db = a^T g, dbias = the sum of g over all rows; batch dimensions that were stretched are summed.
    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let gradient = before_activation(self.activation, &saved.outputs[0], gradient)?;
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

impl Matmul {
    /// One kernel, on operands that are all f32 or all the same halves.
    fn record_product(&self, inputs: &[&Tensor], output: &Tensor) -> Result<()> {
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
        let product = Kernel { a: stretch(a)?, b: stretch(b)?, bias, activation: self.activation };
        let third = inputs.get(2).copied().unwrap_or(a);
        let work: Work = match a.dtype() {
            DType::F32 => {
                if let Some(split) = a.device().info().traits.as_ref().and_then(|gpu| product.split(gpu)) {
                    return record_split(self.name(), split, [a, b, third], output);
                }
                Work::Kernel(Arc::new(product))
            }
            operands => Work::Kernel(Arc::new(MatmulHalf { product, operands, result: output.dtype() })),
        };
        Ok(a.device().record(Command {
            op: self.name(),
            work,
            inputs: [a, b, third].map(|tensor| tensor.slice_of_buffer()).to_vec(),
            outputs: vec![output.slice_of_buffer()],
        })?)
    }
}

/// Parts of the sum, and then the sum of the parts.
fn record_split(op: &'static str, split: MatmulSplit, [a, b, bias]: [&Tensor; 3], output: &Tensor) -> Result<()> {
    let MatmulSplit { parts, rest, sum } = split;
    let record = |work: Work, inputs: [&Tensor; 3], output: &Tensor| {
        let inputs = inputs.map(|tensor| tensor.slice_of_buffer()).to_vec();
        Ok::<_, Error>(output.device().record(Command { op, work, inputs, outputs: vec![output.slice_of_buffer()] })?)
    };
    let product = |kernel: Kernel, count: usize| {
        let target = Tensor::unwritten(op, Shape::new(&[count, sum.elements])?, DType::F32, a.device())?;
        record(Work::Kernel(Arc::new(kernel)), [a, b, a], &target)?;
        Ok::<_, Error>(target)
    };
    let parts = product(parts, sum.count)?;
    let rest = rest.map(|kernel| product(kernel, 1)).transpose()?;
    let second = rest.as_ref().unwrap_or(&parts);
    record(Work::Kernel(Arc::new(sum)), [&parts, second, bias], output)
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

/// The gradient before an activation that a kernel applied last. The fused ones have derivatives that are functions of
/// their output.
pub(super) fn before_activation(activation: Activation, output: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    use everstep_device::functions::RELU_GATE;
    match activation {
        Activation::None => Ok(gradient.clone()),
        Activation::Relu => call(&RELU_GATE, &[output, gradient]),
        Activation::Tanh => gradient.sub(&gradient.mul(output)?.mul(output)?),
        Activation::Sigmoid => gradient.mul(&output.sub(&output.mul(output)?)?),
        // `linear` and the convolutions do not fuse these where a gradient is wanted.
        Activation::Gelu | Activation::GeluTanh => Err(Error::NotDifferentiable { op: "a product with gelu" }),
    }
}

impl Tensor {
    /// The matrix product of [.., M, K] (this tensor) and [.., K, N]: [.., M, N]. Batch dimensions broadcast; a vector is a
    /// row on the left and a column on the right, and that dimension is gone from the result. Transposed operands are
    /// views and cost no copy.
    ///
    /// # Errors
    /// [`Error::Shapes`], [`Error::DTypes`], [`Error::Devices`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let device = Device::cpu();
    /// let a = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2], &device)?;
    /// let v = Tensor::from_slice(&[1.0f32, -1.0], &[2], &device)?;
    /// assert_eq!(a.matmul(&a.t()?)?.to_vec::<f32>()?, [5.0, 11.0, 11.0, 25.0]);
    /// assert_eq!(a.matmul(&v)?.to_vec::<f32>()?, [-1.0, -1.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
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

    /// activation(x W^T + b): x `[.., in]` (this tensor), weight `[out, in]`, bias `[out]`: `[.., out]`.
    ///
    /// # Errors
    /// [`Error::Shapes`], [`Error::DTypes`], [`Error::Devices`].
    ///
    /// ```
    /// # use everstep_tensor::{Activation, Device, Tensor};
    /// let device = Device::cpu();
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], &[1, 2], &device)?;
    /// let weight = Tensor::from_slice(&[1.0f32, 1.0, 1.0, -1.0], &[2, 2], &device)?;
    /// let bias = Tensor::from_slice(&[0.5f32, 0.5], &[2], &device)?;
    /// assert_eq!(x.linear(&weight, Some(&bias), Activation::Relu)?.to_vec::<f32>()?, [3.5, 0.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
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
        if columns != matrix.shape()[0] {
            let rule = "the last dimension of x and the first of the matrix must be equal";
            return Err(Error::Shapes { op: "matmul", left: *self.shape(), right: *matrix.shape(), rule });
        }
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

pub(super) const MATMUL: Entry = Entry {
    name: "matmul",
    dtypes: FLOAT,
    gradient: Gradient::Any,
    tolerance: PRODUCT,
    cases: Cases::Listed(matmul_cases),
};

pub(super) const LINEAR: Entry = Entry { name: "linear", cases: Cases::Listed(linear_cases), ..MATMUL };

const PRODUCT: Tolerance = Tolerance {
    relative: 1e-6,
    absolute: 3e-5,
    why: "sums of up to 300 products below 4, which cancel: partial sums of some tens, each rounded",
};

const OPERANDS: Domain = Domain::between(-2.0, 2.0);

fn matmul_cases(generator: &mut Generator) -> Vec<Case> {
    let shapes: [(&[usize], &[usize]); 24] = [
        (&[3, 4], &[4, 5]),
        (&[1, 1], &[1, 1]),
        (&[4], &[4]),
        (&[4], &[4, 3]),
        (&[3, 4], &[4]),
        (&[2, 3, 4], &[4]),
        (&[4], &[2, 4, 3]),
        (&[2, 3, 4], &[4, 5]),
        (&[2, 3, 4], &[2, 4, 5]),
        (&[2, 1, 3, 4], &[3, 4, 2]),
        (&[3, 4], &[2, 4, 5]),
        (&[1, 2, 1, 2, 3, 2], &[2, 1, 2, 1, 2, 3]),
        (&[3, 0], &[0, 4]),
        (&[2, 3, 0], &[2, 0, 4]),
        (&[0], &[0]),
        (&[0, 4], &[4, 3]),
        (&[3, 4], &[4, 0]),
        (&[0, 3, 4], &[0, 4, 2]),
        (&[0, 3, 4], &[4, 2]),
        (&[1, 3, 4], &[0, 4, 2]),
        (&[5, 9], &[9, 7]),
        (&[65, 70], &[70, 67]),
        (&[2, 130, 300], &[300, 20]),
        (&[9, 5, 6], &[9, 6, 300]),
    ];
    let mut cases = Vec::new();
    for (a, b) in shapes {
        let inputs = vec![Array::draw(a, OPERANDS, generator), Array::draw(b, OPERANDS, generator)];
        let label = format!("{a:?} x {b:?}");
        cases.push(Case::new(label, inputs, |x| x[0].matmul(&x[1]), |x| product_reference(&x[0], &x[1])));
    }
    // Transposed operands are views, read as they lie.
    let mut transposed = |a: &[usize], b: &[usize], apply: fn(&[Tensor]) -> Result<Tensor>, left: bool, right: bool| {
        let inputs = vec![Array::draw(a, OPERANDS, generator), Array::draw(b, OPERANDS, generator)];
        let swap = |x: &Array, swapped: bool| if swapped { x.permuted(&[1, 0]) } else { x.clone() };
        let reference = move |x: &[Array]| product_reference(&swap(&x[0], left), &swap(&x[1], right));
        cases.push(Case::new(format!("transposed {left} {right}"), inputs, apply, reference));
    };
    transposed(&[4, 3], &[4, 5], |x| x[0].t()?.matmul(&x[1]), true, false);
    transposed(&[3, 4], &[5, 4], |x| x[0].matmul(&x[1].t()?), false, true);
    transposed(&[4, 3], &[5, 4], |x| x[0].t()?.matmul(&x[1].t()?), true, true);
    transposed(&[70, 33], &[66, 70], |x| x[0].t()?.matmul(&x[1].t()?), true, true);
    cases
}

/// The sum over k of a\[.., i, k\] b\[.., k, j\]; a vector is a row on the left and a column on the right.
fn product_reference(a: &Array, b: &Array) -> Array {
    let (left, right) = (a.shape.len(), b.shape.len());
    let a_rows = if left == 1 { a.reshaped(&[1, a.count()]) } else { a.clone() };
    let b_rows = if right == 1 { b.reshaped(&[b.count(), 1]) } else { b.clone() };
    let split =
        |x: &Array| (x.shape[..x.shape.len() - 2].to_vec(), x.shape[x.shape.len() - 2], x.shape[x.shape.len() - 1]);
    let ((a_batch, rows, depth), (b_batch, _, columns)) = (split(&a_rows), split(&b_rows));
    let batch = broadcast([&a_batch[..], &b_batch[..]]);
    let of = |x: &Array, index: &[usize], row: usize, column: usize| {
        let lead = index.len() - 2;
        x.at(&[&index[..lead], &[row, column]].concat())
    };
    let whole = Array::from_fn(&[&batch[..], &[rows, columns]].concat(), |index| {
        let (row, column) = (index[index.len() - 2], index[index.len() - 1]);
        (0..depth).map(|k| of(&a_rows, index, row, k) * of(&b_rows, index, k, column)).sum()
    });
    let mut shape = batch;
    shape.extend((left > 1).then_some(rows));
    shape.extend((right > 1).then_some(columns));
    whole.reshaped(&shape)
}

fn linear_cases(generator: &mut Generator) -> Vec<Case> {
    use Activation::{Gelu, GeluTanh, None, Relu, Sigmoid, Tanh};
    let shapes: [(&[usize], usize, bool, Activation); 14] = [
        (&[3, 4], 5, true, None),
        (&[3, 4], 5, true, Relu),
        (&[3, 4], 5, true, Gelu),
        (&[3, 4], 5, true, GeluTanh),
        (&[3, 4], 5, true, Tanh),
        (&[3, 4], 5, true, Sigmoid),
        (&[3, 4], 5, false, None),
        (&[4], 3, false, Sigmoid),
        (&[2, 3, 4], 1, true, Tanh),
        (&[2, 1, 2, 1, 2, 3], 2, true, Gelu),
        (&[0, 4], 3, true, Relu),
        (&[3, 0], 2, true, Sigmoid),
        (&[3, 4], 0, true, Relu),
        (&[40, 30], 300, true, Relu),
    ];
    let case = |(x, out, bias, activation): (&[usize], usize, bool, Activation)| {
        let label = format!("{x:?} to {out}, bias {bias}, {activation:?}");
        let mut inputs = vec![Array::draw(x, OPERANDS, generator)];
        inputs.push(Array::draw(&[out, x[x.len() - 1]], OPERANDS, generator));
        inputs.extend(bias.then(|| Array::draw(&[out], OPERANDS, generator)));
        let apply = move |x: &[Tensor]| x[0].linear(&x[1], x.get(2), activation);
        let case = Case::new(label, inputs, apply, move |x| linear_reference(x, activation));
        // The gradient of relu has none: see the entry of relu.
        if activation == Relu { case.with_orders(1) } else { case }
    };
    shapes.into_iter().map(case).collect()
}

fn linear_reference(x: &[Array], activation: Activation) -> Array {
    let mut result = product_reference(&x[0], &x[1].permuted(&[1, 0]));
    if let Some(bias) = x.get(2) {
        result = Array::zip(&[&result, bias], |x| x[0] + x[1]);
    }
    activation.function().map_or(result.clone(), |function| result.map(|value| (function.reference)(&[value])))
}
