//! Faults that no single step shows: a run that rises, stays where a shock threw it, or no longer learns.

use std::fmt;

use everstep_device::control::log_norm;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What counts as a slow fault, in the series of committed losses and gradient norms. A field that is absent in serialised
/// form takes the default's value.
///
/// All of it is measured against the run's own beginning, since ratios of losses say nothing: a model that has learned its
/// data has a loss near 0, which may jump a thousandfold and mean nothing. With `first` the mean and `level` the mean
/// magnitude of the first `warm_up` losses, and `best` the lowest mean over a window so far,
///
/// ```text
/// gain = max(first - best, level / 4)              what has been learned, or could be lost at least
/// rise = mean - best                               what of it is lost
/// far above: rise > share * gain + spread / 2      where the spread is the mean distance from the mean
/// ```
///
/// must hold over a whole further window, of the mean over the window and of that over an eighth of it, without a tenth of
/// the rise being made good: a higher rate or harder data raise a loss that then falls again. So a fault is told about one and
/// a half windows after it began.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SlowFaults {
    /// Committed steps of a window, at least 8. A mean over n steps is the exponential one of that span: the newest value has
    /// the weight 2 / (n + 1).
    pub window: u32,
    /// Committed steps, at least 1, whose losses and norms are what later ones are compared with.
    pub warm_up: u32,
    /// The share of the gain, more than 0, that a loss which climbed or climbs must have lost; `None` for no limit.
    pub divergence: Option<f32>,
    /// The same of a loss that jumped, and stays; `None` for no limit.
    pub plateau: Option<f32>,
    /// A gradient norm that is below this part, more than 0 and less than 1, of its geometric mean over the first `warm_up`
    /// steps for a whole window, while the mean loss is less than `level` / 10 below `first`, or a norm of exactly 0 while it
    /// is not within `level` / 10 of 0; `None` for no limit.
    pub vanishing: Option<f32>,
}

impl Default for SlowFaults {
    fn default() -> Self {
        Self { window: 200, warm_up: 20, divergence: Some(0.5), plateau: Some(0.5), vanishing: Some(1e-4) }
    }
}

impl SlowFaults {
    /// No slow fault is looked for.
    #[must_use]
    pub fn off() -> Self {
        Self { divergence: None, plateau: None, vanishing: None, ..Self::default() }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn check(&self) -> Result<()> {
        let above_zero = |share: Option<f32>| share.is_none_or(|share| share > 0.0 && share.is_finite());
        let rules = [
            (self.window >= 8, "window", "at least 8"),
            (self.warm_up >= 1, "warm_up", "at least 1"),
            (above_zero(self.divergence), "divergence", "finite and more than 0"),
            (above_zero(self.plateau), "plateau", "finite and more than 0"),
            (self.vanishing.is_none_or(|part| part > 0.0 && part < 1.0), "vanishing", "more than 0 and less than 1"),
        ];
        let broken = rules.into_iter().find(|rule| !rule.0);
        broken.map_or(Ok(()), |(_, field, rule)| Err(Error::Setting { field, rule }))
    }
}

/// A fault that no single step shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Slow {
    /// The loss climbed far above its best, and climbs on or stays.
    Divergence,
    /// The loss jumped far above its best, and stays.
    Plateau,
    /// Gradients are next to nothing, although little has been learned.
    Vanishing,
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Divergence => "the loss diverges",
            Self::Plateau => "the loss stays where it jumped to",
            Self::Vanishing => "the gradients have vanished",
        })
    }
}

/// Looks for slow faults: pure, a function of the records it was fed, with constant memory and work per step.
///
/// It is a part of a run's state, with its settings: a restore brings back what it knew then.
///
/// ```
/// use everstep_fault::{Slow, SlowFaults, Trend};
///
/// let mut trend = Trend::new(SlowFaults::default());
/// let healthy = (0..1000).map(|step| 2.3 * (-0.01 * step as f32).exp());
/// assert!(healthy.into_iter().all(|loss| trend.take(loss, loss).is_none()));
/// let thrown_back: Vec<_> = (0..400).filter_map(|_| trend.take(2.3, 1.0)).collect();
/// assert_eq!(thrown_back, [Slow::Plateau]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trend {
    settings: SlowFaults,
    // Records so far.
    steps: u64,
    // Mean and mean magnitude of the first losses.
    first: f32,
    level: f32,
    // Mean logarithm of the first norms that are not 0, and how many they are.
    log_norm: f32,
    norms: u32,
    // Means of the loss over an eighth of a window and over a window; its mean distance from the latter; the latter's lowest.
    fast: f32,
    mean: f32,
    spread: f32,
    best: f32,
    // The last step at which the fast mean was near the best.
    calm: u64,
    // Steps from there to the one at which it was far above.
    climb: Option<u64>,
    // Since when the mean is far above.
    raised: Option<Raised>,
    // Steps in a row with next to no gradient.
    vanished: u32,
    // Steps until there may be another report.
    rest: u32,
}

/// A loss that may or may not come down again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raised {
    since: u64,
    // The fast mean then.
    height: f32,
}

/// Losses are taken as no larger than this, so that no sum of a few overflows.
const LARGEST: f32 = 1e37;
/// No loss moves the means further than one that lies this many gains away.
const FARTHEST: f32 = 16.0;

