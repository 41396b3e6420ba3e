//! Stochastic gradient descent.

use std::sync::Arc;

use everstep_device::Kernel;
use everstep_device::cpu::{Sgd as SgdKernel, SgdParams};
use serde::{Deserialize, Serialize};

use crate::error::check;
use crate::{Result, Rule, Span};

/// Stochastic gradient descent with momentum (Polyak, 1964), Nesterov's form of it, and weight decay, as PyTorch has it:
/// g += weight_decay p + l1 sign(p); b = momentum b + (1 - dampening) g, the first time b = g; p -= rate (nesterov: g + momentum b,
/// else b).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sgd {
    /// Step size.
    pub learning_rate: f64,
    /// Share of the last direction that is kept.
    #[serde(default)]
    pub momentum: f64,
    /// Share of the gradient that is left out of the momentum; does nothing without momentum.
    #[serde(default)]
    pub dampening: f64,
    /// Looks ahead along the momentum.
    #[serde(default)]
    pub nesterov: bool,
    /// L2 penalty, added to the gradient.
    #[serde(default)]
    pub weight_decay: f64,
    /// L1 penalty: l1 sign(p) is added to the gradient.
    #[serde(default)]
    pub l1: f64,
}

impl Sgd {
    /// Plain gradient descent.
    pub fn new(learning_rate: f64) -> Self {
        Self { learning_rate, momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0, l1: 0.0 }
    }

    /// With momentum.
    #[must_use]
    pub fn momentum(self, momentum: f64) -> Self {
        Self { momentum, ..self }
    }

    /// With dampened momentum.
    #[must_use]
    pub fn dampening(self, dampening: f64) -> Self {
        Self { dampening, ..self }
    }

    /// With Nesterov's momentum.
    #[must_use]
    pub fn nesterov(self, nesterov: bool) -> Self {
        Self { nesterov, ..self }
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

impl Rule for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn check(&self) -> Result<()> {
        let valid = |value: f64| value >= 0.0 && (value as f32).is_finite();
        check("Sgd", "learning_rate", self.learning_rate, valid(self.learning_rate), "finite and at least 0")?;
        check("Sgd", "weight_decay", self.weight_decay, valid(self.weight_decay), "finite and at least 0")?;
        check("Sgd", "l1", self.l1, valid(self.l1), "finite and at least 0")?;
        check("Sgd", "momentum", self.momentum, valid(self.momentum), "finite and at least 0")?;
        check("Sgd", "dampening", self.dampening, (self.dampening as f32).is_finite(), "finite")?;
        let lookahead = !self.nesterov || (self.momentum > 0.0 && self.dampening == 0.0);
        check("Sgd", "nesterov", 1.0, lookahead, "used with momentum and without dampening")
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn states(&self) -> usize {
        1
    }

    fn row(&self, learning_rate: f64, committed: u64) -> [f32; 4] {
        // Dampening is a part of momentum: without momentum there is nothing to dampen.
        let whole = committed == 0 || self.momentum == 0.0;
        let share = if whole { 1.0 } else { 1.0 - self.dampening };
        [learning_rate as f32, share as f32, 0.0, 0.0]
    }

    fn kernel(&self, span: &Span) -> Arc<dyn Kernel> {
        Arc::new(SgdKernel(SgdParams {
            start: span.start as u32,
            count: span.count as u32,
            group: span.group as u32,
            momentum: self.momentum as f32,
            weight_decay: self.weight_decay as f32,
            nesterov: u32::from(self.nesterov),
            l1: self.l1 as f32,
            clip_value: span.clip_value,
        }))
    }
}
