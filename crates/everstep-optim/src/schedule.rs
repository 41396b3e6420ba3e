//! Learning rates as functions of the number of committed steps.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::check;

/// What gives each step its learning rate: a [`Schedule`], or a closure from the number of committed steps to the rate of
/// every group.
pub trait LearningRate: Send + Sync + 'static {
    /// The rate of the step that follows `committed` committed ones, in a group whose rule has the rate `base`.
    fn rate(&self, committed: u64, base: f64) -> f64;
}

impl<F: Fn(u64) -> f64 + Send + Sync + 'static> LearningRate for F {
    fn rate(&self, committed: u64, _: f64) -> f64 {
        self(committed)
    }
}

/// A learning-rate schedule: a factor on the rate that a rule begins with, from the number n of committed steps.
///
/// It has no state: a refused step that runs again has the rate that it had, and a resumed run goes on where it was. As a
/// setting in a file it is `{"type": "cosine", "steps": 1000, "min_factor": 0.1}`.
///
/// ```
/// use everstep_optim::Schedule;
///
/// let schedule = Schedule::warm_up(100).then(100, Schedule::cosine(900, 0.1));
/// assert_eq!(schedule.factor(50), 0.5);
/// assert_eq!(schedule.factor(100), 1.0);
/// assert!((schedule.factor(550) - 0.55).abs() < 1e-12);
/// assert_eq!(schedule.factor(5000), 0.1);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Schedule {
    /// One factor.
    Constant {
        /// The factor.
        #[serde(default = "one")]
        factor: f64,
    },
    /// gamma^(n / every), rounded down (PyTorch's `StepLR`); 1 where `every` is 0.
    Step {
        /// Steps between two drops.
        every: u64,
        /// What each multiplies the factor by.
        gamma: f64,
    },
    /// gamma^n (PyTorch's `ExponentialLR`).
    Exponential {
        /// What each step multiplies the factor by.
        gamma: f64,
    },
    /// From 1 to `min_factor` along half a cosine (Loshchilov and Hutter, 2017; PyTorch's `CosineAnnealingLR` with an
    /// `eta_min` of `min_factor` times the rate): m + (1 - m) (1 + cos(pi n / steps)) / 2; m afterwards.
    Cosine {
        /// Its length.
        steps: u64,
        /// Where it ends.
        #[serde(default)]
        min_factor: f64,
    },
    /// From `start` to `end` along a line (PyTorch's `LinearLR`); `end` afterwards.
    Linear {
        /// Its length.
        steps: u64,
        /// The factor at 0.
        #[serde(default)]
        start: f64,
        /// The factor at `steps`.
        #[serde(default = "one")]
        end: f64,
    },
    /// Up along half a cosine and down along another (Smith and Topin, 2018; PyTorch's `OneCycleLR`, whose `max_lr` is
    /// here the rule's own rate): from 1 / `div_factor` to 1 at step `warm_up` steps - 1, then down to
    /// 1 / (`div_factor` `final_div_factor`) at the last step; that afterwards.
    OneCycle {
        /// Its length.
        steps: u64,
        /// The share of it that goes up.
        #[serde(default = "default_warm_up")]
        warm_up: f64,
        /// The highest rate over the first.
        #[serde(default = "default_div_factor")]
        div_factor: f64,
        /// The first rate over the last.
        #[serde(default = "default_final_div_factor")]
        final_div_factor: f64,
    },
    /// One schedule until a step, then the next, which counts from there (PyTorch's `SequentialLR`).
    Sequence {
        /// The schedule before the first of `then`.
        first: Box<Schedule>,
        /// Schedules, each with the step that it begins at, in order.
        then: Vec<(u64, Schedule)>,
    },
}

fn one() -> f64 {
    1.0
}

fn default_warm_up() -> f64 {
    0.3
}

fn default_div_factor() -> f64 {
    25.0
}

fn default_final_div_factor() -> f64 {
    1e4
}

/// From `start` to `end` along half a cosine, `share` of the way.
fn along_cosine(start: f64, end: f64, share: f64) -> f64 {
    end + (start - end) * (1.0 + (PI * share).cos()) / 2.0
}

impl Schedule {
    /// The rule's own rate.
    pub fn constant() -> Self {
        Self::Constant { factor: 1.0 }
    }

    /// Multiplied by `gamma` every so many steps.
    pub fn step(every: u64, gamma: f64) -> Self {
        Self::Step { every, gamma }
    }

    /// Multiplied by `gamma` at each step.
    pub fn exponential(gamma: f64) -> Self {
        Self::Exponential { gamma }
    }

