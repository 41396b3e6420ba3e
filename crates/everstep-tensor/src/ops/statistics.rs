//! Spread and size of tensors: variance, standard deviation, norms, log-sum-exp, any and all. All are derived ops.

use everstep_device::Generator;

use super::reduce::{gated, indicator_of, squeezed};
use super::reference::{Array, Domain, largest, sum};
use super::table::{Case, Cases, Entry, FLOAT, Gradient, Tolerance};
use crate::{Error, Result, Tensor};

impl Tensor {
    /// Without the dimensions `axes`, of size 1, unless they are to be kept.
    fn without(&self, axes: &[isize], keepdim: bool) -> Result<Tensor> {
        if keepdim {
            return Ok(self.clone());
        }
        let reduced = axes.iter().map(|&axis| self.axis("reshape", axis)).collect::<Result<Vec<_>>>()?;
        let kept = (0..self.rank()).filter(|axis| !reduced.contains(axis));
        self.reshape(&kept.map(|axis| self.shape()[axis]).collect::<Vec<_>>())
    }

    /// The variance over `axes`: sum (x - mean x)^2 / (n - `correction`), in two passes. PyTorch's default correction is 1,
    /// Bessel's: unbiased. NaN where n is not above it.
    ///
    /// # Errors
    /// [`Error::Axis`], [`Error::AxisTwice`], [`Error::DTypes`] where the dtype is not f32.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0], &[3], &Device::cpu())?;
    /// assert_eq!(x.var(&[0], 1, false)?.item::<f32>()?, 1.0);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn var(&self, axes: &[isize], correction: usize, keepdim: bool) -> Result<Tensor> {
        let mean = self.mean(axes, true)?;
        let difference = self.sub(&mean)?;
        let count = self.count().checked_div(mean.count()).unwrap_or(0);
        let squares = difference.mul(&difference)?.sum(axes, true)?;
        squares.div_scalar(count.saturating_sub(correction) as f32)?.without(axes, keepdim)
    }

    /// The standard deviation over `axes`: the square root of [`Tensor::var`]. Its gradient is 0 where all are equal.
    ///
    /// # Errors
    /// As [`Tensor::var`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 3.0, 5.0], &[3], &Device::cpu())?;
    /// assert_eq!(x.std(&[0], 1, false)?.item::<f32>()?, 2.0);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn std(&self, axes: &[isize], correction: usize, keepdim: bool) -> Result<Tensor> {
        root(&self.var(axes, correction, keepdim)?)
    }

    /// The p-norm over `axes`, (sum |x|^p)^(1/p): 2 the Euclidean one, 1 the sum of magnitudes, infinity the largest and
    /// minus infinity the smallest magnitude, 0 the number of elements other than 0. Its gradient is 0 where it is 0.
    ///
    /// # Errors
    /// As [`Tensor::sum`]; [`Error::Argument`] where `p` is NaN or a negative number; [`Error::Empty`] of no elements where
    /// it is infinite.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[3.0f32, -4.0], &[2], &Device::cpu())?;
    /// assert_eq!(x.norm(2.0, &[0], false)?.item::<f32>()?, 5.0);
    /// assert_eq!(x.norm(f32::INFINITY, &[0], false)?.item::<f32>()?, 4.0);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn norm(&self, p: f32, axes: &[isize], keepdim: bool) -> Result<Tensor> {
        if p.is_nan() || (p < 0.0 && p.is_finite()) {
            let (name, value) = ("p", f64::from(p));
            return Err(Error::Argument { op: "norm", name, value, range: "0 to infinity, or minus infinity" });
        }
        if p == 2.0 {
            return root(&self.mul(self)?.sum(axes, keepdim)?);
        }
        if p == 0.0 {
            return indicator_of(&indicator_of(self, 0.0)?, 0.0)?.sum(axes, keepdim);
        }
        let magnitude = self.maximum(&self.neg()?)?;
        match p {
            f32::INFINITY => magnitude.max(axes, keepdim),
            f32::NEG_INFINITY => magnitude.min(axes, keepdim),
            1.0 => magnitude.sum(axes, keepdim),
            _ => power(&power(&magnitude, p)?.sum(axes, keepdim)?, p.recip()),
        }
    }

    /// log sum e^x over `axes`, computed without overflow. Its gradient is the softmax.
    ///
    /// # Errors
    /// As [`Tensor::sum`], and [`Error::Empty`] of no elements.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::full(&[4], 1000.0, &Device::cpu())?;
    /// assert!((x.logsumexp(&[0], false)?.item::<f32>()? - 1001.3863).abs() < 1e-3);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn logsumexp(&self, axes: &[isize], keepdim: bool) -> Result<Tensor> {
        // An infinite maximum would give infinity minus infinity.
        let largest = self.detach().max(axes, true)?.maximum_scalar(-f32::MAX)?.minimum_scalar(f32::MAX)?;
        let total = self.sub(&largest)?.exp()?.sum(axes, true)?;
        total.log()?.add(&largest)?.without(axes, keepdim)
    }
}

/// The square root, with a gradient of 0 at 0.
fn root(x: &Tensor) -> Result<Tensor> {
    gated(x, &x.add(&indicator_of(x, 0.0)?)?.sqrt()?)
}

/// x^p of x >= 0 and p > 0, with a gradient of 0 at 0.
fn power(x: &Tensor, p: f32) -> Result<Tensor> {
    gated(x, &x.add(&indicator_of(x, 0.0)?)?.log()?.mul_scalar(p)?.exp()?)
}

const SPREAD: Tolerance =
    Tolerance { relative: 4e-6, absolute: 1e-6, why: "squares of differences from a rounded mean, and their sum" };

