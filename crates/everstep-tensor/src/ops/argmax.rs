//! The position of the largest or smallest element.

use std::sync::Arc;

use everstep_device::cpu::ArgMax as Kernel;
use everstep_device::{Command, DType, Generator, Work};

use super::reference::Array;
use super::table::{Case, Cases, EXACT, Entry, FLOAT, Gradient};
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
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[3.0f32, 1.0, 2.0, 9.0], &[2, 2], &Device::cpu())?;
    /// assert_eq!(x.argmax(1, false)?.to_vec::<u32>()?, [0, 1]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn argmax(&self, axis: isize, keepdim: bool) -> Result<Tensor> {
        let axis = self.axis("argmax", axis)?;
        let found = apply(ArgMax { axis }, &[self])?;
        if keepdim { Ok(found) } else { found.squeeze(axis as isize) }
    }

    /// The position of the smallest element along `axis`, as u32: the first of equals; a NaN counts as the smallest.
    ///
    /// # Errors
    /// As [`Tensor::argmax`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[3.0f32, 1.0, 2.0, 1.0], &[4], &Device::cpu())?;
    /// assert_eq!(x.argmin(0, false)?.item::<u32>()?, 1);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn argmin(&self, axis: isize, keepdim: bool) -> Result<Tensor> {
        self.detach().neg()?.argmax(axis, keepdim)
    }
}

pub(super) const ARGMAX: Entry = Entry {
    name: "argmax",
    dtypes: FLOAT,
    gradient: Gradient::No("positions are integers"),
    tolerance: EXACT,
    cases: Cases::Listed(|generator| cases(generator, Tensor::argmax, |x| x)),
};

pub(super) const ARGMIN: Entry =
    Entry { name: "argmin", cases: Cases::Listed(|generator| cases(generator, Tensor::argmin, |x| -x)), ..ARGMAX };

fn cases(
    generator: &mut Generator,
    apply: fn(&Tensor, isize, bool) -> Result<Tensor>,
    sign: fn(f64) -> f64,
) -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes: [(&[usize], &[isize]); 6] = [
        (&[7], &[0]),
        (&[2, 3, 4], &[0, 1, 2, -1]),
        (&[1, 1], &[-2]),
        (&[0, 3], &[1]),
        (&[2, 1, 3, 1, 2, 2], &[2, -1]),
        (&[3, 700], &[1]),
    ];
    for (shape, axes) in shapes {
        for (&axis, keepdim) in axes.iter().zip([false, true].into_iter().cycle()) {
            // Few different numbers, so that some are equal: the first counts.
            let input = Array::integers(shape, DType::F32, -2, 5, generator);
            let label = format!("{shape:?} axis {axis} keepdim {keepdim}");
            let apply = move |x: &[Tensor]| apply(&x[0], axis, keepdim);
            cases.push(Case::new(label, vec![input], apply, move |x| reference(&x[0].map(sign), axis, keepdim)));
        }
    }
    cases
}

fn reference(x: &Array, axis: isize, keepdim: bool) -> Array {
    let axis = axis.rem_euclid(x.shape.len() as isize) as usize;
    let beats = |value: f64, best: f64| !best.is_nan() && (value.is_nan() || value > best);
    let position = |values: &[f64]| {
        let later = |best: usize, at: usize| if beats(values[at], values[best]) { at } else { best };
        (0..values.len()).fold(0, later) as f64
    };
    super::reduce::squeezed(x.reduced(&[axis], position), &[axis], keepdim).with_dtype(DType::U32)
}
