//! Losses, as PyTorch defines them: x is what the model made, t what it should have made.
//!
//! Each is one kernel for the elements, its gradient another, and a reduction. [`Tensor::cross_entropy`] is an op of its
//! own.

use std::sync::{Arc, OnceLock};

use everstep_device::expr::Expr;
use everstep_device::functions;
use everstep_tensor::ops::pointwise::{Formula, Pointwise};
use everstep_tensor::{DType, Error, Result, Tensor, apply};
use serde::{Deserialize, Serialize};

/// What becomes of the elements of a loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Their mean, over all elements.
    #[default]
    Mean,
    /// Their sum.
    Sum,
    /// Nothing: the loss has the shape of x.
    None,
}

impl Reduction {
    /// Reduces a loss that has one number per element.
    ///
    /// # Errors
    /// Those of the reduction.
    ///
    /// ```
    /// # use everstep_nn::loss::Reduction;
    /// # use everstep_tensor::{Device, Tensor};
    /// let losses = Tensor::from_slice(&[1.0f32, 3.0], &[2], &Device::cpu())?;
    /// assert_eq!(Reduction::Mean.apply(&losses)?.item::<f32>()?, 2.0);
    /// assert_eq!(Reduction::Sum.apply(&losses)?.item::<f32>()?, 4.0);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn apply(self, loss: &Tensor) -> Result<Tensor> {
        match self {
            Self::Mean => loss.mean_all(),
            Self::Sum => loss.sum_all(),
            Self::None => Ok(loss.clone()),
        }
    }
}

/// A loss's formula, compiled once per process.
struct Loss {
    name: &'static str,
    // Over x, t and what else there is; numbers are scalars 0, 1, ..
    formula: fn(&[Expr]) -> Expr,
    inputs: usize,
    compiled: OnceLock<Arc<Formula>>,
}

impl Loss {
    const fn new(name: &'static str, inputs: usize, formula: fn(&[Expr]) -> Expr) -> Self {
        Self { name, formula, inputs, compiled: OnceLock::new() }
    }

    /// The loss of `inputs`, of which the first two must have one shape.
    fn of(&'static self, inputs: &[&Tensor], scalars: Vec<f32>, reduction: Reduction) -> Result<Tensor> {
        let (left, right) = (*inputs[0].shape(), *inputs[1].shape());
        if left != right {
            // Broadcasting a target is nearly always a mistake: [B, 1] with [B] would be all pairs.
            return Err(Error::Shapes { op: self.name, left, right, rule: "input and target have the same shape" });
        }
        let formula = self.compiled.get_or_init(|| {
            let arguments: Vec<Expr> = (0..self.inputs).map(|index| Expr::input(index, DType::F32)).collect();
            Formula::new(self.name, &vec![DType::F32; self.inputs], (self.formula)(&arguments))
        });
        reduction.apply(&apply(Pointwise { formula: formula.clone(), scalars }, inputs)?)
    }
}

/// Refuses a setting that is not a positive number.
fn positive(op: &'static str, name: &'static str, value: f32) -> Result<()> {
    let valid = value > 0.0 && value.is_finite();
    if valid { Ok(()) } else { Err(Error::Argument { op, name, value: value.into(), range: "finite and more than 0" }) }
}

fn number(value: f32) -> Expr {
    Expr::constant(value)
}

/// |e|, whose gradient at 0 is 0.
fn magnitude(e: &Expr) -> Expr {
    Expr::call(&functions::MAXIMUM, &[e.clone(), -e.clone()])
}

static MSE: Loss = Loss::new("mse", 2, |x| {
    let e = x[0].clone() - x[1].clone();
    e.clone() * e
});

static L1: Loss = Loss::new("l1", 2, |x| magnitude(&(x[0].clone() - x[1].clone())));

/// m (|e| - m / 2) scale, with m the smaller of |e| and the scalar: a parabola, then a line.
static HUBER: Loss = Loss::new("huber", 2, |x| {
    let e = magnitude(&(x[0].clone() - x[1].clone()));
    let least = Expr::call(&functions::MINIMUM, &[e.clone(), Expr::scalar(0)]);
    least.clone() * (e - number(0.5) * least) * Expr::scalar(1)
});

static BCE: Loss = Loss::new("bce_with_logits", 2, |x| binary(&x[0], &x[1], None));

static BCE_WEIGHTED: Loss = Loss::new("bce_with_logits", 3, |x| binary(&x[0], &x[1], Some(&x[2])));

