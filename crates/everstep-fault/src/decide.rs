//! The decision about a refused step: a pure function of what has happened.

use std::fmt;

use everstep_tensor::{Record, fault};
use serde::Serialize;

use crate::{Answer, Policy};

/// What has been done about an incident, or in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Steps run again from the state before them.
    pub replays: u32,
    /// Batches left out.
    pub skips: u32,
    /// Snapshots restored to run on from.
    pub rewinds: u32,
    /// Times the learning rate was lowered.
    pub lowerings: u32,
}

impl Tally {
    /// How much altogether.
    pub fn actions(&self) -> u64 {
        [self.replays, self.skips, self.rewinds, self.lowerings].into_iter().map(u64::from).sum()
    }

    /// Counts an action.
    pub(crate) fn count(&mut self, action: Action) {
        match action {
            Action::Replay => self.replays += 1,
            Action::Skip => self.skips += 1,
            Action::Rewind { .. } => self.rewinds += 1,
            Action::LowerRate => self.lowerings += 1,
            Action::Ignore | Action::Stop(_) => {}
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { replays, skips, rewinds, lowerings } = self;
        write!(f, "{replays} replays, {skips} batches left out, {rewinds} rewinds, {lowerings} lower rates")
    }
}

/// All that a decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct History {
    /// The record of the refused step.
    pub record: Record,
    /// What this incident has taken so far.
    pub incident: Tally,
    /// What the run has taken so far, this incident included.
    pub run: Tally,
}

/// What to do about a refused step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Go on: the step was refused, and that is all.
    Ignore,
    /// Run the step again from the state before it.
    Replay,
    /// Leave its batch out.
    Skip,
    /// Go back to the newest snapshot, or with `generations` to so many before it, and take back the batches that this
    /// incident left out.
    Rewind {
        /// Snapshots to pass over.
        generations: u32,
    },
    /// Go back to the oldest snapshot, with a lower learning rate and the optimizer's states begun anew.
    LowerRate,
    /// Give up.
    Stop(Budget),
}

/// Which budget ended a recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// The policy stops at the first fault.
    Strict,
    /// The ladder has no further rung.
    Ladder,
    /// The run's actions are used up.
    Actions,
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "it stops at the first fault",
            Self::Ladder => "its budgets for one incident are used up",
            Self::Actions => "its actions for the run are used up",
        })
    }
}

/// The ladder. A replay first: a device's passing fault is gone. Then the batch is left out; then, where the next ones are
/// refused too, the state is suspect, and a rewind takes them back; where that has not helped, it is the data after all, or
/// the learning rate. Each answer is counted, and no count ever falls within an incident, so every incident ends.
pub fn decide(history: &History, policy: &Policy) -> Action {
    let History { record, incident, run } = history;
    match policy.answer {
        Answer::Ignore => return Action::Ignore,
        Answer::Stop => return Action::Stop(Budget::Strict),
        Answer::Recover if run.actions() >= policy.actions => return Action::Stop(Budget::Actions),
        Answer::Recover => {}
    }
    // A rate that stays too high is no matter of batches.
    let rate = record.faults & fault::RATE != 0;
    let skips = if rate { policy.skips.min(2 * policy.skips_before_rewind) } else { policy.skips };
    if incident.replays == 0 {
        Action::Replay
    } else if incident.skips < policy.skips_before_rewind && incident.rewinds == 0 {
        Action::Skip
    } else if incident.rewinds < policy.rewinds.min(1) {
        Action::Rewind { generations: 0 }
    } else if incident.skips < skips && incident.lowerings == 0 {
        Action::Skip
    } else if incident.rewinds < policy.rewinds && !rate {
        Action::Rewind { generations: incident.rewinds }
    } else if incident.lowerings < policy.lowerings {
        Action::LowerRate
    } else {
        Action::Stop(Budget::Ladder)
    }
}