    /// Down to `min_factor` of the rate in `steps` steps, along half a cosine.
    pub fn cosine(steps: u64, min_factor: f64) -> Self {
        Self::Cosine { steps, min_factor }
    }

    /// From `start` times the rate to `end` times the rate in `steps` steps.
    pub fn linear(steps: u64, start: f64, end: f64) -> Self {
        Self::Linear { steps, start, end }
    }

    /// From 0 up to the rate in `steps` steps: step 0 has the rate 0.
    pub fn warm_up(steps: u64) -> Self {
        Self::linear(steps, 0.0, 1.0)
    }

    /// Up to the rate and down again, with PyTorch's shares.
    pub fn one_cycle(steps: u64) -> Self {
        let (div_factor, final_div_factor) = (default_div_factor(), default_final_div_factor());
        Self::OneCycle { steps, warm_up: default_warm_up(), div_factor, final_div_factor }
    }

    /// This schedule until step `at`, then `next`, which counts from there.
    #[must_use]
    pub fn then(self, at: u64, next: Schedule) -> Self {
        match self {
            Self::Sequence { first, mut then } => {
                then.push((at, next));
                Self::Sequence { first, then }
            }
            first => Self::Sequence { first: Box::new(first), then: vec![(at, next)] },
        }
    }

    /// The factor on the rate for the step that follows `committed` committed ones.
    pub fn factor(&self, committed: u64) -> f64 {
        // How far along `steps` it is, 1 at and past the end.
        let share = |steps: u64| if committed >= steps { 1.0 } else { committed as f64 / steps as f64 };
        match self {
            Self::Constant { factor } => *factor,
            Self::Step { every, gamma } => gamma.powf(committed.checked_div(*every).unwrap_or(0) as f64),
            Self::Exponential { gamma } => gamma.powf(committed as f64),
            Self::Cosine { steps, min_factor } => along_cosine(1.0, *min_factor, share(*steps)),
            Self::Linear { steps, start, end } => start + (end - start) * share(*steps),
            Self::OneCycle { steps, warm_up, div_factor, final_div_factor } => {
                let last = steps.saturating_sub(1) as f64;
                let top = (warm_up * *steps as f64 - 1.0).max(0.0);
                let (at, start) = ((committed as f64).min(last), 1.0 / div_factor);
                match at < top {
                    true => along_cosine(start, 1.0, at / top),
                    false if last > top => along_cosine(1.0, start / final_div_factor, (at - top) / (last - top)),
                    false => 1.0,
                }
            }
            Self::Sequence { first, then } => match then.iter().rev().find(|(at, _)| *at <= committed) {
                Some((at, schedule)) => schedule.factor(committed - at),
                None => first.factor(committed),
            },
        }
    }

    /// Checks what came from a file.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] where a number is not finite or out of range, or a sequence is out of order. A schedule
    /// that is used in spite of that never panics: a step whose rate is not finite is refused.
    pub fn check(&self) -> Result<()> {
        let factor = |field, value: f64| {
            check("Schedule", field, value, value.is_finite() && value >= 0.0, "finite and at least 0")
        };
        let positive = |field, value: f64| {
            check("Schedule", field, value, value.is_finite() && value > 0.0, "finite and more than 0")
        };
        match self {
            Self::Constant { factor: value } => factor("factor", *value),
            Self::Step { every, gamma } => {
                check("Schedule", "every", *every as f64, *every > 0, "at least 1")?;
                factor("gamma", *gamma)
            }
            Self::Exponential { gamma } => factor("gamma", *gamma),
            Self::Cosine { min_factor, .. } => factor("min_factor", *min_factor),
            Self::Linear { start, end, .. } => factor("start", *start).and(factor("end", *end)),
            Self::OneCycle { warm_up, div_factor, final_div_factor, .. } => {
                check("Schedule", "warm_up", *warm_up, (0.0..=1.0).contains(warm_up), "in 0 to 1")?;
                positive("div_factor", *div_factor).and(positive("final_div_factor", *final_div_factor))
            }
            Self::Sequence { first, then } => {
                first.check()?;
                for pair in then.windows(2) {
                    check("Schedule", "then", pair[1].0 as f64, pair[0].0 < pair[1].0, "in the order of its steps")?;
                }
                then.iter().try_for_each(|(_, schedule)| schedule.check())
            }
        }
    }
}

impl LearningRate for Schedule {
    fn rate(&self, committed: u64, base: f64) -> f64 {
        base * self.factor(committed)
    }
}
