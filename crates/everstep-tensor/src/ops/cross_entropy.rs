//! Cross-entropy of class scores: log-softmax and negative log-likelihood, fused.

use std::sync::Arc;

use everstep_device::cpu::{
    CrossEntropy as Kernel, CrossEntropyBackward as BackwardKernel, CrossEntropyBackwardParams, CrossEntropyParams,
};
use everstep_device::{Command, DType, Shape, Work};

use crate::op::{Inferred, Op, Saved, apply};
use crate::{Error, Result, Tensor};

/// The loss of each row of logits [rows, classes], labels [rows]; keeps the log-sum-exp.
#[derive(Debug)]
struct CrossEntropy;

/// (softmax - one-hot) times the gradient, from logits, labels, log-sum-exp, gradient.
#[derive(Debug)]
struct CrossEntropyBackward;

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
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
        Ok(Inferred::New(vec![(rows, DType::F32), (rows, DType::F32)]))
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
        let (logits, labels, log_sum, gradient) = (inputs[0].dense()?, inputs[1], inputs[2], inputs[3]);
        let params = CrossEntropyBackwardParams {
            rows: logits.shape()[0] as u32,
            classes: logits.shape()[1] as u32,
            label_offset: labels.layout().offset() as u32,
            label_stride: labels.layout().strides()[0] as u32,
            gradient_offset: gradient.layout().offset() as u32,
            gradient_stride: gradient.layout().strides()[0] as u32,
        };
        let slices = [&logits, labels, log_sum, gradient].map(|tensor| tensor.slice_of_buffer());
        Ok(logits.device().record(Command {
            op: self.name(),
            work: Work::Kernel(Arc::new(BackwardKernel(params))),
            inputs: slices.to_vec(),
            outputs: vec![outputs[0].slice_of_buffer()],
        })?)
    }

    fn vjp(&self, _: &Saved<'_>, _: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Err(Error::NotDifferentiable { op: self.name() })
    }
}

impl Tensor {
    /// The mean over all rows of -log softmax(logits)\[label\]: logits [.., C] (this tensor), labels u32 [..].
    ///
    /// # Errors
    /// [`Error::Shapes`], [`Error::DTypes`], [`Error::Empty`] without classes. A label at or above C is found on the
    /// device: the step that uses the loss is refused, and the next read-back gives
    /// [`everstep_device::Error::OutOfRange`].
    pub fn cross_entropy(&self, labels: &Tensor) -> Result<Tensor> {
        self.cross_entropy_rows(labels)?.mean_all()
    }

    /// As [`Tensor::cross_entropy`], of each row: [..].
    ///
    /// # Errors
    /// As [`Tensor::cross_entropy`].
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
