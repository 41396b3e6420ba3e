//! Sums, means, products and extremes over dimensions.

use std::sync::Arc;

use everstep_device::cpu::{Reduce as Kernel, Reduction};
use everstep_device::{Command, DType, Generator, Shape, Work, functions};

use super::pointwise::call;
use super::reference::{self, Array, Domain};
use super::table::{Case, Cases, EXACT, Entry, FLOAT, Gradient, Tolerance};
use crate::op::{Inferred, Op, Saved, apply};
use crate::{Autocast, Error, Result, Tensor};

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

    fn autocast(&self) -> Autocast {
        // An extreme is one of the elements.
        let adds_up = matches!(self.reduction, Reduction::Sum | Reduction::Prod);
        if adds_up { Autocast::Single } else { Autocast::AsGiven }
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        let input = inputs[0];
        if input.dtype() != DType::F32 {
            return Err(Error::DTypes { op: self.name, found: vec![input.dtype()] });
        }
        let reduced: usize = self.axes.iter().map(|&axis| input.shape()[axis]).product();
        if matches!(self.reduction, Reduction::Max | Reduction::Min) && reduced == 0 {
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
        let axes: Vec<isize> = self.axes.iter().map(|&axis| axis as isize).collect();
        let part = match self.reduction {
            Reduction::Sum if self.scale == 1.0 => gradient.broadcast_to(input.shape())?,
            Reduction::Sum => gradient.mul_scalar(self.scale)?.broadcast_to(input.shape())?,
            // Elements that share an extreme share its gradient, as PyTorch's amax and amin have it.
            Reduction::Max | Reduction::Min => {
                let mask = indicator(input, output)?;
                mask.mul(&gradient.div(&mask.sum(&axes, true)?)?)?
            }
            Reduction::Prod => gradient.mul(&product_slopes(input, &axes)?)?,
        };
        Ok(vec![Some(part)])
    }
}

/// 1 where the elements are equal, else 0, as f32; a constant to gradients.
pub(super) fn indicator(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    x.eq(y)?.cast(DType::F32)
}

/// 1 where the elements equal `value`, else 0.
pub(super) fn indicator_of(x: &Tensor, value: f32) -> Result<Tensor> {
    indicator(x, &Tensor::scalar(value, x.device())?)
}

/// `x` where `gate` is positive or NaN, else 0, to which no gradient of `x` flows.
pub(super) fn gated(gate: &Tensor, x: &Tensor) -> Result<Tensor> {
    call(&functions::RELU_GATE, &[&gate.detach(), x])
}

