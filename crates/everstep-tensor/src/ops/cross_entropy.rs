//! Cross-entropy of class scores: log-softmax and negative log-likelihood, fused.

use std::sync::Arc;

use everstep_device::cpu::{
    CrossEntropy as Kernel, CrossEntropyBackward as BackwardKernel, CrossEntropyBackwardParams, CrossEntropyParams,
};
use everstep_device::{Command, DType, Generator, Shape, Work};

use super::gather;
use super::reference::{Array, Domain, largest, sum};
use super::table::{Case, Cases, Entry, FLOAT, Gradient, Tolerance};
use crate::op::{Inferred, Op, Saved, apply};
use crate::{Autocast, Error, Result, Tensor};

/// The loss of each row of logits [rows, classes], labels [rows]; keeps the largest logit and the sum of each row.
#[derive(Debug)]
struct CrossEntropy;

/// (softmax - one-hot) times the gradient, from logits, labels, what the forward kept, gradient.
#[derive(Debug)]
struct CrossEntropyBackward;

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn autocast(&self) -> Autocast {
        Autocast::Single
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        let (logits, labels) = (inputs[0], inputs[1]);
        if (logits.dtype(), labels.dtype()) != (DType::F32, DType::U32) {
            return Err(Error::DTypes { op: self.name(), found: vec![logits.dtype(), labels.dtype()] });
        }
        if logits.shape()[1] == 0 {
            return Err(Error::Empty { op: self.name(), shape: *logits.shape() });
        }
        let rows = *labels.shape();
        Ok(Inferred::New(vec![(rows, DType::F32), (Shape::new(&[rows.count(), 2])?, DType::F32)]))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let (logits, labels) = (inputs[0].dense()?, inputs[1]);
        let params = CrossEntropyParams {
            rows: logits.shape()[0] as u32,
            classes: logits.shape()[1] as u32,
            label_offset: labels.layout().offset() as u32,
            label_stride: labels.layout().strides()[0] as u32,
            code: 0,
        };
        let device = logits.device();
        Ok(device.record(Command {
            op: self.name(),
            work: Work::Kernel(Arc::new(Kernel(params))),
            inputs: vec![logits.slice_of_buffer(), labels.slice_of_buffer()],
            outputs: vec![outputs[0].slice_of_buffer(), outputs[1].slice_of_buffer(), device.status()],
        })?)
    }

    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let inputs = [&saved.inputs[0], &saved.inputs[1], &saved.outputs[1], gradient];
        Ok(vec![Some(apply(CrossEntropyBackward, &inputs)?), None])
    }
}

impl Op for CrossEntropyBackward {
    fn name(&self) -> &'static str {
        "cross_entropy_backward"
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        Ok(Inferred::one(*inputs[0].shape(), DType::F32))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let (logits, labels, sums, gradient) = (inputs[0].dense()?, inputs[1], inputs[2], inputs[3]);
        let params = CrossEntropyBackwardParams {
            rows: logits.shape()[0] as u32,
            classes: logits.shape()[1] as u32,
            label_offset: labels.layout().offset() as u32,
            label_stride: labels.layout().strides()[0] as u32,
            gradient_offset: gradient.layout().offset() as u32,
            gradient_stride: gradient.layout().strides()[0] as u32,
        };
        let slices = [&logits, labels, sums, gradient].map(|tensor| tensor.slice_of_buffer());
        Ok(logits.device().record(Command {
            op: self.name(),
            work: Work::Kernel(Arc::new(BackwardKernel(params))),
            inputs: slices.to_vec(),
            outputs: vec![outputs[0].slice_of_buffer()],
        })?)
    }

    /// Of g (p - one-hot) for the incoming h, with p the softmax: dx = g p (h - sum h p), dg = sum h p - h at the label.
    /// What the forward pass kept is a function of the logits too, and so counted here.
    fn vjp(&self, saved: &Saved<'_>, h: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (logits, labels, gradient) = (&saved.inputs[0], &saved.inputs[1], &saved.inputs[3]);
        let p = logits.softmax(-1)?;
        let mean = h.mul(&p)?.sum(&[-1], true)?;
        let dx = p.mul(&h.sub(&mean)?)?.mul(&gradient.unsqueeze(1)?)?;
        let dg = mean.squeeze(1)?.sub(&gather::label_of(h, labels)?)?;
        Ok(vec![Some(dx), None, None, Some(dg)])
    }
}