impl Trend {
    /// Before the first step.
    pub fn new(settings: SlowFaults) -> Self {
        Self {
            settings,
            steps: 0,
            first: 0.0,
            level: 0.0,
            log_norm: 0.0,
            norms: 0,
            fast: 0.0,
            mean: 0.0,
            spread: 0.0,
            best: LARGEST,
            calm: 0,
            climb: None,
            raised: None,
            vanished: 0,
            rest: 0,
        }
    }

    /// The settings.
    pub fn settings(&self) -> &SlowFaults {
        &self.settings
    }

    /// Takes in the loss and the gradient norm of a committed step, and says whether a fault is certain now. It is told
    /// again after every further window in which it lasts. What is not finite is passed over.
    pub fn take(&mut self, loss: f32, norm: f32) -> Option<Slow> {
        if !(loss.is_finite() && norm.is_finite()) {
            return None;
        }
        self.steps += 1;
        self.rest = self.rest.saturating_sub(1);
        self.take_loss(loss.clamp(-LARGEST, LARGEST));
        self.take_norm(norm);
        if self.warms_up() {
            return None;
        }
        self.best = self.best.min(self.mean);
        let raised = self.raised();
        // A dead model has a high loss too.
        let fault = self.vanishing(norm).or(raised).filter(|_| self.rest == 0);
        if fault.is_some() {
            self.answered();
        }
        fault
    }

    /// Begins a window in which nothing is reported, so that the answer to a fault can show its effect: for after a restore,
    /// since the trend that it brings back knows of no report.
    pub fn answered(&mut self) {
        let Self { steps, fast, .. } = *self;
        self.rest = self.settings.window;
        self.raised = self.raised.map(|_| Raised { since: steps, height: fast });
    }

    fn warms_up(&self) -> bool {
        self.steps <= u64::from(self.settings.warm_up)
    }

    /// What has been learned; at least a quarter of the level, so that a model which has learned nothing may vary.
    fn gain(&self) -> f32 {
        (self.first - self.best).max(self.level / 4.0)
    }

    fn take_loss(&mut self, loss: f32) {
        let SlowFaults { window, .. } = self.settings;
        let loss = if self.warms_up() {
            let weight = 1.0 / self.steps as f32;
            self.first += weight * (loss - self.first);
            self.level += weight * (loss.abs() - self.level);
            loss
        } else {
            let farthest = FARTHEST * self.gain();
            loss.clamp(self.mean - farthest, self.mean + farthest)
        };
        let (slow, fast) = (weight(window, self.steps), weight(window / 8, self.steps));
        self.mean += slow * (loss - self.mean);
        self.spread += slow * ((loss - self.mean).abs() - self.spread);
        self.fast += fast * (loss - self.fast);
    }

    fn take_norm(&mut self, norm: f32) {
        if norm > 0.0 && self.warms_up() {
            self.norms += 1;
            self.log_norm += (log_norm(norm) - self.log_norm) / self.norms as f32;
        }
        let least = self.settings.vanishing.filter(|_| self.norms > 0 && !self.warms_up());
        let small = least.is_some_and(|part| log_norm(norm) - self.log_norm < log_norm(part));
        self.vanished = if norm == 0.0 || small { self.vanished.saturating_add(1) } else { 0 };
    }

    /// How far above the best is far.
    fn far(&self, share: f32) -> f32 {
        share * self.gain() + self.spread / 2.0
    }

    /// A loss that was raised a window ago, and has not come down since.
    fn raised(&mut self) -> Option<Slow> {
        let SlowFaults { window, divergence, plateau, .. } = self.settings;
        let share = [divergence, plateau].into_iter().flatten().reduce(f32::min)?;
        let (far, fast, mean) = (self.far(share), self.fast - self.best, self.mean - self.best);
        if fast <= far / 2.0 {
            (self.calm, self.climb, self.raised) = (self.steps, None, None);
            return None;
        }
        if mean <= far {
            self.raised = None;
        }
        self.climb = self.climb.or((fast > far).then_some(self.steps - self.calm));
        let climb = self.climb.filter(|_| fast.min(mean) > far)?;
        let now = Raised { since: self.steps, height: self.fast };
        let Raised { since, height } = *self.raised.get_or_insert(now);
        if self.steps - since < u64::from(window) {
            return None;
        }
        self.raised = Some(now);
        let (change, little) = (self.fast - height, 0.1 * (height - self.best));
        // Of noise the fast mean has some of its own.
        let jumped = change <= little + self.spread / 2.0 && climb <= u64::from(window / 4);
        let (fault, share) = if jumped { (Slow::Plateau, plateau) } else { (Slow::Divergence, divergence) };
        let certain = change >= -little && share.is_some_and(|share| fast.min(mean) > self.far(share));
        certain.then_some(fault)
    }

    fn vanishing(&self, norm: f32) -> Option<Slow> {
        self.settings.vanishing?;
        let little = self.level / 10.0;
        // With no gradient at all nothing will ever change, unless there is nothing left to learn.
        let open = if norm == 0.0 { self.mean.abs() > little } else { self.first - self.mean < little };
        (open && self.vanished >= self.settings.window).then_some(Slow::Vanishing)
    }
}

/// The weight of a new value in the mean over `span` steps, of which so far there are `steps`.
fn weight(span: u32, steps: u64) -> f32 {
    // Of the first few steps it is the plain mean.
    (2.0 / (span as f32 + 1.0)).max(1.0 / steps as f32).min(1.0)
}