/// (1 - t) x + weight ln(1 + e^-x), with a weight of 1 + (pos_weight - 1) t.
fn binary(x: &Expr, t: &Expr, positive: Option<&Expr>) -> Expr {
    let soft = Expr::call(&functions::SOFTPLUS, &[-x.clone()]);
    let soft = match positive {
        Some(positive) => (number(1.0) + (positive.clone() - number(1.0)) * t.clone()) * soft,
        None => soft,
    };
    (number(1.0) - t.clone()) * x.clone() + soft
}

static KL: Loss = Loss::new("kl_div", 2, |x| {
    // Where t is 0 so is t ln t: the logarithm must only be finite.
    let least = Expr::call(&functions::MAXIMUM, &[x[1].clone(), number(f32::MIN_POSITIVE)]);
    x[1].clone() * (Expr::call(&functions::LOG, &[least]) - x[0].clone())
});

/// Mean squared error: (x - t)^2.
///
/// ```
/// # use everstep_nn::loss::{Reduction, mse};
/// # use everstep_tensor::{Device, Tensor};
/// let x = Tensor::from_slice(&[1.0f32, 2.0], &[2], &Device::cpu())?;
/// let t = Tensor::from_slice(&[0.0f32, 4.0], &[2], &Device::cpu())?;
/// assert_eq!(mse(&x, &t, Reduction::Mean)?.item::<f32>()?, 2.5);
/// assert_eq!(mse(&x, &t, Reduction::None)?.to_vec::<f32>()?, [1.0, 4.0]);
/// # Ok::<(), everstep_tensor::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shapes`] where x and t have not the same shape; [`Error::DTypes`].
pub fn mse(x: &Tensor, t: &Tensor, reduction: Reduction) -> Result<Tensor> {
    MSE.of(&[x, t], vec![], reduction)
}

/// Mean absolute error: |x - t|, whose gradient at 0 is 0.
///
/// ```
/// # use everstep_nn::loss::{Reduction, l1};
/// # use everstep_tensor::{Device, Tensor};
/// let x = Tensor::from_slice(&[1.0f32, 2.0], &[2], &Device::cpu())?;
/// let t = Tensor::from_slice(&[0.0f32, 4.0], &[2], &Device::cpu())?;
/// assert_eq!(l1(&x, &t, Reduction::Sum)?.item::<f32>()?, 3.0);
/// # Ok::<(), everstep_tensor::Error>(())
/// ```
///
/// # Errors
/// As [`mse`].
pub fn l1(x: &Tensor, t: &Tensor, reduction: Reduction) -> Result<Tensor> {
    L1.of(&[x, t], vec![], reduction)
}

/// Huber's loss (1964) with e = x - t: e^2 / 2 where |e| < delta, else delta (|e| - delta / 2).
///
/// ```
/// # use everstep_nn::loss::{Reduction, huber};
/// # use everstep_tensor::{Device, Tensor};
/// let x = Tensor::from_slice(&[1.0f32, 4.0], &[2], &Device::cpu())?;
/// let loss = huber(&x, &Tensor::zeros(&[2], &Device::cpu())?, 2.0, Reduction::None)?;
/// assert_eq!(loss.to_vec::<f32>()?, [0.5, 6.0]);
/// # Ok::<(), everstep_tensor::Error>(())
/// ```
///
/// # Errors
/// As [`mse`]; [`Error::Argument`] where delta is not positive.
pub fn huber(x: &Tensor, t: &Tensor, delta: f32, reduction: Reduction) -> Result<Tensor> {
    positive("huber", "delta", delta)?;
    HUBER.of(&[x, t], vec![delta, 1.0], reduction)
}

/// Huber's loss over beta (Girshick, 2015) with e = x - t: e^2 / (2 beta) where |e| < beta, else |e| - beta / 2; with a
/// beta of 0 it is [`l1`].
///
/// ```
/// # use everstep_nn::loss::{Reduction, smooth_l1};
/// # use everstep_tensor::{Device, Tensor};
/// let x = Tensor::from_slice(&[1.0f32, 4.0], &[2], &Device::cpu())?;
/// let loss = smooth_l1(&x, &Tensor::zeros(&[2], &Device::cpu())?, 2.0, Reduction::None)?;
/// assert_eq!(loss.to_vec::<f32>()?, [0.25, 3.0]);
/// # Ok::<(), everstep_tensor::Error>(())
/// ```
///
/// # Errors
/// As [`mse`]; [`Error::Argument`] where beta is negative.
pub fn smooth_l1(x: &Tensor, t: &Tensor, beta: f32, reduction: Reduction) -> Result<Tensor> {
    if beta == 0.0 {
        return l1(x, t, reduction);
    }
    positive("smooth_l1", "beta", beta)?;
    HUBER.of(&[x, t], vec![beta, 1.0 / beta], reduction)
}

