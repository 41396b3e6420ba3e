//! The logarithm of softmax, fused.

use everstep_device::cpu::{LogSoftmax as Kernel, LogSoftmaxBackward as BackwardKernel};
use everstep_device::{DType, Generator};

use super::reference::{Array, Domain, largest, sum};
use super::softmax::params;
use super::table::{Case, Cases, Entry, FLOAT, Gradient, Tolerance};
use crate::op::{Inferred, Op, Saved, apply, record_kernel};
use crate::{Autocast, Error, Result, Tensor};

/// Over the last dimension.
#[derive(Debug)]
struct LogSoftmax;

/// dx = g - e^y sum g, from y and g.
#[derive(Debug)]
struct LogSoftmaxBackward;

impl Op for LogSoftmax {
    fn name(&self) -> &'static str {
        "log_softmax"
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
        record_kernel(Kernel(params(inputs[0])), inputs, outputs)
    }

    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply(LogSoftmaxBackward, &[&saved.outputs[0], gradient])?)])
    }
}

impl Op for LogSoftmaxBackward {
    fn name(&self) -> &'static str {
        "log_softmax_backward"
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        Ok(Inferred::one(*inputs[0].shape(), DType::F32))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        record_kernel(BackwardKernel(params(inputs[0])), inputs, outputs)
    }

    /// Of g - e^y sum g for the incoming h: dy = -h e^y sum g, dg = h - sum h e^y.
    fn vjp(&self, saved: &Saved<'_>, h: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (y, g) = (&saved.inputs[0], &saved.inputs[1]);
        let weighted = h.mul(&y.exp()?)?;
        let dy = weighted.mul(&g.sum(&[-1], true)?)?.neg()?;
        let dg = h.sub(&weighted.sum(&[-1], true)?)?;
        Ok(vec![Some(dy), Some(dg)])
    }
}

impl Tensor {
    /// log(e^x / sum e^x) over `axis`, computed without overflow: x - max x - log sum e^(x - max x).
    ///
    /// # Errors
    /// [`Error::Axis`], [`Error::DTypes`] where the dtype is not f32.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[500.0f32, 0.0], &[2], &Device::cpu())?;
    /// assert_eq!(x.log_softmax(0)?.to_vec::<f32>()?, [0.0, -500.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn log_softmax(&self, axis: isize) -> Result<Tensor> {
        let axis = self.axis("log_softmax", axis)? as isize;
        if axis + 1 == self.rank() as isize {
            return apply(LogSoftmax, &[self]);
        }
        apply(LogSoftmax, &[&self.transpose(axis, -1)?])?.transpose(axis, -1)
    }
}

pub(super) const LOG_SOFTMAX: Entry = Entry {
    name: "log_softmax",
    dtypes: FLOAT,
    gradient: Gradient::Any,
    tolerance: Tolerance {
        relative: 5e-7,
        absolute: 2e-6,
        why: "x - max x is rounded, at most 16 here, and so is the logarithm of a sum, which it cancels with",
    },
    cases: Cases::Listed(cases),
};

fn cases(generator: &mut Generator) -> Vec<Case> {
    let shapes: [(&[usize], &[isize]); 8] = [
        (&[3, 5], &[1, 0]),
        (&[7], &[0]),
        (&[2, 3, 4], &[1, -1]),
        (&[4, 1], &[1]),
        (&[0, 4], &[1, 0]),
        (&[2, 0, 3], &[1]),
        (&[2, 1, 3, 1, 2, 2], &[2]),
        (&[3, 1500], &[1]),
    ];
    let mut cases = Vec::new();
    for (shape, axes) in shapes {
        for &axis in axes {
            let input = Array::draw(shape, Domain::between(-8.0, 8.0), generator);
            let (label, apply) = (format!("{shape:?} axis {axis}"), move |x: &[Tensor]| x[0].log_softmax(axis));
            cases.push(Case::new(label, vec![input], apply, move |x| reference(&x[0], axis)));
        }
    }
    // Larger than any power of e that an f32 holds.
    let large = Array::new(&[3, 3], vec![1000.0, 1000.0, 999.0, -2000.0, -2000.0, -2001.0, 3e38, -3e37, 0.0]);
    cases.push(Case::new("large", vec![large], |x| x[0].log_softmax(-1), |x| reference(&x[0], -1)).with_orders(0));
    cases
}

fn reference(x: &Array, axis: isize) -> Array {
    let axis = axis.rem_euclid(x.shape.len() as isize) as usize;
    let less = Array::zip(&[x, &x.reduced(&[axis], largest)], |x| x[0] - x[1]);
    let total = less.map(f64::exp).reduced(&[axis], sum).map(f64::ln);
    Array::zip(&[&less, &total], |x| x[0] - x[1])
}
