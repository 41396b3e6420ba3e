//! Dropout (Srivastava et al., 2014).

use std::sync::Arc;

use everstep_device::cpu::{Dropout as Kernel, DropoutParams};
use everstep_device::philox::philox4x32_10;
use everstep_device::{Command, DType, Generator, Work};

use super::reference::{Array, Domain};
use super::table::{Case, Cases, Entry, FLOAT, Gradient, Tolerance};
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
        // Random numbers are counted in 32 bits.
        if u32::try_from(inputs[0].count()).is_err() {
            let rule = "it has more elements than random numbers of one draw";
            return Err(Error::Shape { op: self.name(), shape: *inputs[0].shape(), rule });
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
    ///
    /// ```
    /// # use everstep_tensor::{Device, Generator, RandomStream, Tensor};
    /// let device = Device::cpu();
    /// let stream = RandomStream::new(&mut Generator::new(0));
    /// let x = Tensor::ones(&[1000], &device)?.dropout(0.5, &stream.draw(&device)?)?;
    /// assert!(x.to_vec::<f32>()?.iter().all(|&value| value == 0.0 || value == 2.0));
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn dropout(&self, probability: f32, draw: &Draw) -> Result<Tensor> {
        if !(0.0..1.0).contains(&probability) {
            let value = f64::from(probability);
            return Err(Error::Argument { op: "dropout", name: "probability", value, range: "0 <= p < 1" });
        }
        let Draw { seed, stream, call, step_offset, .. } = *draw;
        apply(Dropout { probability, seed, stream, call, step_offset }, &[self, &draw.steps])
    }
}

pub(super) const DROPOUT: Entry = Entry {
    name: "dropout",
    dtypes: FLOAT,
    gradient: Gradient::Any,
    tolerance: Tolerance { relative: 2e-7, absolute: 0.0, why: "the factor and the product, each rounded once" },
    cases: Cases::Listed(cases),
};

fn cases(generator: &mut Generator) -> Vec<Case> {
    let shapes: [(&[usize], f32); 9] = [
        (&[3, 5], 0.5),
        (&[7], 0.0),
        (&[], 0.5),
        (&[1], 0.9),
        (&[0], 0.5),
        (&[2, 0, 3], 0.1),
        (&[2, 1, 3, 1, 2, 2], 0.25),
        (&[40], 0.999),
        (&[3, 3001], 0.3),
    ];
    let case = |(number, (shape, probability)): (usize, (&[usize], f32))| {
        let input = Array::draw(shape, Domain::between(-3.0, 3.0), generator);
        let key = Key { seed: 0x1234_5678_9abc_def0 + number as u64, stream: 3, call: number as u32, step: 77 };
        let apply = move |x: &[Tensor]| {
            let steps = Tensor::from_slice(&[5, key.step], &[2], x[0].device())?;
            x[0].dropout(
                probability,
                &Draw { seed: key.seed, stream: key.stream, call: key.call, steps, step_offset: 1 },
            )
        };
        let label = format!("{shape:?} probability {probability}");
        Case::new(label, vec![input], apply, move |x| reference(&x[0], probability, key))
    };
    shapes.into_iter().enumerate().map(case).collect()
}

#[derive(Clone, Copy)]
struct Key {
    seed: u64,
    stream: u32,
    call: u32,
    step: u32,
}

fn reference(x: &Array, probability: f32, key: Key) -> Array {
    let kept = |element: usize| {
        let counter = [(element / 4) as u32, key.step, key.call, key.stream];
        let words = philox4x32_10(counter, [key.seed as u32, (key.seed >> 32) as u32]);
        f64::from(words[element % 4] >> 8) / f64::from(1 << 24) >= f64::from(probability)
    };
    let scaled = |(element, &x): (usize, &f64)| if kept(element) { x / (1.0 - f64::from(probability)) } else { 0.0 };
    Array::new(&x.shape, x.values.iter().enumerate().map(scaled).collect())
}
