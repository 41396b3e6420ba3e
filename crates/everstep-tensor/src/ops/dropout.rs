//! Dropout (Srivastava et al., 2014).

use std::sync::Arc;

use everstep_device::cpu::{Dropout as Kernel, DropoutParams};
use everstep_device::{Command, DType, Work};

use crate::op::{Inferred, Op, Saved, apply};
use crate::parameter::Draw;
use crate::{Error, Result, Tensor};

/// Keeps an element with probability 1 - p and scales it by 1 / (1 - p). Inputs: x, the words that hold the step.
#[derive(Clone, Debug)]
struct Dropout {
    probability: f32,
    seed: u64,
    stream: u32,
    call: u32,
    step_offset: usize,
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        if inputs[0].dtype() != DType::F32 {
            return Err(Error::DTypes { op: self.name(), found: vec![inputs[0].dtype()] });
        }
        Ok(Inferred::one(*inputs[0].shape(), DType::F32))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let x = inputs[0].dense()?;
        let params = DropoutParams {
            count: x.count() as u32,
            probability: self.probability,
            scale: 1.0 / (1.0 - self.probability),
            step_offset: self.step_offset as u32,
            seed_low: self.seed as u32,
            seed_high: (self.seed >> 32) as u32,
            stream: self.stream,
            call: self.call,
        };
        Ok(x.device().record(Command {
            op: self.name(),
            work: Work::Kernel(Arc::new(Kernel(params))),
            inputs: vec![x.slice_of_buffer(), inputs[1].slice_of_buffer()],
            outputs: vec![outputs[0].slice_of_buffer()],
        })?)
    }

    /// The same mask on the gradient: it is a function of the counters, so it is made again and not kept.
    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply(self.clone(), &[gradient, &saved.inputs[1]])?), None])
    }
}

impl Tensor {
    /// Zeroes each element with `probability` and scales the others by 1 / (1 - probability).
    ///
    /// # Errors
    /// [`Error::Argument`] where the probability is not in [0, 1).
    pub fn dropout(&self, probability: f32, draw: &Draw) -> Result<Tensor> {
        if !(0.0..1.0).contains(&probability) {
            let value = f64::from(probability);
            return Err(Error::Argument { op: "dropout", name: "probability", value, range: "0 <= p < 1" });
        }
        let Draw { seed, stream, call, step_offset, .. } = *draw;
        apply(Dropout { probability, seed, stream, call, step_offset }, &[self, &draw.steps])
    }
}
