//! What counts as a fault of a step beside what is not finite.

use serde::{Deserialize, Serialize};

use crate::{Error, Result, fault};

/// Limits of a healthy step. What is not finite (a loss, a gradient, their norm, a running buffer, a result of the update) is
/// a fault whatever they are.
///
/// A score is a distance from a running mean over the last `window` committed steps, in standard deviations as the mean
/// absolute deviation tells them: that of the loss, at least a quarter of its level over the first `warm_up` steps; that of the
/// gradient norm's natural logarithm, at least 0.5. A refused step never enters the mean, and no step moves it further than
/// four standard deviations would.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Detection {
    /// The largest loss; `None` for no limit.
    pub loss_limit: Option<f32>,
    /// The largest score of the loss and, where `norm_ratio` is also exceeded, of the norm; `None` for no limit.
    pub score: Option<f32>,
    /// How many times its typical size a norm may be, with `score` as a second condition; `None` for no limit.
    pub norm_ratio: Option<f32>,
    /// How many times the largest rate of earlier steps a learning rate may be; `None` for no limit.
    pub rate_ratio: Option<f32>,
    /// Committed steps before scores and the norm's ratio count.
    pub warm_up: u32,
    /// Committed steps over which the means run.
    pub window: u32,
    /// Whether parameters and optimizer states are compared with what the last step left in them: a bit that flipped in
    /// memory since then is a fault, and its step a tentative HOLD.
    pub check_state: bool,
    /// Whether what stands out and memory that changed are only told in the step's record, which says COMMIT all the same.
    /// What is not finite is refused in any case.
    pub advise_only: bool,
}

impl Default for Detection {
    /// Certain faults alone: the state is checked, and no size is a fault.
    fn default() -> Self {
        Self {
            loss_limit: None,
            score: None,
            norm_ratio: None,
            rate_ratio: None,
            warm_up: 20,
            window: 100,
            check_state: true,
            advise_only: false,
        }
    }
}

impl Detection {
    /// The default, and steps that stand out: a loss 10 standard deviations above its mean, a norm 100 times its typical
    /// size and as many deviations above, a learning rate 10 times the largest one before.
    pub fn spikes() -> Self {
        Self { score: Some(10.0), norm_ratio: Some(100.0), rate_ratio: Some(10.0), ..Self::default() }
    }

    /// The faults that refuse nothing, as bits.
    pub(crate) fn advisory(&self) -> u32 {
        let sizes = fault::LOSS_LIMIT | fault::LOSS_SPIKE | fault::NORM_SPIKE | fault::RATE | fault::STATE;
        if self.advise_only { sizes } else { 0 }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let argument = |name, value, range| Err(Error::Argument { op: "step", name, value, range });
        let at_most = |limit: Option<f32>, least: f32| limit.is_none_or(|limit| limit >= least);
        match self {
            _ if self.loss_limit.is_some_and(f32::is_nan) => argument("loss_limit", f64::NAN, "a number"),
            _ if !at_most(self.score, 1.0) => argument("score", self.score.unwrap_or(0.0).into(), "1 or more"),
            _ if !at_most(self.norm_ratio, 1.0) => {
                argument("norm_ratio", self.norm_ratio.unwrap_or(0.0).into(), "1 or more")
            }
            _ if !at_most(self.rate_ratio, 1.0) => {
                argument("rate_ratio", self.rate_ratio.unwrap_or(0.0).into(), "1 or more")
            }
            _ if self.warm_up == 0 => argument("warm_up", 0.0, "1 or more"),
            _ if self.window == 0 => argument("window", 0.0, "1 or more"),
            _ => Ok(()),
        }
    }
}