/// Binary cross-entropy of logits: -(p t ln s(x) + (1 - t) ln(1 - s(x))), with the sigmoid s and the weight p of what is
/// positive, 1 without one. It is computed as (1 - t) x + (1 + (p - 1) t) ln(1 + e^-x), which overflows nowhere.
///
/// `pos_weight` is broadcast to the shape of x, `[C]` to `[B, C]`.
///
/// ```
/// # use everstep_nn::loss::{Reduction, bce_with_logits};
/// # use everstep_tensor::{Device, Tensor};
/// let x = Tensor::from_slice(&[0.0f32, 100.0], &[2], &Device::cpu())?;
/// let t = Tensor::from_slice(&[1.0f32, 0.0], &[2], &Device::cpu())?;
/// let loss = bce_with_logits(&x, &t, None, Reduction::None)?.to_vec::<f32>()?;
/// assert!((loss[0] - 2f32.ln()).abs() < 1e-6 && loss[1] == 100.0);
/// # Ok::<(), everstep_tensor::Error>(())
/// ```
///
/// # Errors
/// As [`mse`]; [`Error::Shapes`] where `pos_weight` cannot be broadcast to the shape of x.
pub fn bce_with_logits(x: &Tensor, t: &Tensor, pos_weight: Option<&Tensor>, reduction: Reduction) -> Result<Tensor> {
    match pos_weight {
        None => BCE.of(&[x, t], vec![], reduction),
        // A weight with more dimensions than x would broadcast x.
        Some(weight) => BCE_WEIGHTED.of(&[x, t, &weight.broadcast_to(x.shape())?], vec![], reduction),
    }
}

/// Negative log-likelihood: minus the element of log-probabilities `[.., C]` that labels `[..]` (u32) name.
///
/// ```
/// # use everstep_nn::loss::{Reduction, nll};
/// # use everstep_tensor::{Device, Tensor};
/// let x = Tensor::from_slice(&[-0.5f32, -1.0, -2.0, -0.25], &[2, 2], &Device::cpu())?;
/// let labels = Tensor::from_slice(&[1u32, 0], &[2], &Device::cpu())?;
/// assert_eq!(nll(&x, &labels, Reduction::Mean)?.item::<f32>()?, 1.5);
/// # Ok::<(), everstep_tensor::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shapes`] where the labels have not the shape of x without its last dimension; [`Error::DTypes`]. A label out
/// of range is reported late, as for [`Tensor::cross_entropy`].
pub fn nll(x: &Tensor, labels: &Tensor, reduction: Reduction) -> Result<Tensor> {
    let rule = "labels have the shape of the log-probabilities without the last dimension";
    let wrong = Error::Shapes { op: "nll", left: *x.shape(), right: *labels.shape(), rule };
    if x.rank() == 0 || x.shape()[..x.rank() - 1] != labels.shape()[..] {
        return Err(wrong);
    }
    reduction.apply(&x.gather(-1, &labels.unsqueeze(-1)?)?.squeeze(-1)?.neg()?)
}

/// Kullback-Leibler divergence of log-probabilities x from probabilities t: t (ln t - x), 0 where t is 0.
///
/// [`Reduction::Mean`] divides by all elements, as PyTorch's `mean`; its `batchmean`, which is the divergence of the
/// distributions, is [`Reduction::Sum`] over the number of rows.
///
/// ```
/// # use everstep_nn::loss::{Reduction, kl_div};
/// # use everstep_tensor::{Device, Tensor};
/// let t = Tensor::from_slice(&[0.5f32, 0.5, 0.0], &[3], &Device::cpu())?;
/// let x = Tensor::from_slice(&[0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln()], &[3], &Device::cpu())?;
/// let divergence = kl_div(&x, &t, Reduction::Sum)?.item::<f32>()?;
/// assert!((divergence - 0.5 * 2f32.ln()).abs() < 1e-6);
/// # Ok::<(), everstep_tensor::Error>(())
/// ```
///
/// # Errors
/// As [`mse`].
pub fn kl_div(x: &Tensor, t: &Tensor, reduction: Reduction) -> Result<Tensor> {
    KL.of(&[x, t], vec![], reduction)
}
