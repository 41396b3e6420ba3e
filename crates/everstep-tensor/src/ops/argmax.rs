//! The position of the largest element.

use std::sync::Arc;

use everstep_device::cpu::ArgMax as Kernel;
use everstep_device::{Command, DType, Work};

use crate::op::{Inferred, Op, Saved, apply};
use crate::{Error, Result, Tensor};

/// Positions along `axis`, which stays with size 1.
#[derive(Debug)]
struct ArgMax {
    axis: usize,
}

impl Op for ArgMax {
    fn name(&self) -> &'static str {
        "argmax"
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        let input = inputs[0];
        if input.dtype() != DType::F32 {
            return Err(Error::DTypes { op: self.name(), found: vec![input.dtype()] });
        }
        if input.shape()[self.axis] == 0 {
            return Err(Error::Empty { op: self.name(), shape: *input.shape() });
        }
        Ok(Inferred::one(input.shape().with(self.axis, 1), DType::U32))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let input = inputs[0];
        let order: Vec<_> = (0..input.rank()).filter(|&axis| axis != self.axis).chain([self.axis]).collect();
        Ok(input.device().record(Command {
            op: self.name(),
            work: Work::Kernel(Arc::new(Kernel { input: input.layout().permute(&order)? })),
            inputs: vec![input.slice_of_buffer()],
            outputs: vec![outputs[0].slice_of_buffer()],
        })?)
    }

    fn vjp(&self, _: &Saved<'_>, _: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![None])
    }
}

impl Tensor {
    /// The position of the largest element along `axis`, as u32: the first of equals; a NaN counts as the largest.
    ///
    /// # Errors
    /// [`Error::Axis`], [`Error::Empty`], [`Error::DTypes`] where the dtype is not f32.
    pub fn argmax(&self, axis: isize, keepdim: bool) -> Result<Tensor> {
        let axis = self.axis("argmax", axis)?;
        let found = apply(ArgMax { axis }, &[self])?;
        if keepdim { Ok(found) } else { found.squeeze(axis as isize) }
    }
}
