//! Mixed precision of a whole training run: one line when the optimizer is built.

use everstep_tensor::{LossScale, Precision, autocast};

use crate::{Optimizer, Result};

/// Products on halves, parameters and their updates in f32 (Micikevicius et al., 2018). For [`Optimizer::mixed_precision`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MixedPrecision {
    precision: Precision,
    loss_scale: Option<LossScale>,
}

impl MixedPrecision {
    /// Products on f16, and a loss scale that keeps their gradients within its range: PyTorch's `GradScaler`.
    pub fn f16() -> Self {
        Self { precision: Precision::F16, loss_scale: Some(LossScale::default()) }
    }

    /// Products on bf16, which has the range of f32: no loss scale.
    pub fn bf16() -> Self {
        Self { precision: Precision::BF16, loss_scale: None }
    }

    /// With another loss scale, or `None` without one.
    #[must_use]
    pub fn loss_scale(self, loss_scale: Option<LossScale>) -> Self {
        Self { loss_scale, ..self }
    }
}

impl Optimizer {
    /// Lets forward passes in [`Optimizer::autocast`], which a guard's steps are in, compute their products on halves, and
    /// [`Optimizer::backward`] scale the loss. Parameters stay in f32, and so do their gradients, the optimizer's state and
    /// the update. An overflow of the gradients refuses its step alone and lowers the scale; a NaN in the loss is a fault as
    /// ever.
    ///
    /// ```
    /// # use everstep_nn::{Linear, Module};
    /// # use everstep_optim::{AdamW, MixedPrecision, Rule};
    /// # use everstep_tensor::{Device, Generator, Tensor};
    /// # let device = Device::cpu();
    /// let model = Linear::new(4, 1, &mut Generator::new(0), &device)?;
    /// let mut optimizer = AdamW::new(0.05).build(&model)?.mixed_precision(MixedPrecision::f16())?;
    /// let x = Tensor::rand(&[32, 4], -1.0, 1.0, &mut Generator::new(1), &device)?;
    /// let y = x.sum(&[1], true)?;
    /// for _ in 0..200 {
    ///     let loss = optimizer.autocast(|| {
    ///         let error = model.forward(&x)?.sub(&y)?;
    ///         error.mul(&error)?.mean_all()
    ///     })?;
    ///     optimizer.backward(&loss)?;
    ///     optimizer.step(&loss)?;
    /// }
    /// assert!(model.weight.tensor().to_vec::<f32>()?.iter().all(|weight| (weight - 1.0).abs() < 0.02));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`everstep_tensor::Error::Argument`] where the loss scale is out of range.
    pub fn mixed_precision(mut self, mixed: MixedPrecision) -> Result<Self> {
        self.precision = mixed.precision;
        let options = everstep_tensor::StepOptions { loss_scale: mixed.loss_scale, ..self.options() };
        self.with_options(options)
    }

    /// What the products of forward passes are computed from.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Runs a forward pass in the precision of [`Optimizer::mixed_precision`]: [`everstep_tensor::autocast()`].
    pub fn autocast<T>(&self, forward: impl FnOnce() -> T) -> T {
        autocast(self.precision, forward)
    }
}
