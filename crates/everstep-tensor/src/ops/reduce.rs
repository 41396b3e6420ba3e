//! Sums, means and maxima over dimensions.

use std::sync::Arc;

use everstep_device::cpu::{Reduce as Kernel, Reduction};
use everstep_device::{Command, DType, Generator, Shape, Work};

use super::reference::{self, Array, Domain};
use super::table::{Case, Cases, EXACT, Entry, FLOAT, Gradient, Tolerance};
use crate::op::{Inferred, Op, Saved, apply};
use crate::{Error, Result, Tensor};

/// A reduction over `axes`, ascending; the reduced dimensions stay, with size 1.
#[derive(Debug)]
struct Reduce {
    name: &'static str,
    reduction: Reduction,
    axes: Vec<usize>,
    scale: f32,
}

impl Reduce {
    fn output(&self, shape: &Shape) -> Shape {
        self.axes.iter().fold(*shape, |shape, &axis| shape.with(axis, 1))
    }
}

impl Op for Reduce {
    fn name(&self) -> &'static str {
        self.name
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        let input = inputs[0];
        if input.dtype() != DType::F32 {
            return Err(Error::DTypes { op: self.name, found: vec![input.dtype()] });
        }
        let reduced: usize = self.axes.iter().map(|&axis| input.shape()[axis]).product();
        if self.reduction == Reduction::Max && reduced == 0 {
            return Err(Error::Empty { op: self.name, shape: *input.shape() });
        }
        Ok(Inferred::one(self.output(input.shape()), input.dtype()))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let input = inputs[0];
        let kept = (0..input.rank()).filter(|axis| !self.axes.contains(axis));
        let order: Vec<usize> = kept.chain(self.axes.iter().copied()).collect();
        let layout = input.layout().permute(&order)?;
        let kernel = Kernel { input: layout, reduced: self.axes.len(), reduction: self.reduction, scale: self.scale };
        Ok(input.device().record(Command {
            op: self.name,
            work: Work::Kernel(Arc::new(kernel)),
            inputs: vec![input.slice_of_buffer()],
            outputs: vec![outputs[0].slice_of_buffer()],
        })?)
    }

    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (input, output) = (&saved.inputs[0], &saved.outputs[0]);
        let part = match self.reduction {
            Reduction::Sum if self.scale == 1.0 => gradient.broadcast_to(input.shape())?,
            Reduction::Sum => gradient.mul_scalar(self.scale)?.broadcast_to(input.shape())?,
            // Elements that share the maximum share its gradient, as PyTorch's amax has it.
            Reduction::Max => {
                let axes: Vec<isize> = self.axes.iter().map(|&axis| axis as isize).collect();
                let mask = input.equal(output)?;
                mask.mul(&gradient.div(&mask.sum(&axes, true)?)?)?
            }
        };
        Ok(vec![Some(part)])
    }
}

impl Tensor {
    fn reduce(
        &self,
        name: &'static str,
        reduction: Reduction,
        axes: &[isize],
        keepdim: bool,
        mean: bool,
    ) -> Result<Tensor> {
        let mut positive = axes.iter().map(|&axis| self.axis(name, axis)).collect::<Result<Vec<_>>>()?;
        positive.sort_unstable();
        if let Some(pair) = positive.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::AxisTwice { op: name, axis: pair[0] as isize });
        }
        let count: usize = positive.iter().map(|&axis| self.shape()[axis]).product();
        let scale = if mean { (1.0 / count as f64) as f32 } else { 1.0 };
        let kept: Vec<usize> =
            (0..self.rank()).filter(|axis| !positive.contains(axis)).map(|axis| self.shape()[axis]).collect();
        let reduced = apply(Reduce { name, reduction, axes: positive, scale }, &[self])?;
        if keepdim { Ok(reduced) } else { reduced.reshape(&kept) }
    }

    fn all_axes(&self) -> Vec<isize> {
        (0..self.rank() as isize).collect()
    }

    /// The sum over `axes` (negative: from the back), which stay with size 1 where `keepdim`. Over no axes it is a copy.
    ///
    /// # Errors
    /// [`Error::Axis`], [`Error::AxisTwice`], [`Error::DTypes`] where the dtype is not f32.
    pub fn sum(&self, axes: &[isize], keepdim: bool) -> Result<Tensor> {
        self.reduce("sum", Reduction::Sum, axes, keepdim, false)
    }

    /// The mean over `axes`; NaN of no elements.
    ///
    /// # Errors
    /// As [`Tensor::sum`].
    pub fn mean(&self, axes: &[isize], keepdim: bool) -> Result<Tensor> {
        self.reduce("mean", Reduction::Sum, axes, keepdim, true)
    }

    /// The largest element over `axes`; NaN where any is. Equal ones share the gradient.
    ///
    /// # Errors
    /// As [`Tensor::sum`], and [`Error::Empty`] of no elements.
    pub fn max(&self, axes: &[isize], keepdim: bool) -> Result<Tensor> {
        self.reduce("max", Reduction::Max, axes, keepdim, false)
    }

    /// The sum of all elements, a scalar.
    pub fn sum_all(&self) -> Result<Tensor> {
        self.sum(&self.all_axes(), false)
    }

    /// The mean of all elements, a scalar.
    pub fn mean_all(&self) -> Result<Tensor> {
        self.mean(&self.all_axes(), false)
    }

    /// The largest of all elements, a scalar.
    pub fn max_all(&self) -> Result<Tensor> {
        self.max(&self.all_axes(), false)
    }
}

