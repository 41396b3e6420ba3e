//! The learning rate of each step: the schedule's, and what has been done to it.

use crate::{LearningRate, Rule};

/// Each group has its rule's own rate.
struct Base;

impl LearningRate for Base {
    fn rate(&self, _: u64, base: f64) -> f64 {
        base
    }
}

/// States that began anew, and the factor on the rate since then.
#[derive(Clone, Copy, Debug)]
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
        Self { schedule: Box::new(Base), reductions: Vec::new(), anew: None, disturbance: 1.0, limit: None }
    }
}

impl Rates {
    /// The rate of `rule`'s group for the step that follows `committed` committed ones.
    pub(crate) fn of(&self, rule: &dyn Rule, committed: u64) -> f64 {
        let anew = self.anew.map_or(1.0, |anew| anew.scale(committed));
        let reduction = self.reductions.iter().rev().find(|(from, _)| *from <= committed);
        let reduction = reduction.map_or(1.0, |reduction| reduction.1);
        let planned = anew * reduction * self.schedule.rate(committed, rule.learning_rate());
        let rate = self.disturbance * planned;
        self.limit.map_or(rate, |limit| rate.min(limit))
    }

    /// Forgets the reductions that others have taken the place of, for every step after `committed` ones.
    pub(crate) fn trim(&mut self, committed: u64) {
        let past = self.reductions.iter().filter(|(from, _)| *from <= committed).count();
        self.reductions.drain(..past.saturating_sub(1));
    }
}