impl Tensor {
    /// The mean over all rows of -log softmax(logits)\[label\]: logits [.., C] (this tensor), labels u32 [..].
    ///
    /// # Errors
    /// [`Error::Shapes`], [`Error::DTypes`], [`Error::Empty`] without classes. A label at or above C is found on the
    /// device: the step that uses the loss is refused, and the next read-back gives
    /// [`everstep_device::Error::OutOfRange`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let logits = Tensor::zeros(&[2, 4], &Device::cpu())?;
    /// let labels = Tensor::from_slice(&[1u32, 3], &[2], &Device::cpu())?;
    /// assert!((logits.cross_entropy(&labels)?.item::<f32>()? - 4f32.ln()).abs() < 1e-6);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn cross_entropy(&self, labels: &Tensor) -> Result<Tensor> {
        self.cross_entropy_rows(labels)?.mean_all()
    }

    /// As [`Tensor::cross_entropy`], of each row: [..].
    ///
    /// # Errors
    /// As [`Tensor::cross_entropy`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let logits = Tensor::from_slice(&[0.0f32, 100.0, 0.0, 100.0], &[2, 2], &Device::cpu())?;
    /// let labels = Tensor::from_slice(&[0u32, 1], &[2], &Device::cpu())?;
    /// assert_eq!(logits.cross_entropy_rows(&labels)?.to_vec::<f32>()?, [100.0, 0.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn cross_entropy_rows(&self, labels: &Tensor) -> Result<Tensor> {
        let rule = "logits are [.., classes], labels [..]";
        let wrong = Error::Shapes { op: "cross_entropy", left: *self.shape(), right: *labels.shape(), rule };
        let Some((&classes, rows)) = self.shape().split_last() else { return Err(wrong) };
        if *rows != **labels.shape() {
            return Err(wrong);
        }
        let count = labels.count();
        let logits = self.reshape_to(Shape::new(&[count, classes])?)?;
        apply(CrossEntropy, &[&logits, &labels.reshape(&[count])?])?.reshape_to(*labels.shape())
    }
}

const LOSS: Tolerance = Tolerance {
    relative: 1e-6,
    absolute: 2e-6,
    why: "log-sum-exp minus a logit cancels: a few units of the larger one, which is up to 8 in these cases",
};

pub(super) const CROSS_ENTROPY: Entry = Entry {
    name: "cross_entropy",
    dtypes: FLOAT,
    gradient: Gradient::Any,
    tolerance: LOSS,
    cases: Cases::Listed(|generator| cases(generator, true)),
};

pub(super) const CROSS_ENTROPY_ROWS: Entry =
    Entry { name: "cross_entropy_rows", cases: Cases::Listed(|generator| cases(generator, false)), ..CROSS_ENTROPY };

fn cases(generator: &mut Generator, mean: bool) -> Vec<Case> {
    let shapes: [&[usize]; 10] =
        [&[5, 7], &[7], &[2, 3, 4], &[3, 1], &[1, 1], &[0, 4], &[2, 0, 3], &[2, 1, 3, 1, 2, 5], &[70, 10], &[3, 1030]];
    let case = |shape: &[usize]| {
        let (classes, rows) = (shape[shape.len() - 1], &shape[..shape.len() - 1]);
        let logits = Array::draw(shape, Domain::between(-8.0, 8.0), generator);
        let labels = Array::integers(rows, DType::U32, 0, classes as u32, generator);
        let apply = move |x: &[Tensor]| if mean { x[0].cross_entropy(&x[1]) } else { x[0].cross_entropy_rows(&x[1]) };
        Case::new(format!("{shape:?}"), vec![logits, labels], apply, move |x| reference(&x[0], &x[1], mean))
    };
    let mut cases: Vec<Case> = shapes.into_iter().map(case).collect();
    // Larger than any power of e that an f32 holds.
    let logits = Array::new(&[2, 3], vec![1000.0, -1000.0, 0.0, -4000.0, -4000.0, -4001.0]);
    let labels = Array::new(&[2], vec![0.0, 2.0]).with_dtype(DType::U32);
    let apply = move |x: &[Tensor]| if mean { x[0].cross_entropy(&x[1]) } else { x[0].cross_entropy_rows(&x[1]) };
    cases.push(Case::new("large", vec![logits, labels], apply, move |x| reference(&x[0], &x[1], mean)).with_orders(0));
    cases
}

fn reference(logits: &Array, labels: &Array, mean: bool) -> Array {
    let classes = logits.shape[logits.shape.len() - 1];
    let rows = logits.values.chunks(classes).zip(&labels.values).map(|(row, &label)| {
        let top = largest(row);
        let powers: Vec<f64> = row.iter().map(|x| (x - top).exp()).collect();
        top + sum(&powers).ln() - row[label as usize]
    });
    let rows = Array::new(&labels.shape, rows.collect());
    if mean { Array::new(&[], vec![sum(&rows.values) / rows.count() as f64]) } else { rows }
}