pub(super) const VAR: Entry = Entry {
    name: "var",
    dtypes: FLOAT,
    gradient: Gradient::Any,
    tolerance: SPREAD,
    cases: Cases::Listed(|generator| {
        let variance = |correction: usize| {
            move |values: &[f64]| {
                let mean = sum(values) / values.len() as f64;
                let squares: Vec<f64> = values.iter().map(|value| (value - mean) * (value - mean)).collect();
                sum(&squares) / values.len().saturating_sub(correction) as f64
            }
        };
        let biased = reductions(generator, "correction 0", |x, axes, keep| x.var(axes, 0, keep), variance(0));
        let unbiased = reductions(generator, "correction 1", |x, axes, keep| x.var(axes, 1, keep), variance(1));
        unbiased.into_iter().chain(biased).collect()
    }),
};

pub(super) const STD: Entry = Entry {
    name: "std",
    cases: Cases::Listed(|generator| {
        reductions(
            generator,
            "",
            |x, axes, keep| x.std(axes, 1, keep),
            |values| {
                let mean = sum(values) / values.len() as f64;
                let squares: Vec<f64> = values.iter().map(|value| (value - mean) * (value - mean)).collect();
                (sum(&squares) / values.len().saturating_sub(1) as f64).sqrt()
            },
        )
    }),
    ..VAR
};

pub(super) const NORM: Entry = Entry {
    name: "norm",
    tolerance: Tolerance { relative: 4e-6, absolute: 0.0, why: "powers by exponential and logarithm, and their sum" },
    cases: Cases::Listed(|generator| {
        let finite = |p: f64| {
            move |values: &[f64]| sum(&values.iter().map(|x| x.abs().powf(p)).collect::<Vec<_>>()).powf(1.0 / p)
        };
        let magnitudes = |values: &[f64]| values.iter().map(|x| x.abs()).collect::<Vec<_>>();
        let most = move |values: &[f64]| largest(&magnitudes(values));
        let least = |values: &[f64]| -largest(&values.iter().map(|x| -x.abs()).collect::<Vec<_>>());
        let others = |values: &[f64]| values.iter().filter(|&&x| x != 0.0).count() as f64;
        let mut all = reductions(generator, "2", |x, axes, keep| x.norm(2.0, axes, keep), finite(2.0));
        all.extend(reductions(generator, "1", |x, axes, keep| x.norm(1.0, axes, keep), finite(1.0)));
        all.extend(reductions(generator, "3", |x, axes, keep| x.norm(3.0, axes, keep), finite(3.0)));
        all.extend(reductions(generator, "max", |x, axes, keep| x.norm(f32::INFINITY, axes, keep), most));
        all.extend(reductions(generator, "min", |x, axes, keep| x.norm(f32::NEG_INFINITY, axes, keep), least));
        all.retain(|case| case.inputs[0].count() > 0);
        let few = Array::new(&[2, 3], vec![0.0, 2.0, -1.0, 0.0, 0.0, 0.5]);
        let counted = move |x: &[Array]| squeezed(x[0].reduced(&[1], others), &[1], false);
        all.push(Case::new("0", vec![few], |x| x[0].norm(0.0, &[1], false), counted).with_orders(0));
        all
    }),
    ..VAR
};

pub(super) const LOGSUMEXP: Entry = Entry {
    name: "logsumexp",
    tolerance: Tolerance {
        relative: 5e-7,
        absolute: 1e-6,
        why: "a logarithm of a sum of some units, and a sum of it and the largest, which may cancel",
    },
    cases: Cases::Listed(|generator| {
        let reference = |values: &[f64]| {
            let top = largest(values);
            let powers: Vec<f64> = values.iter().map(|x| (x - top).exp()).collect();
            if top.is_infinite() { top } else { top + sum(&powers).ln() }
        };
        let mut all = reductions(generator, "", |x, axes, keep| x.logsumexp(axes, keep), reference);
        all.retain(|case| case.inputs[0].count() > 0);
        let large = Array::new(&[2, 2], vec![1000.0, 999.0, -1e30, -1e30]);
        let expected = move |x: &[Array]| squeezed(x[0].reduced(&[0], reference), &[0], false);
        all.push(Case::new("large", vec![large], |x| x[0].logsumexp(&[0], false), expected).with_orders(0));
        all
    }),
    ..VAR
};

fn reductions(
    generator: &mut Generator,
    what: &str,
    apply: fn(&Tensor, &[isize], bool) -> Result<Tensor>,
    reference: impl Fn(&[f64]) -> f64 + Copy + 'static,
) -> Vec<Case> {
    let shapes: [(&[usize], &[isize], bool); 6] = [
        (&[3, 5], &[1], false),
        (&[2, 3, 4], &[0, 2], true),
        (&[7], &[0], false),
        (&[2, 0], &[1], false),
        (&[2, 1, 3, 1, 2, 2], &[2, -1], false),
        (&[3, 300], &[-1], true),
    ];
    let mut cases = Vec::new();
    for (shape, axes, keepdim) in shapes {
        // Away from zero: norms have kinks there.
        let input = Array::draw(shape, Domain::away(0.2, 3.0), generator);
        let positive: Vec<usize> = axes.iter().map(|axis| axis.rem_euclid(shape.len() as isize) as usize).collect();
        let label = format!("{what} {shape:?} axes {axes:?} keepdim {keepdim}");
        cases.push(Case::new(
            label,
            vec![input],
            move |x| apply(&x[0], axes, keepdim),
            move |x| squeezed(x[0].reduced(&positive, reference), &positive, keepdim),
        ));
    }
    cases
}
