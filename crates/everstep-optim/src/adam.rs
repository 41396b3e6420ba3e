//! Adam and AdamW.

use std::sync::Arc;

use everstep_device::Kernel;
use everstep_device::cpu::{Adam as AdamKernel, AdamParams};
use serde::{Deserialize, Serialize};

use crate::error::check;
use crate::{Result, Rule, Span};

/// Adam (Kingma and Ba, 2015): p -= rate m' / (sqrt(v') + epsilon) with the bias-corrected running means m' of the
/// gradient and v' of its square. Weight decay is an L2 penalty, added to the gradient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adam {
    /// Step size.
    pub learning_rate: f64,
    /// How slowly the running means of the gradient and of its square forget.
    #[serde(default = "default_betas")]
    pub betas: (f64, f64),
    /// Keeps the division finite.
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
    /// L2 penalty.
    #[serde(default)]
    pub weight_decay: f64,
    /// L1 penalty: l1 sign(p) is added to the gradient.
    #[serde(default)]
    pub l1: f64,
}

/// AdamW (Loshchilov and Hutter, 2019): Adam whose weight decay, rate * weight_decay * p, is apart from the gradient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamW {
    /// Step size.
    pub learning_rate: f64,
    /// How slowly the running means of the gradient and of its square forget.
    #[serde(default = "default_betas")]
    pub betas: (f64, f64),
    /// Keeps the division finite.
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
    /// Share of each parameter, times the learning rate, that a step takes away.
    #[serde(default = "default_decay")]
    pub weight_decay: f64,
    /// L1 penalty: l1 sign(p) is added to the gradient.
    #[serde(default)]
    pub l1: f64,
}

fn default_betas() -> (f64, f64) {
    (0.9, 0.999)
}

fn default_epsilon() -> f64 {
    1e-8
}

fn default_decay() -> f64 {
    0.01
}

/// The settings both share, and what differs.
struct Settings {
    name: &'static str,
    learning_rate: f64,
    betas: (f64, f64),
    epsilon: f64,
    weight_decay: f64,
    l1: f64,
    decoupled: bool,
}

impl Settings {
    fn check(&self) -> Result<()> {
        let valid = |value: f64| value >= 0.0 && (value as f32).is_finite();
        let rule = "finite and at least 0";
        check(self.name, "learning_rate", self.learning_rate, valid(self.learning_rate), rule)?;
        check(self.name, "weight_decay", self.weight_decay, valid(self.weight_decay), rule)?;
        check(self.name, "l1", self.l1, valid(self.l1), rule)?;
        // An element that never had a gradient divides by it alone.
        let divides = self.epsilon as f32 > 0.0 && (self.epsilon as f32).is_finite();
        check(self.name, "epsilon", self.epsilon, divides, "finite and more than 0 in f32")?;
        for beta in [self.betas.0, self.betas.1] {
            check(self.name, "betas", beta, (0.0..1.0).contains(&beta), "at least 0 and less than 1")?;
        }
        Ok(())
    }

    fn row(&self, learning_rate: f64, committed: u64) -> [f32; 4] {
        let step = committed as f64 + 1.0;
        let first = learning_rate / (1.0 - self.betas.0.powf(step));
        let second = 1.0 / (1.0 - self.betas.1.powf(step)).sqrt();
        [learning_rate as f32, first as f32, second as f32, 0.0]
    }

    fn kernel(&self, span: &Span) -> Arc<dyn Kernel> {
        Arc::new(AdamKernel(AdamParams {
            start: span.start as u32,
            count: span.count as u32,
            group: span.group as u32,
            decoupled: u32::from(self.decoupled),
            beta1: self.betas.0 as f32,
            beta2: self.betas.1 as f32,
            rest1: (1.0 - self.betas.0) as f32,
            rest2: (1.0 - self.betas.1) as f32,
            epsilon: self.epsilon as f32,
            weight_decay: self.weight_decay as f32,
            l1: self.l1 as f32,
            clip_value: span.clip_value,
        }))
    }
}

/// Builders and the rule, the same for both but for the defaults.
macro_rules! adam {
    ($type:ident, $name:literal, $decay:expr, $decoupled:literal) => {
        impl $type {
            /// With the defaults of the paper and of PyTorch.
            pub fn new(learning_rate: f64) -> Self {
                Self {
                    learning_rate,
                    betas: default_betas(),
                    epsilon: default_epsilon(),
                    weight_decay: $decay,
                    l1: 0.0,
                }
            }

            /// How slowly the running means forget.
            #[must_use]
            pub fn betas(self, first: f64, second: f64) -> Self {
                Self { betas: (first, second), ..self }
            }

            /// Keeps the division finite.
            #[must_use]
            pub fn epsilon(self, epsilon: f64) -> Self {
                Self { epsilon, ..self }
            }

            /// With weight decay.
            #[must_use]
            pub fn weight_decay(self, weight_decay: f64) -> Self {
                Self { weight_decay, ..self }
            }

            /// With an L1 penalty, which draws parameters to zero.
            #[must_use]
            pub fn l1(self, l1: f64) -> Self {
                Self { l1, ..self }
            }

            fn settings(&self) -> Settings {
                let Self { learning_rate, betas, epsilon, weight_decay, l1 } = *self;
                Settings {
                    name: stringify!($type),
                    learning_rate,
                    betas,
                    epsilon,
                    weight_decay,
                    l1,
                    decoupled: $decoupled,
                }
            }
        }

        impl Rule for $type {
            fn name(&self) -> &'static str {
                $name
            }

            fn check(&self) -> Result<()> {
                self.settings().check()
            }

            fn learning_rate(&self) -> f64 {
                self.learning_rate
            }

            fn states(&self) -> usize {
                2
            }

            fn row(&self, learning_rate: f64, committed: u64) -> [f32; 4] {
                self.settings().row(learning_rate, committed)
            }

            fn kernel(&self, span: &Span) -> Arc<dyn Kernel> {
                self.settings().kernel(span)
            }
        }
    };
}

adam!(Adam, "adam", 0.0, false);
adam!(AdamW, "adamw", default_decay(), true);
