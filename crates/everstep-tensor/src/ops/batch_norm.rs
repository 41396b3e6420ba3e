//! Batch norm. A derived op: the gradient through the batch's own statistics is that of the ops it is made of.

use everstep_device::Generator;

use super::reference::{Array, Domain, sum};
use super::table::{Case, Cases, Entry, FLOAT, Gradient, Tolerance};
use crate::{Error, Result, Tensor};

const RULE: &str = "x is [B, C, ..], and what belongs to its channels is [C]";

impl Tensor {
    /// Mean and variance (biased) of each channel of x `[B, C, ..]`, over all else: `[C]` each. In two passes, so a large mean
    /// does not swallow the variance. NaN of no elements.
    ///
    /// # Errors
    /// [`Error::Shape`] where x has fewer than two dimensions; [`Error::DTypes`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 10.0, 3.0, 30.0], &[2, 2], &Device::cpu())?;
    /// let (mean, variance) = x.batch_statistics()?;
    /// assert_eq!(mean.to_vec::<f32>()?, [2.0, 20.0]);
    /// assert_eq!(variance.to_vec::<f32>()?, [1.0, 100.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn batch_statistics(&self) -> Result<(Tensor, Tensor)> {
        if self.rank() < 2 {
            return Err(Error::Shape { op: "batch_statistics", shape: *self.shape(), rule: RULE });
        }
        let axes: Vec<isize> = (0..self.rank() as isize).filter(|&axis| axis != 1).collect();
        let mean = self.mean(&axes, true)?;
        let difference = self.sub(&mean)?;
        let variance = difference.mul(&difference)?.mean(&axes, false)?;
        Ok((mean.reshape(&[self.shape()[1]])?, variance))
    }

    /// (x - mean) / sqrt(variance + epsilon) * weight + bias of x `[B, C, ..]`, each of them `[C]` (Ioffe and Szegedy, 2015):
    /// with the batch's own statistics ([`Tensor::batch_statistics`], through which the gradient flows too) while training,
    /// with running ones in evaluation.
    ///
    /// # Errors
    /// [`Error::Shapes`] where x is no batch of channels or an operand is not `[C]`; [`Error::Argument`] where epsilon is not
    /// positive; [`Error::DTypes`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 10.0, 3.0, 30.0], &[2, 2], &Device::cpu())?;
    /// let (mean, variance) = x.batch_statistics()?;
    /// let y = x.batch_norm(&mean, &variance, None, None, 1e-5)?.to_vec::<f32>()?;
    /// assert!(y.iter().zip([-1.0, -1.0, 1.0, 1.0]).all(|(y, exact)| (y - exact).abs() < 1e-4));
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn batch_norm(
        &self,
        mean: &Tensor,
        variance: &Tensor,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        epsilon: f32,
    ) -> Result<Tensor> {
        let op = "batch_norm";
        let operands = [Some(mean), Some(variance), weight, bias];
        let fits = |part: &&Tensor| self.rank() >= 2 && **part.shape() == self.shape()[1..2];
        if let Some(part) = operands.into_iter().flatten().find(|part| !fits(part)) {
            return Err(Error::Shapes { op, left: *self.shape(), right: *part.shape(), rule: RULE });
        }
        if epsilon <= 0.0 || !epsilon.is_finite() {
            return Err(Error::Argument { op, name: "epsilon", value: f64::from(epsilon), range: "more than 0" });
        }
        let per_channel = [&self.shape()[1..2], &vec![1; self.rank() - 2]].concat();
        // Everything of the size of a channel first, then two ops over x.
        let mut scale = variance.add_scalar(epsilon)?.rsqrt()?;
        if let Some(weight) = weight {
            scale = scale.mul(weight)?;
        }
        let y = self.sub(&mean.reshape(&per_channel)?)?.mul(&scale.reshape(&per_channel)?)?;
        match bias {
            Some(bias) => y.add(&bias.reshape(&per_channel)?),
            None => Ok(y),
        }
    }
}

pub(super) const BATCH_NORM: Entry = Entry {
    name: "batch_norm",
    dtypes: FLOAT,
    gradient: Gradient::Any,
    tolerance: Tolerance {
        relative: 5e-6,
        absolute: 5e-6,
        why: "results of about 1 from sums of up to some hundreds of terms, each rounded, over a root",
    },
    cases: Cases::Listed(cases),
};

const EPSILON: f32 = 1e-2;

/// With the batch's statistics, then with given ones; the gradient flows to all operands.
fn cases(generator: &mut Generator) -> Vec<Case> {
    let shapes: [(&[usize], bool); 7] = [
        (&[4, 3], true),
        (&[3, 2, 5], true),
        (&[2, 3, 2, 3], true),
        (&[5, 1, 1, 1], false),
        (&[1, 2, 3], false),
        (&[3, 0, 2], true),
        (&[7, 5, 9, 11], true),
    ];
    let mut list = Vec::new();
    for (shape, affine) in shapes {
        let mut draw = |shape: &[usize], low, high| Array::draw(shape, Domain::between(low, high), generator);
        let channels = &shape[1..2];
        let x = draw(shape, -3.0, 3.0);
        let affine: Vec<Array> = (0..if affine { 2 } else { 0 }).map(|_| draw(channels, 0.5, 2.0)).collect();
        let given = vec![draw(channels, -1.0, 1.0), draw(channels, 0.5, 2.0)];
        let own = |x: &[Tensor]| {
            let (mean, variance) = x[0].batch_statistics()?;
            x[0].batch_norm(&mean, &variance, x.get(1), x.get(2), EPSILON)
        };
        let inputs = [vec![x.clone()], affine.clone()].concat();
        list.push(Case::new(format!("{shape:?} by its own statistics"), inputs, own, |x| {
            let (mean, variance) = statistics(&x[0]);
            reference(&x[0], &mean, &variance, &x[1..])
        }));
        let other = |x: &[Tensor]| x[0].batch_norm(&x[1], &x[2], x.get(3), x.get(4), EPSILON);
        list.push(Case::new(format!("{shape:?} by others"), [vec![x], given, affine].concat(), other, |x| {
            reference(&x[0], &x[1], &x[2], &x[3..])
        }));
    }
    list
}

/// Mean and variance per channel, by the formula.
fn statistics(x: &Array) -> (Array, Array) {
    let axes: Vec<usize> = (0..x.shape.len()).filter(|&axis| axis != 1).collect();
    let average = |values: &[f64]| sum(values) / values.len() as f64;
    let mean = x.reduced(&axes, average);
    let difference = Array::zip(&[x, &mean], |x| x[0] - x[1]);
    let variance = difference.map(|value| value * value).reduced(&axes, average);
    let channels = &x.shape[1..2];
    (mean.reshaped(channels), variance.reshaped(channels))
}

fn reference(x: &Array, mean: &Array, variance: &Array, affine: &[Array]) -> Array {
    let per_channel: Vec<usize> = (1..x.shape.len()).map(|axis| if axis == 1 { x.shape[1] } else { 1 }).collect();
    let [mean, variance] = [mean, variance].map(|part| part.reshaped(&per_channel));
    let normal = Array::zip(&[x, &mean, &variance], |x| (x[0] - x[1]) / (x[2] + f64::from(EPSILON)).sqrt());
    let affine: Vec<Array> = affine.iter().map(|part| part.reshaped(&per_channel)).collect();
    match &affine[..] {
        [weight, bias] => Array::zip(&[&normal, weight, bias], |x| x[0] * x[1] + x[2]),
        _ => normal,
    }
}