/// Of each element the product of the others over `axes`.
///
/// The product is P Z: P that of the elements other than zero, which can be divided by each of them, and Z that of the n
/// zeros u, of value 0 (but for n = 0) and yet of slope 1 at n = 1 and sum u - u_i at n = 2. So written, the gradient of
/// this gradient is right too.
fn product_slopes(x: &Tensor, axes: &[isize]) -> Result<Tensor> {
    let zeros = indicator_of(x, 0.0)?;
    let others = indicator_of(&zeros, 0.0)?;
    // 1 in the place of each zero, whatever becomes of it.
    let without = gated(&others, x)?.add(&zeros)?;
    let count = zeros.sum(axes, true)?;
    let [none, one, two] = [0.0, 1.0, 2.0].map(|number| indicator_of(&count, number));
    let (one, two) = (one?, two?);
    let small = gated(&zeros, x)?;
    let (sum, squares) = (small.sum(axes, true)?, small.mul(&small)?.sum(axes, true)?);
    let pairs = sum.mul(&sum)?.sub(&squares)?.mul_scalar(0.5)?;
    let of_zeros = none?.add(&one.mul(&sum)?)?.add(&two.mul(&pairs)?)?;
    let at_others = others.div(&without)?.mul(&of_zeros)?;
    let at_zeros = zeros.mul(&one.add(&two.mul(&sum.sub(&small)?)?)?)?;
    without.prod(axes, true)?.mul(&at_others.add(&at_zeros)?)
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
        // A sum over axes that lie apart is taken run by run, from the back: each is then one of neighbouring elements, or of
        // rows. The others would share the gradient of equal elements differently.
        let mut input = self.clone();
        while reduction == Reduction::Sum
            && let Some(cut) = positive.windows(2).rposition(|pair| pair[0] + 1 < pair[1])
        {
            let axes = positive.split_off(cut + 1);
            input = apply(Reduce { name, reduction, axes, scale: 1.0 }, &[&input])?;
        }
        let reduced = apply(Reduce { name, reduction, axes: positive, scale }, &[&input])?;
        if keepdim { Ok(reduced) } else { reduced.reshape(&kept) }
    }

    pub(super) fn all_axes(&self) -> Vec<isize> {
        (0..self.rank() as isize).collect()
    }

    /// The sum over `axes` (negative: from the back), which stay with size 1 where `keepdim`. Over no axes it is a copy.
    ///
    /// # Errors
    /// [`Error::Axis`], [`Error::AxisTwice`], [`Error::DTypes`] where the dtype is not f32.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 4.0, 3.0], &[2, 2], &Device::cpu())?;
    /// assert_eq!(x.sum(&[1], false)?.to_vec::<f32>()?, [3.0, 7.0]);
    /// assert_eq!(x.sum(&[1], true)?.shape(), &[2, 1]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn sum(&self, axes: &[isize], keepdim: bool) -> Result<Tensor> {
        self.reduce("sum", Reduction::Sum, axes, keepdim, false)
    }

    /// The mean over `axes`; NaN of no elements.
    ///
    /// # Errors
    /// As [`Tensor::sum`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 4.0, 3.0], &[2, 2], &Device::cpu())?;
    /// assert_eq!(x.mean(&[1], false)?.to_vec::<f32>()?, [1.5, 3.5]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn mean(&self, axes: &[isize], keepdim: bool) -> Result<Tensor> {
        self.reduce("mean", Reduction::Sum, axes, keepdim, true)
    }

    /// The largest element over `axes`; NaN where any is. Equal ones share the gradient.
    ///
    /// # Errors
    /// As [`Tensor::sum`], and [`Error::Empty`] of no elements.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 4.0, 3.0], &[2, 2], &Device::cpu())?;
    /// assert_eq!(x.max(&[1], false)?.to_vec::<f32>()?, [2.0, 4.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn max(&self, axes: &[isize], keepdim: bool) -> Result<Tensor> {
        self.reduce("max", Reduction::Max, axes, keepdim, false)
    }

    /// The smallest element over `axes`; NaN where any is. Equal ones share the gradient.
    ///
    /// # Errors
    /// As [`Tensor::sum`], and [`Error::Empty`] of no elements.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 4.0, 3.0], &[2, 2], &Device::cpu())?;
    /// assert_eq!(x.min(&[1], false)?.to_vec::<f32>()?, [1.0, 3.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn min(&self, axes: &[isize], keepdim: bool) -> Result<Tensor> {
        self.reduce("min", Reduction::Min, axes, keepdim, false)
    }

    /// The product over `axes`; 1 of no elements. Its gradient is right where elements are zero too.
    ///
    /// # Errors
    /// As [`Tensor::sum`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[2.0f32, 3.0, 0.0, 5.0], &[2, 2], &Device::cpu())?;
    /// assert_eq!(x.prod(&[1], false)?.to_vec::<f32>()?, [6.0, 0.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn prod(&self, axes: &[isize], keepdim: bool) -> Result<Tensor> {
        self.reduce("prod", Reduction::Prod, axes, keepdim, false)
    }

    /// The sum of all elements, a scalar.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 4.0, 3.0], &[2, 2], &Device::cpu())?;
    /// assert_eq!(x.sum_all()?.item::<f32>()?, 10.0);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn sum_all(&self) -> Result<Tensor> {
        self.sum(&self.all_axes(), false)
    }

    /// The mean of all elements, a scalar.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 4.0, 3.0], &[2, 2], &Device::cpu())?;
    /// assert_eq!(x.mean_all()?.item::<f32>()?, 2.5);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn mean_all(&self) -> Result<Tensor> {
        self.mean(&self.all_axes(), false)
    }

    /// The smallest of all elements, a scalar.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 4.0, 3.0], &[2, 2], &Device::cpu())?;
    /// assert_eq!(x.min_all()?.item::<f32>()?, 1.0);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn min_all(&self) -> Result<Tensor> {
        self.min(&self.all_axes(), false)
    }

    /// The largest of all elements, a scalar.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 4.0, 3.0], &[2, 2], &Device::cpu())?;
    /// assert_eq!(x.max_all()?.item::<f32>()?, 4.0);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
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

