//! A learning rate that falls when a metric no longer improves.

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::check;

/// Which way a metric improves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// A loss.
    #[default]
    Lower,
    /// An accuracy.
    Higher,
}

/// How the least improvement is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Threshold {
    /// As a share of the best value.
    #[default]
    Relative,
    /// In the metric's own units.
    Absolute,
}

/// Multiplies the learning rate by `factor` when a metric has not improved for more than `patience` values (PyTorch's
/// `ReduceLROnPlateau` with an `eps` of 0 and a `min_lr` of `min_factor` times the rate).
///
/// The host learns late what a step did, so a reduction takes effect at a fixed later step: `delay` committed steps after
/// the one that the metric is about. With a `delay` of at least `in_flight` it then depends on no timing. A value that is
/// NaN is no improvement. See [`crate::Optimizer::reduce_on_plateau`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReduceOnPlateau {
    /// Which way the metric improves.
    pub better: Better,
    /// What the rate is multiplied by.
    pub factor: f64,
    /// How many values without improvement are borne.
    pub patience: u64,
    /// The least improvement.
    pub threshold: f64,
    /// How it is measured.
    pub threshold_mode: Threshold,
    /// Values after a reduction that are not counted.
    pub cooldown: u64,
    /// The rate never falls below this times the rule's own.
    pub min_factor: f64,
    /// Committed steps from the one that the metric is about to the one with the new rate.
    pub delay: u64,
}

impl Default for ReduceOnPlateau {
    fn default() -> Self {
        Self {
            better: Better::Lower,
            factor: 0.1,
            patience: 10,
            threshold: 1e-4,
            threshold_mode: Threshold::Relative,
            cooldown: 0,
            min_factor: 0.0,
            delay: 16,
        }
    }
}

impl ReduceOnPlateau {
    /// PyTorch's defaults, and a delay of 16: the most steps that can be in flight.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the rate is multiplied by.
    #[must_use]
    pub fn factor(self, factor: f64) -> Self {
        Self { factor, ..self }
    }

    /// How many values without improvement are borne.
    #[must_use]
    pub fn patience(self, patience: u64) -> Self {
        Self { patience, ..self }
    }

    /// How long, in committed steps, until a reduction takes effect.
    #[must_use]
    pub fn delay(self, delay: u64) -> Self {
        Self { delay, ..self }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`crate::Error::Setting`].
    pub fn check(&self) -> Result<()> {
        let name = "ReduceOnPlateau";
        check(name, "factor", self.factor, (0.0..1.0).contains(&self.factor), "at least 0 and less than 1")?;
        check(name, "threshold", self.threshold, self.threshold.is_finite(), "finite")?;
        let least = self.min_factor.is_finite() && self.min_factor >= 0.0;
        check(name, "min_factor", self.min_factor, least, "finite and at least 0")
    }

    /// The controller, which has seen nothing yet.
    ///
    /// # Errors
    /// [`crate::Error::Setting`].
    pub fn start(self) -> Result<Plateau> {
        self.check()?;
        Ok(Plateau { config: self, best: None, bad: 0, cooldown: 0, scale: 1.0 })
    }
}

/// Watches a metric: pure, a function of the values it was fed.
///
/// ```
/// use everstep_optim::ReduceOnPlateau;
///
/// let mut plateau = ReduceOnPlateau::new().factor(0.5).patience(1).start()?;
/// let scales: Vec<f64> = [1.0, 0.8, 0.8, 0.8, 0.7].into_iter().map(|loss| plateau.observe(loss)).collect();
/// assert_eq!(scales, [1.0, 1.0, 1.0, 0.5, 0.5]);
/// # Ok::<(), everstep_optim::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plateau {
    config: ReduceOnPlateau,
    best: Option<f64>,
    bad: u64,
    cooldown: u64,
    scale: f64,
}

impl Plateau {
    /// The settings.
    pub fn config(&self) -> &ReduceOnPlateau {
        &self.config
    }

    /// The factor on the rate so far.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Takes in a value; the factor on the rate from then on.
    pub fn observe(&mut self, metric: f64) -> f64 {
        let config = &self.config;
        if self.is_better(metric) {
            (self.best, self.bad) = (Some(metric), 0);
        } else {
            self.bad += 1;
        }
        if self.cooldown > 0 {
            (self.cooldown, self.bad) = (self.cooldown - 1, 0);
        }
        if self.bad > config.patience {
            // A rate that is below the least already stays where it is.
            self.scale = self.scale.min((self.scale * config.factor).max(config.min_factor));
            (self.cooldown, self.bad) = (config.cooldown, 0);
        }
        self.scale
    }

    fn is_better(&self, metric: f64) -> bool {
        let Self { config: ReduceOnPlateau { better, threshold, threshold_mode, .. }, best, .. } = self;
        let Some(best) = *best else { return metric.is_finite() };
        let margin = match threshold_mode {
            Threshold::Relative => best * threshold,
            Threshold::Absolute => *threshold,
        };
        match better {
            Better::Lower => metric < best - margin,
            Better::Higher => metric > best + margin,
        }
    }
}
