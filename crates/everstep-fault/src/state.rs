//! What a guarded run depends on, part by part: what a rewind brings back, and what it does not.

use std::collections::BTreeSet;

use everstep_data::Cursor;
use everstep_optim::Optimizer;
use everstep_tensor::{Result, State, Visit};

use crate::{Batches, Place, Tally, Trend};

/// Where the guard is in the order of batches.
#[derive(Default)]
pub(crate) struct Progress {
    /// Batches pulled.
    pub(crate) pulled: u64,
    /// The step that comes next, as of the copy: for whoever looks at a checkpoint.
    pub(crate) next: Option<Place>,
}

impl State for Progress {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        visit.value("pulled", &mut self.pulled)?;
        visit.value("next", &mut self.next)
    }
}

/// What the records of the committed steps have told. They come late, so a copy is amended when those of its steps are in.
pub(crate) struct Seen {
    pub(crate) trend: Trend,
    /// The largest learning rate of a committed step.
    pub(crate) highest_rate: f64,
    /// Of the last committed step.
    pub(crate) loss: Option<f32>,
    pub(crate) norm: Option<f32>,
    /// Its place: a batch to try a state on.
    pub(crate) last_healthy: Option<Place>,
}

impl Seen {
    pub(crate) fn new(trend: Trend) -> Self {
        Self { trend, highest_rate: 0.0, loss: None, norm: None, last_healthy: None }
    }
}

impl State for Seen {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        visit.value("trend", &mut self.trend)?;
        visit.value("highest_rate", &mut self.highest_rate)?;
        visit.value("loss", &mut self.loss)?;
        visit.value("norm", &mut self.norm)?;
        visit.value("last_healthy", &mut self.last_healthy)
    }
}

/// What a rewind does not take back, and a process that goes on with a checkpoint has to know.
pub(crate) struct Memory {
    /// Batches and samples that are left out, whenever they come.
    pub(crate) skipped: Vec<Cursor>,
    pub(crate) quarantined: BTreeSet<u64>,
    /// What was done in the run.
    pub(crate) run: Tally,
    /// Product of all lowerings.
    pub(crate) factor: f64,
    /// Epochs whose end was told.
    pub(crate) ended: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self { skipped: Vec::new(), quarantined: BTreeSet::new(), run: Tally::default(), factor: 1.0, ended: 0 }
    }
}

impl State for Memory {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        visit.value("skipped", &mut self.skipped)?;
        visit.value("quarantined", &mut self.quarantined)?;
        visit.value("run", &mut self.run)?;
        visit.value("factor", &mut self.factor)?;
        visit.value("ended", &mut self.ended)
    }
}

/// Everything that the next step depends on.
pub(crate) struct Whole<'a, B> {
    pub(crate) optimizer: &'a mut Optimizer,
    pub(crate) progress: &'a mut Progress,
    pub(crate) seen: &'a mut Seen,
    pub(crate) batches: &'a mut B,
    /// For a copy, and where another process goes on; `None` for a rewind.
    pub(crate) memory: Option<&'a mut Memory>,
}

impl<B: Batches> State for Whole<'_, B> {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        visit.within("optimizer", self.optimizer)?;
        visit.within("progress", self.progress)?;
        visit.within("seen", self.seen)?;
        visit.within("batches", self.batches)?;
        if let Some(memory) = self.memory.as_deref_mut() {
            visit.within("memory", memory)?;
            visit.within("adjustments", &mut self.optimizer.adjustments())?;
            visit.within("settings", &mut self.optimizer.settings())?;
        }
        Ok(())
    }
}
