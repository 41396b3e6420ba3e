//! Softmax.

use std::sync::Arc;

use everstep_device::cpu::{Softmax as Kernel, SoftmaxBackward as BackwardKernel, SoftmaxParams};
use everstep_device::{Command, DType, Generator, Work};

use super::reference::{Array, Domain, largest, sum};
use super::table::{Case, Cases, Entry, FLOAT, Gradient, Tolerance};
use crate::op::{Inferred, Op, Saved, apply};
use crate::{Autocast, Error, Result, Tensor};

/// Over the last dimension.
#[derive(Debug)]
struct Softmax;

/// dx = y (g - sum g y), from y and g.
#[derive(Debug)]
struct SoftmaxBackward;

pub(super) fn params(tensor: &Tensor) -> SoftmaxParams {
    let columns = tensor.shape().last().copied().unwrap_or(1);
    SoftmaxParams { rows: (tensor.count() / columns.max(1)) as u32, columns: columns as u32 }
}

impl Op for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn autocast(&self) -> Autocast {
        Autocast::Single
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        if inputs[0].dtype() != DType::F32 {
            return Err(Error::DTypes { op: self.name(), found: vec![inputs[0].dtype()] });
        }
        Ok(Inferred::one(*inputs[0].shape(), DType::F32))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let input = inputs[0].dense()?;
        Ok(input.device().record(Command {
            op: self.name(),
            work: Work::Kernel(Arc::new(Kernel(params(&input)))),
            inputs: vec![input.slice_of_buffer()],
            outputs: vec![outputs[0].slice_of_buffer()],
        })?)
    }

    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply(SoftmaxBackward, &[&saved.outputs[0], gradient])?)])
    }
}

impl Op for SoftmaxBackward {
    fn name(&self) -> &'static str {
        "softmax_backward"
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        Ok(Inferred::one(*inputs[0].shape(), DType::F32))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let (y, gradient) = (inputs[0].dense()?, inputs[1].dense()?);
        Ok(y.device().record(Command {
            op: self.name(),
            work: Work::Kernel(Arc::new(BackwardKernel(params(&y)))),
            inputs: vec![y.slice_of_buffer(), gradient.slice_of_buffer()],
            outputs: vec![outputs[0].slice_of_buffer()],
        })?)
    }

    /// Of y (g - sum g y) for the incoming h: dy = h (g - s) - g sum(h y), dg = y (h - sum h y), with s = sum g y.
    fn vjp(&self, saved: &Saved<'_>, h: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (y, g) = (&saved.inputs[0], &saved.inputs[1]);
        let weighted = |t: &Tensor| t.mul(y)?.sum(&[-1], true);
        let hy = weighted(h)?;
        let dy = h.mul(&g.sub(&weighted(g)?)?)?.sub(&g.mul(&hy)?)?;
        let dg = y.mul(&h.sub(&hy)?)?;
        Ok(vec![Some(dy), Some(dg)])
    }
}

impl Tensor {
    /// e^x / sum e^x over `axis`, computed without overflow.
    ///
    /// # Errors
    /// [`Error::Axis`], [`Error::DTypes`] where the dtype is not f32.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1000.0f32, 1000.0, 0.0], &[3], &Device::cpu())?;
    /// assert_eq!(x.softmax(0)?.to_vec::<f32>()?, [0.5, 0.5, 0.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn softmax(&self, axis: isize) -> Result<Tensor> {
        let axis = self.axis("softmax", axis)? as isize;
        if axis + 1 == self.rank() as isize {
            return apply(Softmax, &[self]);
        }
        apply(Softmax, &[&self.transpose(axis, -1)?])?.transpose(axis, -1)
    }
}

pub(super) const SOFTMAX: Entry = Entry {
    name: "softmax",
    dtypes: FLOAT,
    gradient: Gradient::Any,
    tolerance: Tolerance {
        relative: 2e-6,
        absolute: 0.0,
        why: "x - max x is rounded, at most 16 here, which the exponential turns into a relative error; then a sum",
    },
    cases: Cases::Listed(cases),
};

fn cases(generator: &mut Generator) -> Vec<Case> {
    let shapes: [(&[usize], &[isize]); 10] = [
        (&[3, 5], &[1, 0, -1]),
        (&[7], &[0]),
        (&[2, 3, 4], &[0, 1, 2]),
        (&[1, 1], &[1]),
        (&[4, 1], &[1]),
        (&[0, 4], &[1, 0]),
        (&[2, 0, 3], &[1]),
        (&[2, 1, 3, 1, 2, 2], &[2, -1]),
        (&[20, 70], &[1]),
        (&[2, 1500], &[1, 0]),
    ];
    let mut cases = Vec::new();
    for (shape, axes) in shapes {
        for &axis in axes {
            let input = Array::draw(shape, Domain::between(-8.0, 8.0), generator);
            let apply = move |x: &[Tensor]| x[0].softmax(axis);
            cases
                .push(Case::new(format!("{shape:?} axis {axis}"), vec![input], apply, move |x| reference(&x[0], axis)));
        }
    }
    // Larger than any power of e that an f32 holds.
    let large = Array::new(&[3, 3], vec![1000.0, 1000.0, 999.0, -2000.0, -2000.0, -2001.0, 3e38, -3e38, 0.0]);
    cases.push(Case::new("large", vec![large], |x| x[0].softmax(-1), |x| reference(&x[0], -1)).with_orders(0));
    cases
}

fn reference(x: &Array, axis: isize) -> Array {
    let axis = axis.rem_euclid(x.shape.len() as isize) as usize;
    let powers = Array::zip(&[x, &x.reduced(&[axis], largest)], |x| (x[0] - x[1]).exp());
    Array::zip(&[&powers, &powers.reduced(&[axis], sum)], |x| x[0] / x[1])
}