const SUMMED: Tolerance = Tolerance {
    relative: 1e-5,
    absolute: 3e-5,
    why: "partial sums of up to some hundreds that cancel, each rounded; of equal numbers all in one direction",
};

pub(super) const SUM: Entry = Entry {
    name: "sum",
    dtypes: FLOAT,
    gradient: Gradient::Any,
    tolerance: SUMMED,
    cases: Cases::Listed(|generator| cases(generator, Tensor::sum, reference::sum)),
};

pub(super) const MEAN: Entry = Entry {
    name: "mean",
    cases: Cases::Listed(|generator| {
        cases(generator, Tensor::mean, |values| reference::sum(values) / values.len() as f64)
    }),
    ..SUM
};

pub(super) const MAX: Entry = Entry {
    name: "max",
    tolerance: EXACT,
    cases: Cases::Listed(|generator| {
        let mut all = cases(generator, Tensor::max, reference::largest);
        // Two equal ones share the gradient. Differences of both sides agree with that; of more they would not.
        let ties = Array::new(&[2, 3], vec![1.0, 2.0, 2.0, -1.0, -1.0, -3.0]);
        let expected = |x: &[Array]| squeezed(x[0].reduced(&[1], reference::largest), &[1], false);
        all.push(Case::new("ties", vec![ties], |x| x[0].max(&[1], false), expected).with_orders(1));
        // Nothing has no maximum: an error, which has its own test.
        let empty = |case: &Case| (case.reference)(&case.inputs).values.contains(&f64::NEG_INFINITY);
        all.retain(|case| !empty(case));
        all
    }),
    ..SUM
};

/// Without the dimensions `axes`, of size 1, unless they are to be kept.
pub(super) fn squeezed(x: Array, axes: &[usize], keepdim: bool) -> Array {
    let kept = |axis: &usize| keepdim || !axes.contains(axis);
    let shape: Vec<usize> = (0..x.shape.len()).filter(kept).map(|axis| x.shape[axis]).collect();
    x.reshaped(&shape)
}

fn cases(
    generator: &mut Generator,
    apply: fn(&Tensor, &[isize], bool) -> Result<Tensor>,
    reference: fn(&[f64]) -> f64,
) -> Vec<Case> {
    let every: &[&[isize]] = &[&[], &[0], &[1], &[2], &[0, 1], &[0, 2], &[1, 2], &[0, 1, 2], &[-1], &[-1, 0]];
    let shapes: [(&[usize], &[&[isize]]); 14] = [
        (&[2, 3, 4], every),
        (&[5], &[&[0], &[]]),
        (&[], &[&[]]),
        (&[1, 1], &[&[0], &[0, 1]]),
        (&[0], &[&[0], &[]]),
        (&[2, 0, 3], &[&[0], &[1], &[0, 2], &[0, 1, 2]]),
        (&[2, 1, 3, 2, 1, 2], &[&[0, 2, 4], &[1, 3, 5], &[-1], &[0, 1, 2, 3, 4, 5]]),
        (&[40_000], &[&[0]]),
        (&[70_000], &[&[0]]),
        (&[300, 600], &[&[0], &[1]]),
        (&[2, 17_000], &[&[1]]),
        (&[3, 1100, 5], &[&[1], &[0, 2]]),
        (&[5000, 2], &[&[1]]),
        (&[1, 7, 1], &[&[1]]),
    ];
    let mut cases = Vec::new();
    for (shape, choices) in shapes {
        for (&axes, keepdim) in choices.iter().zip([false, true].into_iter().cycle()) {
            let axes = axes.to_vec();
            let positive: Vec<usize> =
                axes.iter().map(|&axis| axis.rem_euclid(shape.len() as isize) as usize).collect();
            let input = Array::draw(shape, Domain::between(-3.0, 3.0), generator);
            let label = format!("{shape:?} axes {axes:?} keepdim {keepdim}");
            let apply = move |x: &[Tensor]| apply(&x[0], &axes, keepdim);
            cases.push(Case::new(label, vec![input], apply, move |x| {
                squeezed(x[0].reduced(&positive, reference), &positive, keepdim)
            }));
        }
    }
    cases
}