pub(super) const MIN: Entry = Entry {
    name: "min",
    cases: Cases::Listed(|generator| {
        let mut all = cases(generator, Tensor::min, |values| -reference::largest(&negated(values)));
        let ties = Array::new(&[2, 3], vec![1.0, 1.0, 2.0, -1.0, -3.0, -3.0]);
        let smallest = |values: &[f64]| -reference::largest(&negated(values));
        let expected = move |x: &[Array]| squeezed(x[0].reduced(&[1], smallest), &[1], false);
        all.push(Case::new("ties", vec![ties], |x| x[0].min(&[1], false), expected).with_orders(1));
        all.retain(|case| !(case.reference)(&case.inputs).values.contains(&f64::INFINITY));
        all
    }),
    ..MAX
};

fn negated(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| -value).collect()
}

pub(super) const PROD: Entry = Entry {
    name: "prod",
    tolerance: Tolerance { relative: 2e-6, absolute: 0.0, why: "some dozens of factors, each product rounded" },
    cases: Cases::Listed(products),
    ..SUM
};

fn products(generator: &mut Generator) -> Vec<Case> {
    let shapes: [(&[usize], &[isize]); 8] = [
        (&[2, 3, 4], &[1]),
        (&[3, 5], &[-1]),
        (&[3, 5], &[0]),
        (&[2, 3, 2], &[0, 2]),
        (&[], &[]),
        (&[2, 0, 3], &[1]),
        (&[2, 1, 3, 1, 1, 2], &[0, 2]),
        (&[40], &[0]),
    ];
    let mut inputs: Vec<(Array, &[isize])> = Vec::new();
    for (shape, axes) in shapes {
        inputs.push((Array::draw(shape, Domain::away(0.5, 1.7), generator), axes));
    }
    // None, one, two and three zeros.
    let zeros = [2.0, 3.0, -0.5, 4.0, 2.0, 0.0, -0.5, 4.0, 0.0, 3.0, -0.5, 0.0, 0.0, 0.0, -0.5, 0.0];
    inputs.push((Array::new(&[4, 4], zeros.to_vec()), &[1]));
    // More than a thread takes, and exact.
    let factor = |index: &[usize]| match index[1] {
        3 | 9_000 => -2.0,
        17_500 => 0.75,
        _ => 1.0,
    };
    inputs.push((Array::from_fn(&[2, 18_000], factor), &[1]));
    let case = |(input, axes): (Array, &'static [isize])| {
        let positive: Vec<usize> =
            axes.iter().map(|axis| axis.rem_euclid(input.shape.len().max(1) as isize) as usize).collect();
        let label = format!("{:?} axes {axes:?}", input.shape);
        Case::new(
            label,
            vec![input],
            move |x| x[0].prod(axes, false),
            move |x| squeezed(x[0].reduced(&positive, |values| values.iter().product()), &positive, false),
        )
    };
    inputs.into_iter().map(case).collect()
}

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
            // Where the terms are many, of one sign: a sum near zero says nothing of how large the partial sums were.
            let many = shape.iter().product::<usize>() > 10_000;
            let input = Array::draw(shape, Domain::between(if many { 0.5 } else { -3.0 }, 3.0), generator);
            let label = format!("{shape:?} axes {axes:?} keepdim {keepdim}");
            let apply = move |x: &[Tensor]| apply(&x[0], &axes, keepdim);
            cases.push(Case::new(label, vec![input], apply, move |x| {
                squeezed(x[0].reduced(&positive, reference), &positive, keepdim)
            }));
        }
    }
    cases
}
