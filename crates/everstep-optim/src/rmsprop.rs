//! RMSprop.

use std::sync::Arc;

use everstep_device::Kernel;
use everstep_device::cpu::{Rmsprop as RmspropKernel, RmspropParams};
use serde::{Deserialize, Serialize};

use crate::error::check;
use crate::{Result, Rule, Span};

/// RMSprop (Hinton, 2012), as PyTorch has it: g += weight_decay p + l1 sign(p); s = alpha s + (1 - alpha) g^2;
/// d = g / (sqrt(s) + epsilon); p -= rate d.
///
/// Where `centered`, the variance s - a^2 takes the place of s, with the running mean a of the gradient (Graves, 2013).
/// With momentum b = momentum b + d takes the place of d. It keeps three states, used or not.
///
/// ```
/// # use everstep_nn::{Linear, Module};
/// # use everstep_optim::{Rmsprop, Rule};
/// # use everstep_tensor::{Device, Generator, Tensor};
/// # let device = Device::cpu();
/// let model = Linear::new(1, 1, &mut Generator::new(0), &device)?;
/// let mut optimizer = Rmsprop::new(0.05).momentum(0.5).build(&model)?;
/// let x = Tensor::from_slice(&[0.0f32, 1.0, 2.0, 3.0], &[4, 1], &device)?;
/// let y = Tensor::from_slice(&[1.0f32, 3.0, 5.0, 7.0], &[4, 1], &device)?;
/// for step in 0..300 {
///     let error = model.forward(&x)?.sub(&y)?;
///     let loss = error.mul(&error)?.mean_all()?;
///     loss.backward()?;
///     optimizer.step(&loss)?;
/// }
/// assert!((model.weight.tensor().item::<f32>()? - 2.0).abs() < 0.2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rmsprop {
    /// Step size.
    pub learning_rate: f64,
    /// How slowly the running means forget.
    #[serde(default = "default_alpha")]
    pub alpha: f64,
    /// Keeps the division finite.
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
    /// Share of the last direction that is kept.
    #[serde(default)]
    pub momentum: f64,
    /// Divides by the standard deviation of the gradient in place of its size.
    #[serde(default)]
    pub centered: bool,
    /// L2 penalty, added to the gradient.
    #[serde(default)]
    pub weight_decay: f64,
    /// L1 penalty: l1 sign(p) is added to the gradient.
    #[serde(default)]
    pub l1: f64,
}

fn default_alpha() -> f64 {
    0.99
}

fn default_epsilon() -> f64 {
    1e-8
}

impl Rmsprop {
    /// With PyTorch's defaults.
    pub fn new(learning_rate: f64) -> Self {
        let (alpha, epsilon) = (default_alpha(), default_epsilon());
        Self { learning_rate, alpha, epsilon, momentum: 0.0, centered: false, weight_decay: 0.0, l1: 0.0 }
    }

    /// How slowly the running means forget.
    #[must_use]
    pub fn alpha(self, alpha: f64) -> Self {
        Self { alpha, ..self }
    }

    /// Keeps the division finite.
    #[must_use]
    pub fn epsilon(self, epsilon: f64) -> Self {
        Self { epsilon, ..self }
    }

    /// With momentum.
    #[must_use]
    pub fn momentum(self, momentum: f64) -> Self {
        Self { momentum, ..self }
    }

    /// With the standard deviation of the gradient in place of its size.
    #[must_use]
    pub fn centered(self, centered: bool) -> Self {
        Self { centered, ..self }
    }

    /// With an L2 penalty.
    #[must_use]
    pub fn weight_decay(self, weight_decay: f64) -> Self {
        Self { weight_decay, ..self }
    }

    /// With an L1 penalty, which draws parameters to zero.
    #[must_use]
    pub fn l1(self, l1: f64) -> Self {
        Self { l1, ..self }
    }
}

impl Rule for Rmsprop {
    fn name(&self) -> &'static str {
        "rmsprop"
    }

    fn check(&self) -> Result<()> {
        let valid = |value: f64| value >= 0.0 && (value as f32).is_finite();
        let penalties = [("weight_decay", self.weight_decay), ("l1", self.l1)];
        for (field, value) in
            [("learning_rate", self.learning_rate), ("momentum", self.momentum)].iter().chain(&penalties)
        {
            check("Rmsprop", field, *value, valid(*value), "finite and at least 0")?;
        }
        // An element that never had a gradient divides by it alone.
        let divides = self.epsilon as f32 > 0.0 && (self.epsilon as f32).is_finite();
        check("Rmsprop", "epsilon", self.epsilon, divides, "finite and more than 0 in f32")?;
        check("Rmsprop", "alpha", self.alpha, (0.0..=1.0).contains(&self.alpha), "in 0 to 1")
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn states(&self) -> usize {
        3
    }

    fn row(&self, learning_rate: f64, _: u64) -> [f32; 4] {
        [learning_rate as f32, 0.0, 0.0, 0.0]
    }

    fn kernel(&self, span: &Span) -> Arc<dyn Kernel> {
        Arc::new(RmspropKernel(RmspropParams {
            start: span.start as u32,
            count: span.count as u32,
            group: span.group as u32,
            centered: u32::from(self.centered),
            alpha: self.alpha as f32,
            rest: (1.0 - self.alpha) as f32,
            epsilon: self.epsilon as f32,
            momentum: self.momentum as f32,
            weight_decay: self.weight_decay as f32,
            l1: self.l1 as f32,
            clip_value: span.clip_value,
        }))
    }
}
