//! The learning rate of each step: the schedule's, and what has been done to it.

use everstep_tensor::{State, Visit};
use serde::{Deserialize, Serialize};

use crate::{LearningRate, Plateau, Rule};

/// Each group has its rule's own rate.
struct Base;

impl LearningRate for Base {
    fn rate(&self, _: u64, base: f64) -> f64 {
        base
    }
}

/// States that began anew, and the factor on the rate since then.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Anew {
    pub(crate) factor: f64,
    // The committed step from which it rises, and over how many.
    pub(crate) from: u64,
    pub(crate) warm_up: u64,
}

impl Anew {
    fn scale(self, committed: u64) -> f64 {
        let risen = (committed.saturating_sub(self.from) + 1) as f64 / self.warm_up.max(1) as f64;
        self.factor * risen.min(1.0)
    }
}

/// All that a learning rate is made of.
pub(crate) struct Rates {
    pub(crate) schedule: Box<dyn LearningRate>,
    // In place of the schedule: as data, so that a checkpoint has it.
    pub(crate) constant: Option<f64>,
    // Factors, each with the committed step that it begins at, in order.
    pub(crate) reductions: Vec<(u64, f64)>,
    pub(crate) anew: Option<Anew>,
    // A planned fault's factor.
    pub(crate) disturbance: f64,
    // No rate is higher.
    pub(crate) limit: Option<f64>,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            schedule: Box::new(Base),
            constant: None,
            reductions: Vec::new(),
            anew: None,
            disturbance: 1.0,
            limit: None,
        }
    }
}

/// What was done to the learning rate because of faults, and no rewind takes back: the limit of
/// [`crate::Optimizer::limit_rate`] and the factor of [`crate::Optimizer::begin_anew`]. It outlives the process with a
/// checkpoint.
pub struct Adjustments<'a> {
    pub(crate) rates: &'a mut Rates,
    pub(crate) changed: &'a mut bool,
}

impl State for Adjustments<'_> {
    fn visit(&mut self, visit: &mut Visit<'_>) -> everstep_tensor::Result<()> {
        visit.value("limit", &mut self.rates.limit)?;
        visit.value("anew", &mut self.rates.anew)?;
        *self.changed |= visit.is_restore();
        Ok(())
    }
}

/// What the program has set while the run goes on: [`crate::Optimizer::set_learning_rate`], and what
/// [`crate::Optimizer::observe`] has made of its metrics. It outlives the process with a checkpoint.
pub struct Settings<'a> {
    pub(crate) rates: &'a mut Rates,
    pub(crate) plateau: &'a mut Option<Plateau>,
    pub(crate) changed: &'a mut bool,
}

impl State for Settings<'_> {
    fn visit(&mut self, visit: &mut Visit<'_>) -> everstep_tensor::Result<()> {
        visit.value("constant", &mut self.rates.constant)?;
        visit.value("reductions", &mut self.rates.reductions)?;
        visit.value("plateau", self.plateau)?;
        *self.changed |= visit.is_restore();
        Ok(())
    }
}

impl Rates {
    /// The rate of `rule`'s group for the step that follows `committed` committed ones.
    pub(crate) fn of(&self, rule: &dyn Rule, committed: u64) -> f64 {
        let anew = self.anew.map_or(1.0, |anew| anew.scale(committed));
        let reduction = self.reductions.iter().rev().find(|(from, _)| *from <= committed);
        let reduction = reduction.map_or(1.0, |reduction| reduction.1);
        let scheduled = || self.schedule.rate(committed, rule.learning_rate());
        let planned = anew * reduction * self.constant.unwrap_or_else(scheduled);
        let rate = self.disturbance * planned;
        self.limit.map_or(rate, |limit| rate.min(limit))
    }

    /// Forgets the reductions that others have taken the place of, for every step after `committed` ones.
    pub(crate) fn trim(&mut self, committed: u64) {
        let past = self.reductions.iter().filter(|(from, _)| *from <= committed).count();
        self.reductions.drain(..past.saturating_sub(1));
    }
}
